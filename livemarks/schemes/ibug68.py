"""The 68 points of iBUG 300-W (Sagonas et al., 2013), numbered from 0; left and right are the subject's own."""

from livemarks.schemes._edges import path
from livemarks.types import Scheme

_POINTS = (
    *(f"jaw_{i}" for i in range(17)),  # from the right ear over the chin (8) to the left ear
    *(f"right_brow_{i}" for i in range(5)),  # outer to inner
    *(f"left_brow_{i}" for i in range(5)),  # inner to outer
    *(f"nose_bridge_{i}" for i in range(4)),  # down to the tip
    *(f"nostril_{i}" for i in range(5)),  # right to left
    *(f"right_eye_{i}" for i in range(6)),  # outer corner, upper lid, inner corner, lower lid
    *(f"left_eye_{i}" for i in range(6)),  # inner corner, upper lid, outer corner, lower lid
    *(f"outer_lip_{i}" for i in range(12)),  # right corner, upper lip, left corner, lower lip
    *(f"inner_lip_{i}" for i in range(8)),
)

_MIRROR = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31),
    *range(35, 30, -1),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
    *(64, 63, 62, 61, 60, 67, 66, 65),
)

SCHEME = Scheme(
    name="ibug68",
    points=_POINTS,
    mirror=_MIRROR,
    edges=(
        *path(0, 16),
        *path(17, 21),
        *path(22, 26),
        *path(27, 30),
        *path(31, 35),
        *path(36, 41, closed=True),
        *path(42, 47, closed=True),
        *path(48, 59, closed=True),
        *path(60, 67, closed=True),
    ),
    norm=((36,), (45,)),  # outer eye corners, as 300-W's own evaluation
    roll=((36, 37, 38, 39, 40, 41), (42, 43, 44, 45, 46, 47)),
    light=(37, 38, 40, 41, 43, 44, 46, 47, *range(48, 68)),
)
