"""Videos made of real, labelled faces that move as told, so that the truth is known; for bench/stability.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from livemarks.geometry import resample
from livemarks.train.samples import Sample, read_sets
from livemarks.types import F64, U8, Affine, LivemarksError

SIZE_WH = (640, 360)
# Faces for the made-up clips, of Helen's test set, on which nothing was trained or tuned: alone in their pictures, eyes
# open, of all kinds; chosen before anything was measured on them.
_PORTRAITS = (
    "2988557119_1.jpg",
    "2998572157_1.jpg",
    "3141909424_1.jpg",
    "3193158927_1.jpg",
    "3213229323_1.jpg",
    "3218989431_1.jpg",
)
INTEROCULAR_PX = 70.0  # in the made-up clips: a face that fills half of the frame's height
_NOISE_GREYS = 4.0  # standard deviation of a webcam's noise indoors


@dataclass(frozen=True)
class Pose:
    """A portrait's place in the frame: centre in inter-oculars from the frame's middle, roll, growth, lids closed."""

    x: float = 0.0
    y: float = 0.0
    roll_rad: float = 0.0
    growth: float = 1.0
    closed: bool = False


@dataclass(frozen=True)
class Clip:
    """A made-up clip: what moves how, at which times."""

    name: str
    times_s: Sequence[float]
    pose: Callable[[float], Pose]


def times(fps: float, length_s: float = 4.0) -> list[float]:
    return [i / fps for i in range(round(length_s * fps))]


def _uneven(length_s: float = 4.0) -> list[float]:
    steps = np.random.default_rng(0).choice([1 / 60, 1 / 30, 1 / 15, 1 / 8], 400)
    stamps = np.cumsum(steps)
    return [0.0, *stamps[stamps < length_s].tolist()]


def _pan(t_s: float) -> Pose:
    return Pose(x=1.0 * math.sin(1.5 * t_s))


def _fast(t_s: float) -> Pose:
    return Pose(x=1.5 * math.sin(5 * t_s), y=0.3 * math.sin(8 * t_s))  # up to 7.5 inter-oculars a second


STEP_S = BLINK_S = 2.0
CLIPS = (
    Clip("still", times(30), lambda _: Pose()),
    Clip("slow pan", times(30), _pan),
    Clip("slow pan 15 FPS", times(15), _pan),
    Clip("slow pan 60 FPS", times(60), _pan),
    Clip("slow pan, uneven", _uneven(), _pan),
    Clip("fast", times(30), _fast),
    Clip("fast 15 FPS", times(15), _fast),
    Clip("turn", times(30), lambda t_s: Pose(roll_rad=0.5 * math.sin(4 * t_s))),
    Clip("zoom", times(30), lambda t_s: Pose(growth=math.exp(0.4 * math.sin(2 * t_s)))),
    Clip("step", times(30), lambda t_s: Pose(x=0.05 if t_s >= STEP_S else 0.0)),
    Clip("blink", times(30), lambda t_s: Pose(closed=abs(t_s - BLINK_S) < 0.01)),
)


class Portrait:
    """A labelled face that can be put anywhere in a frame."""

    def __init__(self, sample: Sample) -> None:
        self.image = sample.read()
        self.xy = sample.xy.astype(np.float64)
        self.eyes = self.xy[45] - self.xy[36]
        self._blinking = _closed_lids(self.image, self.xy)

    def place(self, pose: Pose) -> Affine:
        """Portrait px -> frame px; the eye line level at roll 0."""
        scale = INTEROCULAR_PX * pose.growth / float(np.hypot(*self.eyes))
        angle = pose.roll_rad - math.atan2(self.eyes[1], self.eyes[0])
        turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        middle = np.array(SIZE_WH) / 2 + np.array([pose.x, pose.y]) * INTEROCULAR_PX
        return Affine(np.column_stack([turn, middle - turn @ self.xy.mean(axis=0)]))

    def draw(self, pose: Pose) -> U8:
        """The frame, without noise."""
        image = self._blinking if pose.closed else self.image
        return resample(image, self.place(pose).inverse(), SIZE_WH[::-1])


def _closed_lids(image: U8, xy: F64) -> U8:
    """The same face, its upper lids drawn down over the eyes to 15 % of their opening."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    from_y = y.copy()
    for first in (36, 42):
        eye = xy[first : first + 6]
        height = float(eye[[4, 5], 1].mean() - eye[[1, 2], 1].mean())
        if height < 1:
            continue
        width = float(np.ptp(eye[:, 0]))
        above = (y - float(eye[[4, 5], 1].mean())) / height  # 0 at the lower lid, -1 at the open upper one
        shut = 0.85 * np.clip(1.5 - 2 * np.abs(x - float(eye[:, 0].mean())) / width, 0, 1)
        lid, top = shut - 1, -3.0  # where the upper lid goes to; what lies above `top` stays
        squeezed = above / -lid
        stretched = top + (above - top) * (-1 - top) / (lid - top)
        source = np.where(above > lid, squeezed, stretched)
        from_y += np.where((above < 0) & (above > top), (source - above) * height, 0).astype(np.float32)
    return np.asarray(cv2.remap(image, x, from_y, cv2.INTER_LINEAR), np.uint8)


def portraits(data: Path) -> list[Portrait]:
    """The faces of the made-up clips."""
    samples, _ = read_sets(data, ["helen-test"])
    found = [Portrait(sample) for sample in samples if sample.name in _PORTRAITS]
    if not found:
        raise LivemarksError(f"none of the faces for made-up clips is in Helen's test set in {data}")
    return found


def noisy(image: U8, random: np.random.Generator) -> U8:
    """A camera's picture of it."""
    noise = random.standard_normal(image.shape, np.float32) * _NOISE_GREYS
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def head(face: Portrait) -> U8:
    """A soft mask (H, W, 3) of the head: the ellipse around its points, reaching up over the forehead."""
    low, high = face.xy.min(axis=0), face.xy.max(axis=0)
    wide, tall = (high - low).tolist()
    center = (low + high) / 2 - np.array([0, 0.2 * tall])
    mask = np.zeros(face.image.shape, np.uint8)
    axes = (round(0.62 * wide), round(0.78 * tall))
    cv2.ellipse(mask, np.rint(center).astype(int).tolist(), axes, 0, 0, 360, (255, 255, 255), -1)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.03 * wide), np.uint8)


def shuffled(image: U8, random: np.random.Generator, tile_px: int = 20) -> U8:
    """The same texture without a face: the frame's tiles in another order."""
    rows, columns = image.shape[0] // tile_px, image.shape[1] // tile_px
    tiles = image.reshape(rows, tile_px, columns, tile_px, 3).swapaxes(1, 2).reshape(-1, tile_px, tile_px, 3)
    mixed = tiles[random.permutation(len(tiles))].reshape(rows, columns, tile_px, tile_px, 3)
    return np.ascontiguousarray(mixed.swapaxes(1, 2)).reshape(image.shape)
