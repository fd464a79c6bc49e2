"""Where a face is cut out of a frame, and how its points get home.

Integer coordinates are pixel centres. So the centre of a crop of width W is (W - 1) / 2, and magnifying by k maps pixel
u to k u + (k - 1) / 2. Live inference and training use the same functions here.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from livemarks.types import F32, F64, U8, Affine, Crop, FaceBox, Scheme

# A crop that shrinks the frame by more than this is read from a frame reduced by area averaging first: bilinear
# sampling looks at 2x2 pixels, and skips pixels from a factor of two on.
_MAX_BILINEAR_SHRINK = 2.0
# float32 still tells a box's edges apart that are this far from each other, 65,536 px from the corner.
_THINNEST_PX = 0.01


def crop_affine(box: FaceBox, size_hw: tuple[int, int], margin: float) -> Affine:
    """Crop px -> frame px: upright along the box's roll, same centre, crop height = margin x the box's longer side."""
    x1, y1, x2, y2 = box.xyxy.tolist()  # plain numbers: NumPy would take ten times as long for four
    scale = margin * max(x2 - x1, y2 - y1) / size_hw[0]
    return placed(size_hw, ((x1 + x2) / 2, (y1 + y2) / 2), scale, box.roll_rad)


def placed(size_hw: tuple[int, int], center_xy: tuple[float, float], scale: float, roll_rad: float) -> Affine:
    """From an (h, w) picture's px to where they lie if it is scaled, turned, and its centre put at center_xy."""
    u, v = (size_hw[1] - 1) / 2, (size_hw[0] - 1) / 2
    x, y = center_xy
    cos, sin = scale * math.cos(roll_rad), scale * math.sin(roll_rad)
    return Affine(np.array([[cos, -sin, x - cos * u + sin * v], [sin, cos, y - sin * u - cos * v]]))


def face_crop(image: U8, box: FaceBox, size_hw: tuple[int, int], margin: float) -> Crop:
    """Cuts `box` out of an (H, W, 3) image as an upright crop of (h, w) px; outside the image is black."""
    to_frame = crop_affine(box, size_hw, margin)
    return Crop(resample(image, to_frame, size_hw), to_frame)


def resample(image: U8, to_image: Affine, size_hw: tuple[int, int]) -> U8:
    """The (h, w) crop whose pixel p shows `image`, of 3 or 4 channels, at to_image(p).

    Bilinear, averaged when shrinking; black (0 in every channel) outside.
    """
    height, width = size_hw
    part, to_part = _part(image, to_image, size_hw)
    if part.size == 0:
        return np.zeros((height, width, image.shape[2]), np.uint8)
    # OpenCV takes half as long for four channels as for three, and gives the same: 37 us with both conversions, not 55.
    is_bgr = part.shape[2] == 3
    part = cv2.cvtColor(part, cv2.COLOR_BGR2BGRA) if is_bgr else part
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(part, to_part, (width, height), flags=flags, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGRA2BGR) if is_bgr else crop, np.uint8)


def _part(image: U8, to_image: Affine, size_hw: tuple[int, int]) -> tuple[Any, F64]:
    """The part of `image` that the crop sees, halved until bilinear sampling will do, and the (2, 3) map into it."""
    height, width = size_hw
    factor = 1  # OpenCV averages 2x2 ten times as fast as 3x3 or 4x4
    while factor * _MAX_BILINEAR_SHRINK < to_image.scale:
        factor *= 2
    (a, b, x), (c, d, y) = to_image.matrix.tolist()
    x1, x2 = _range(x, a * width, b * height, factor)
    y1, y2 = _range(y, c * width, d * height, factor)
    part: Any = image[y1:y2, x1:x2]
    below, right = -part.shape[0] % factor, -part.shape[1] % factor
    if part.size and (below or right):  # the image ends here: its last ones are averaged with the black outside
        part = cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_CONSTANT)
    rows = part.shape[0] // factor
    while part.shape[0] > rows and part.size:
        part = cv2.resize(part, (part.shape[1] // 2, part.shape[0] // 2), interpolation=cv2.INTER_AREA)
    middle = (factor - 1) / 2  # a reduced pixel's centre, in the pixels it averages
    return part, np.array([[a, b, x - x1 - middle], [c, d, y - y1 - middle]]) / factor


def _range(start: float, along: float, across: float, step: int) -> tuple[int, int]:
    """From and up to which column a crop reaches that starts there, with sides that go so far, in whole steps.

    They begin a step before and end a step behind it: its last pixels lie between two reduced ones as well.
    """
    low, high = start + min(0, along) + min(0, across), start + max(0, along) + max(0, across)
    first = max(0, math.floor(low) - step)
    return first, first + step * max(0, math.ceil((high - first) / step) + 1)


def roll_from_points(xy: NDArray[Any], scheme: Scheme) -> float:
    """Angle of the line from the subject's right eye to the left one, in radians; 0 if the scheme has no eyes."""
    if scheme.roll is None:
        return 0.0
    dx, dy = (_eye_line(scheme) @ xy).tolist()
    return math.atan2(dy, dx)


@cache
def _eye_line(scheme: Scheme) -> F64:
    """(N,) weights whose product with the points is the mean of the left eye's less that of the right eye's."""
    assert scheme.roll is not None
    right, left = (list(group) for group in scheme.roll)
    weights = np.zeros(len(scheme))
    np.add.at(weights, left, 1 / len(left))
    np.subtract.at(weights, right, 1 / len(right))
    return weights


def box_from_points(xy: NDArray[Any], scheme: Scheme, score: float = 1.0, upright: bool = False) -> FaceBox:
    """The box that (N, 2) points span, padded to the 68-point markup's as the scheme says.

    It is turned with the face's roll, or `upright` (roll 0, along the frame's axes), whose plain tight box JSONL shows.
    Points on a line span a box 0.01 px thin.
    Raises ValueError if the scheme's points can't tell a box (`box_pad` is None).
    """
    if scheme.box_pad is None:
        raise ValueError(f"the points of {scheme.name} don't span a face box")
    roll_rad = 0.0 if upright else roll_from_points(xy, scheme)
    cos, sin = math.cos(roll_rad), math.sin(roll_rad)
    own = np.array([[cos, sin], [-sin, cos]]) @ xy.T  # (2, N) along the face's own axes
    (x1, y1), (x2, y2) = own.min(axis=1).tolist(), own.max(axis=1).tolist()
    wide, high = max(x2 - x1, _THINNEST_PX), max(y2 - y1, _THINNEST_PX)
    left, top, right, bottom = scheme.box_pad
    x1, y1, x2, y2 = x1 - left * wide, y1 - top * high, x1 + (1 + right) * wide, y1 + (1 + bottom) * high
    x, y, half_w, half_h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2
    cx, cy = cos * x - sin * y, sin * x + cos * y
    return FaceBox(np.array([cx - half_w, cy - half_h, cx + half_w, cy + half_h], np.float32), score, roll_rad)


def iou(a_xyxy: NDArray[Any], b_xyxy: NDArray[Any]) -> F32:
    """Intersection over union of every box in (A, 4) with every box in (B, 4): (A, B), roll ignored."""
    low = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])  # (A, B, 2)
    high = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)  # (A, B)
    area_a = (a_xyxy[:, 2:] - a_xyxy[:, :2]).prod(axis=1)
    area_b = (b_xyxy[:, 2:] - b_xyxy[:, :2]).prod(axis=1)
    union = area_a[:, None] + area_b[None, :] - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float32)
