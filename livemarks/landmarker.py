"""From face boxes in a frame to landmarks in frame pixels: cut, run the net on all faces at once, map home."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from livemarks.geometry import face_crop
from livemarks.types import U8, Affine, Card, FaceBox, Landmarks, LivemarksError, Runner, Scheme


class Landmarker:
    """A loaded net, as something that finds landmarks in frames. Called by one thread at a time.

    Crop pixels don't leave this module. `close` closes the runner.
    """

    def __init__(self, runner: Runner, card: Card, scheme: Scheme) -> None:
        if card.scheme != scheme.name:
            raise LivemarksError(f"model {card.name} finds {card.scheme} points, not {scheme.name}")
        self.runner, self.card, self.scheme = runner, card, scheme
        self._crops: U8 = np.empty((1, *card.size_hw, 3), np.uint8)  # the batch; grows to the most faces seen

    def __call__(self, image: U8, boxes: Sequence[FaceBox]) -> list[Landmarks]:
        """The landmarks of the face in each box, in the boxes' order, from one batch. image: (H, W, 3) BGR."""
        return self.read(*self.cut(image, boxes))

    def cut(self, image: U8, boxes: Sequence[FaceBox]) -> tuple[U8, list[Affine]]:
        """Crops (B, h, w, 3) around the boxes, and each one's way home. The array is re-used by the next call."""
        if len(boxes) > len(self._crops):
            self._crops = np.empty((len(boxes), *self._crops.shape[1:]), np.uint8)
        homes = []
        for slot, box in zip(self._crops, boxes, strict=False):  # there may be more slots than boxes
            crop = face_crop(image, box, self.card.size_hw, self.card.margin)
            slot[:] = crop.image
            homes.append(crop.to_frame)
        return self._crops[: len(boxes)], homes

    def read(self, crops: U8, homes: Sequence[Affine]) -> list[Landmarks]:
        """The landmarks that the net sees in `cut`'s crops, in frame px.

        Raises LivemarksError unless all that the net answers is finite, each sigma above 0 and presence in 0..1.
        """
        if not homes:
            return []
        xy, sigma, presence = self.runner(crops)  # (B, N, 2), (B, N), (B,)
        finite = math.isfinite(float(xy.sum()) + float(sigma.sum()))
        if not (finite and sigma.min() > 0 and all(0 <= seen <= 1 for seen in presence.tolist())):
            wrong = "NaN, infinity, a sigma that isn't above 0 or a presence outside 0..1"
            raise LivemarksError(f"the net {self.card.name} answers with {wrong}: it is damaged, or overflows")
        return [
            Landmarks(self.scheme, home(points).astype(np.float32), spread * np.float32(home.scale), seen)
            for home, points, spread, seen in zip(homes, xy, sigma, presence.tolist(), strict=True)
        ]

    @cached_property
    def knows_absence(self) -> bool:
        """Whether `presence` tells anything: the historical nets know only points, and answer with a constant.

        Found by trying (two runs, which warm the runner as well): no trained presence is the same for black and noise.
        """
        black = np.zeros((1, *self.card.size_hw, 3), np.uint8)
        # Knuth's multiplicative hash, rather than np.random: that takes 9 ms to be loaded.
        hashed = np.arange(black.size, dtype=np.uint32) * np.uint32(2654435761)
        noise = (hashed >> 24).astype(np.uint8).reshape(black.shape)
        return bool(self.runner(black)[2][0] != self.runner(noise)[2][0])

    def close(self) -> None:
        """Closes the runner."""
        self.runner.close()
