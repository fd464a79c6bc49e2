"""Pixels that aren't square, as of old television and its discs, and pictures of another shape than the first."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np

from livemarks.types import U8

# Shapes that differ by no more are meant to be the same: encoders round sizes to 16 pixels, and television cuts 720 of
# them to 704.
_SAME = Fraction(3, 100)


def square_wh(width: int, height: int, pixel_aspect: Fraction) -> tuple[int, int]:
    """The size at which a picture's pixels are square; one axis is stretched, so that no detail is lost."""
    if not Fraction(1, 4) < pixel_aspect < 4:  # 64:33 is the widest in any standard; beyond is a damaged header
        return width, height
    if pixel_aspect > 1:
        return round(width * pixel_aspect), height
    return width, round(height / pixel_aspect)


def fitted_wh(size_wh: tuple[int, int], into_wh: tuple[int, int]) -> tuple[int, int]:
    """The largest size within `into_wh` that keeps a picture's shape; all of it, if that is nearly the same."""
    width, height = into_wh
    shape = Fraction(size_wh[0] * height, size_wh[1] * width)
    if abs(shape - 1) <= _SAME:
        return into_wh
    return (width, max(1, round(height / shape))) if shape > 1 else (max(1, round(width * shape)), height)


def centred(image: U8, size_wh: tuple[int, int]) -> U8:
    """(H, W, 3): an image that is no larger, with black around it."""
    right, below = size_wh[0] - image.shape[1], size_wh[1] - image.shape[0]
    edges = (below // 2, below - below // 2, right // 2, right - right // 2)
    return np.asarray(cv2.copyMakeBorder(image, *edges, cv2.BORDER_CONSTANT), np.uint8) if any(edges) else image
