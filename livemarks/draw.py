"""Draws results on frames: thin edges, round points that fade where the net is unsure, and a small tag with the id.

Nothing is rounded to whole pixels: OpenCV draws on a grid of 1/16 px. Sizes follow the face, so that a face looks the
same in a 360p clip and in 4K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from livemarks.types import F32, U8, FaceTrack, Result

Color = tuple[int, int, int]  # BGR

_SHIFT = 4  # OpenCV's fixed point: coordinates in 1/16 px
_FONT = cv2.FONT_HERSHEY_SIMPLEX  # its digits are 21 px high at scale 1
_FONT_PX = 21
# OpenCV's antialiased discs reach further than their radius by this; one of radius 1 comes out as a plus sign, and one
# of half a pixel as a soft point.
_BLEED_PX, _MIN_RADIUS_PX = 0.3, 0.5


@dataclass(frozen=True, slots=True)
class Style:
    """How faces are drawn. colors: of a face's edges, by its id in turn; point: of its points; all BGR.

    dot, line: a point's radius and an edge's width, in fractions of the diagonal of the face's points.
    edges, points, ids: what to draw. mirrored: ids are written so that they read well in a mirror. sure, lost: where
    fading begins and ends, as sigma in fractions of that diagonal.
    """

    colors: tuple[Color, ...] = ((214, 190, 38), (70, 160, 250), (120, 210, 110), (214, 120, 235), (100, 105, 245))
    point: Color = (255, 255, 255)
    dot: float = 0.0065
    line: float = 0.0032
    edges: bool = True
    points: bool = True
    ids: bool = True
    mirrored: bool = False
    sure: float = 0.02
    lost: float = 0.1


DEFAULT = Style()


def overlay(result: Result, style: Style = DEFAULT) -> U8:
    """A copy of the result's frame, (H, W, 3) uint8 BGR, with its faces drawn on it."""
    image = result.frame.image.copy()
    for face in result.faces:
        _draw_face(image, face, style)
    return image


def hud(image: U8, lines: Sequence[str]) -> U8:
    """A copy of an (H, W, 3) image with lines of text on a darkened panel in its top left corner."""
    image = image.copy()
    height = image.shape[0]
    scale = max(0.4, height / 1080 * 0.8)  # 13 px digits at 720p, and still legible at 240p
    pitch = round(_FONT_PX * scale * 1.75)
    width = max((_text_width(line, scale) for line in lines), default=0)
    panel = image[: pitch * len(lines) + pitch // 2, : width + pitch]
    np.multiply(panel, 0.45, out=panel, casting="unsafe")
    for i, line in enumerate(lines):
        origin = (pitch // 2, round(pitch * (i + 1)))
        cv2.putText(image, line, origin, _FONT, scale, (255, 255, 255), max(1, round(scale * 1.4)), cv2.LINE_AA)
    return image


def _draw_face(image: U8, face: FaceTrack, style: Style) -> None:
    xy = face.landmarks.xy
    low, high = xy.min(axis=0), xy.max(axis=0)
    # A lone point, or points that fell together, span nothing: the face's box has to tell its size.
    size = math.dist(low.tolist(), high.tolist()) or float(np.hypot(*face.box.size_wh))
    opacity = np.clip((style.lost - face.landmarks.sigma / size) / (style.lost - style.sure), 0.15, 1.0)
    color = style.colors[(face.id - 1) % len(style.colors)]
    fixed = np.rint(xy * (1 << _SHIFT)).astype(int)  # (N, 2)
    if style.edges and face.landmarks.scheme.edges:
        pairs = np.array(face.landmarks.scheme.edges)  # (E, 2)
        colors = _see_through(image, xy[pairs].mean(axis=1), color, opacity[pairs].min(axis=1) * 0.9)
        width = max(1, round(style.line * size))
        for (a, b), faded in zip(fixed[pairs].tolist(), colors, strict=True):
            cv2.line(image, a, b, faded, width, cv2.LINE_AA, _SHIFT)
    if style.points:
        radius = round(max(_MIN_RADIUS_PX, style.dot * size - _BLEED_PX) * (1 << _SHIFT))
        for center, faded in zip(fixed.tolist(), _see_through(image, xy, style.point, opacity), strict=True):
            cv2.circle(image, center, radius, faded, cv2.FILLED, cv2.LINE_AA, _SHIFT)
    if style.ids:
        _draw_tag(image, str(face.id), low, size, color, style.mirrored)


def _see_through(image: U8, xy: F32, color: Color, opacity: NDArray[Any]) -> list[list[float]]:
    """A colour for each of (N, 2) places: `color` mixed, as opacity (N,) says, with the pixel that lies there.

    Marks are small, so one pixel stands for all that they cover: real blending would cost more than all the drawing.
    """
    height, width = image.shape[:2]
    x = np.clip(np.rint(xy[:, 0]), 0, width - 1).astype(int)
    y = np.clip(np.rint(xy[:, 1]), 0, height - 1).astype(int)
    weight = opacity[:, None]
    mixed: list[list[float]] = (weight * np.array(color) + (1 - weight) * image[y, x]).tolist()
    return mixed


def _draw_tag(image: U8, text: str, low: F32, size: float, color: Color, mirrored: bool) -> None:
    """The id in a small plate just above the face's top left point."""
    # A face that fills a 720p frame gets 25 px digits; in steps, so that widths are remembered.
    scale = round(float(np.clip(size / 700, 0.35, 3.0)), 1)
    width = _text_width(text, scale)
    tall, pad = round(_FONT_PX * scale), max(2, round(6 * scale))
    # Kept inside the frame, so that the tag of a face at the rim can be read.
    x = int(np.clip(low[0] - pad, 0, max(0, image.shape[1] - width - 2 * pad)))
    y = int(np.clip(low[1] - 3 * pad, tall + 2 * pad, image.shape[0] - 1))
    cv2.rectangle(image, (x, y - tall - 2 * pad), (x + width + 2 * pad, y), color, cv2.FILLED)
    cv2.putText(image, text, (x + pad, y - pad), _FONT, scale, (20, 20, 20), max(1, round(1.4 * scale)), cv2.LINE_AA)
    if mirrored:
        plate = image[max(0, y - tall - 2 * pad) : y + 1, x : x + width + 2 * pad + 1]
        plate[:] = plate[:, ::-1].copy()


@lru_cache(maxsize=256)
def _text_width(text: str, scale: float) -> int:
    width: int = cv2.getTextSize(text, _FONT, scale, 1)[0][0]
    return width
