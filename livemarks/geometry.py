"""Where a face is cut out of a frame, and how its points get home.

Integer coordinates are pixel centres. So the centre of a crop of width W is (W - 1) / 2, and magnifying by k maps pixel
u to k u + (k - 1) / 2. Live inference and training use the same functions here.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from livemarks.types import F32, U8, Affine, Crop, FaceBox, Scheme

# A crop that shrinks the frame by more than this is read from a frame reduced by area averaging first: bilinear
# sampling looks at 2x2 pixels, and skips pixels from a factor of two on.
_MAX_BILINEAR_SHRINK = 2.0


def crop_affine(box: FaceBox, size_hw: tuple[int, int], margin: float) -> Affine:
    """Crop px -> frame px: upright along the box's roll, same centre, crop height = margin x the box's longer side."""
    height, width = size_hw
    scale = margin * float(box.size_wh.max()) / height
    cos, sin = scale * math.cos(box.roll_rad), scale * math.sin(box.roll_rad)
    cx, cy = box.center_xy.tolist()
    u, v = (width - 1) / 2, (height - 1) / 2
    return Affine(np.array([[cos, -sin, cx - cos * u + sin * v], [sin, cos, cy - sin * u - cos * v]]))


def face_crop(image: U8, box: FaceBox, size_hw: tuple[int, int], margin: float) -> Crop:
    """Cuts `box` out of an (H, W, 3) image as an upright crop of (h, w) px; outside the image is black."""
    to_frame = crop_affine(box, size_hw, margin)
    return Crop(resample(image, to_frame, size_hw), to_frame)


def resample(image: U8, to_image: Affine, size_hw: tuple[int, int]) -> U8:
    """The (h, w) crop whose pixel p shows `image` at to_image(p); bilinear, black outside, averaged when shrinking."""
    height, width = size_hw
    if to_image.scale > _MAX_BILINEAR_SHRINK:
        image, to_image = _reduce(image, to_image, size_hw)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop: Any = cv2.warpAffine(image, to_image.matrix, (width, height), flags=flags, borderMode=cv2.BORDER_CONSTANT)
    return crop  # type: ignore[no-any-return]


def _reduce(image: U8, to_image: Affine, size_hw: tuple[int, int]) -> tuple[U8, Affine]:
    """The part of `image` that the crop sees, halved until bilinear sampling will do, and the map into it."""
    height, width = size_hw
    factor = 2 ** int(math.log2(to_image.scale))  # OpenCV averages 2x2 ten times as fast as 3x3 or 4x4
    corners = to_image(np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64))
    x1, y1 = np.clip(np.floor(corners.min(0)) - factor, 0, None).astype(int).tolist()
    x2, y2 = (np.ceil(corners.max(0)) + factor).astype(int).tolist()
    part = image[y1 : max(y2, y1), x1 : max(x2, x1)]
    rows, columns = part.shape[0] // factor, part.shape[1] // factor
    if rows == 0 or columns == 0:  # the box lies outside the image, or a sliver of it inside
        return image, to_image
    small: Any = part[: rows * factor, : columns * factor]
    while small.shape[0] > rows:
        small = cv2.resize(small, (small.shape[1] // 2, small.shape[0] // 2), interpolation=cv2.INTER_AREA)
    offset = (factor - 1) / 2  # a reduced pixel's centre, in the pixels it averages
    to_small = Affine(np.array([[1, 0, -x1 - offset], [0, 1, -y1 - offset]]) / factor)
    return np.asarray(small, np.uint8), to_image.then(to_small)


def roll_from_points(xy: NDArray[Any], scheme: Scheme) -> float:
    """Angle of the line from the subject's right eye to the left one, in radians; 0 if the scheme has no eyes."""
    if scheme.roll is None:
        return 0.0
    right, left = (xy[list(group)].mean(axis=0) for group in scheme.roll)
    dx, dy = (left - right).tolist()
    return math.atan2(dy, dx)


def box_from_points(xy: NDArray[Any], scheme: Scheme, score: float = 1.0, upright: bool = False) -> FaceBox:
    """The box that (N, 2) points span, padded to the 68-point markup's as the scheme says.

    It is turned with the face's roll, or `upright` (roll 0, along the frame's axes), whose plain tight box JSONL shows.
    Raises ValueError if the scheme's points can't tell a box (`box_pad` is None).
    """
    if scheme.box_pad is None:
        raise ValueError(f"the points of {scheme.name} don't span a face box")
    roll_rad = 0.0 if upright else roll_from_points(xy, scheme)
    cos, sin = math.cos(roll_rad), math.sin(roll_rad)
    turn = np.array([[cos, -sin], [sin, cos]])  # columns: the face's own axes in the frame
    own = xy @ turn  # (N, 2) along the face's axes
    low, high = own.min(axis=0), own.max(axis=0)
    size_wh = np.maximum(high - low, 1e-3)
    left, top, right, bottom = scheme.box_pad
    low, high = low - size_wh * (left, top), high + size_wh * (right, bottom)
    center_xy = turn @ ((low + high) / 2)
    half = (high - low) / 2
    return FaceBox(np.concatenate([center_xy - half, center_xy + half]).astype(np.float32), score, roll_rad)


def mirror_points(xy: NDArray[Any], width: int, scheme: Scheme) -> F32:
    """(N, 2) points as they lie, and are called, after the image of that width is mirrored left to right."""
    mirrored = xy[list(scheme.mirror)].astype(np.float32)
    mirrored[:, 0] = width - 1 - mirrored[:, 0]
    return mirrored


def iou(a_xyxy: NDArray[Any], b_xyxy: NDArray[Any]) -> F32:
    """Intersection over union of every box in (A, 4) with every box in (B, 4): (A, B), roll ignored."""
    low = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])  # (A, B, 2)
    high = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)  # (A, B)
    area_a = (a_xyxy[:, 2:] - a_xyxy[:, :2]).prod(axis=1)
    area_b = (b_xyxy[:, 2:] - b_xyxy[:, :2]).prod(axis=1)
    union = area_a[:, None] + area_b[None, :] - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float32)
