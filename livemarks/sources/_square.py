"""Pixels that aren't square, as of old television and its discs."""

from __future__ import annotations

from fractions import Fraction


def square_wh(width: int, height: int, pixel_aspect: Fraction) -> tuple[int, int]:
    """The size at which a picture's pixels are square; one axis is stretched, so that no detail is lost."""
    if not Fraction(1, 4) < pixel_aspect < 4:  # 64:33 is the widest in any standard; beyond is a damaged header
        return width, height
    if pixel_aspect > 1:
        return round(width * pixel_aspect), height
    return width, round(height / pixel_aspect)
