"""A portrait that moves, turns and comes nearer: real face pixels, whose every point's place is known."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from fractions import Fraction

import cv2
import numpy as np

from livemarks.geometry import placed, resample
from livemarks.types import F32, U8, Affine, Frame, SourceInfo

# The portrait's height in frame heights, where it is at rest. All of it stays in sight but for its margins.
_REST = 0.85

# How far it goes from there: in frame widths and heights, radians, and the logarithm of its size; and how many seconds
# one swing takes. Calm movements of somebody before a camera, of periods that don't divide each other.
_SWINGS = {"x": (0.12, 5.3), "y": (0.04, 3.7), "roll": (0.25, 4.3), "size": (0.15, 7.1)}

# The portrait's edge fades into the background over this share of its size, or detectors would see a picture frame.
_FADE = 0.06

# Of the background, in frame heights: enough for no detector to see the portrait twice.
_BLUR = 1 / 12


class Source:
    """Yields `seconds` of a portrait, (H, W, 3) BGR, in motion before a blurred copy of itself.

    seed: moves the starting points of the swings; the same seed gives the same frames. live: frames come at their own
    pace, and t_s is the monotonic time at which each was due.
    """

    def __init__(
        self,
        portrait: U8,
        *,
        seconds: float,
        fps: float | Fraction,
        size_wh: tuple[int, int],
        seed: int = 0,
        live: bool = False,
    ) -> None:
        self.notices: list[str] = []
        rate = Fraction(fps).limit_denominator(1001)
        self.info = SourceInfo("moving portrait", size_wh, rate, round(seconds * rate), live, time_base=1 / rate)
        phases = np.random.default_rng(seed).uniform(0, 2 * math.pi, len(_SWINGS)).tolist()
        self._phases: dict[str, float] = dict(zip(_SWINGS, phases, strict=True))
        self._zero_s = 0.0  # the t_s of the first frame
        self._closed = threading.Event()
        # (H, W, 4): colours already weighted by the fourth channel, which fades out towards the edges.
        opacity = _fading(portrait.shape[0], portrait.shape[1])
        self._cutout = np.dstack([portrait * opacity, 255 * opacity]).round().astype(np.uint8)
        stretched = cv2.resize(portrait, size_wh, interpolation=cv2.INTER_LINEAR)
        self._background = cv2.GaussianBlur(stretched, (0, 0), sigmaX=_BLUR * size_wh[1])

    def truth(self, t_s: float) -> Affine:
        """Where the portrait is at that time: portrait px -> frame px."""
        height, width = self._cutout.shape[:2]
        frame_width, frame_height = self.info.size_wh or (width, height)
        swing = {
            name: size * math.sin(2 * math.pi * (t_s - self._zero_s) / period_s + self._phases[name])
            for name, (size, period_s) in _SWINGS.items()
        }
        scale = _REST * min(frame_width / width, frame_height / height) * math.exp(swing["size"])
        center_xy = frame_width * (0.5 + swing["x"]) - 0.5, frame_height * (0.5 + swing["y"]) - 0.5
        return placed((height, width), center_xy, scale, swing["roll"])

    def __iter__(self) -> Iterator[Frame]:
        rate, live = self.info.fps or Fraction(1), self.info.live
        self._zero_s = time.monotonic() if live else 0.0
        for index in range(self.info.frames or 0):
            t_s = self._zero_s + float(index / rate)
            image = self._image(t_s)
            if self._closed.wait(max(0.0, t_s - time.monotonic()) if live else 0.0):
                return
            yield Frame(image, index, t_s)

    def close(self) -> None:
        """Ends the iteration, also while it waits; from any thread."""
        self._closed.set()

    def _image(self, t_s: float) -> U8:
        height, width = self._background.shape[:2]
        seen = resample(self._cutout, self.truth(t_s).inverse(), (height, width))  # (H, W, 4)
        clear = cv2.cvtColor(255 - seen[:, :, 3], cv2.COLOR_GRAY2BGR)
        behind = cv2.multiply(self._background, clear, scale=1 / 255)
        return np.asarray(cv2.add(behind, cv2.cvtColor(seen, cv2.COLOR_BGRA2BGR)), np.uint8)


def _fading(height: int, width: int) -> F32:
    """(H, W, 1) opacity: 1 inside, falling to 0 at the edges."""
    margin = _FADE * min(height, width)
    y = np.minimum(np.arange(height), np.arange(height)[::-1])[:, None]
    x = np.minimum(np.arange(width), np.arange(width)[::-1])[None, :]
    opacity: F32 = np.clip(np.minimum(x, y) / margin, 0, 1)[:, :, None].astype(np.float32)
    return opacity
