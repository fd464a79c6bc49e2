"""The 58 points of the IMM face database (Nordstroem et al., 2004), in the order of its .asf files.

"Right" and "left" are the subject's own. Mirror pairs were found by matching the mean frontal shape with its mirror
image; they are the only one-to-one matching within 6 px of 640x480.
"""

from livemarks.schemes._edges import path
from livemarks.types import Scheme

_POINTS = (
    *(f"jaw_{i}" for i in range(13)),  # from the right cheek over the chin (6) to the left cheek
    *(f"left_eye_{i}" for i in range(8)),  # outer corner, upper lid, inner corner, lower lid
    *(f"right_eye_{i}" for i in range(8)),
    *(f"left_brow_{i}" for i in range(5)),  # inner to outer
    *(f"right_brow_{i}" for i in range(5)),
    *(f"lip_{i}" for i in range(8)),  # right corner, upper lip, left corner, lower lip
    *(f"nose_{i}" for i in range(11)),  # down the right side, tip (52, the fifth after the first), up the left
)

SCHEME = Scheme(
    name="imm58",
    points=_POINTS,
    mirror=(
        *range(12, -1, -1),
        *range(21, 29),
        *range(13, 21),
        *range(34, 39),
        *range(29, 34),
        *(43, 42, 41, 40, 39, 46, 45, 44),
        *range(57, 46, -1),
    ),
    edges=(
        *path(0, 12),
        *path(13, 20, closed=True),
        *path(21, 28, closed=True),
        *path(29, 33),
        *path(34, 38),
        *path(39, 46, closed=True),
        *path(47, 57),
    ),
    norm=((21,), (13,)),  # outer eye corners
    roll=(tuple(range(21, 29)), tuple(range(13, 21))),
    # Brows to chin and cheek to cheek, as the 68 points: the two tight boxes are taken as the same.
    box_pad=(0.0, 0.0, 0.0, 0.0),
    light=(*range(13, 29), *range(39, 47)),
)
