"""From the pictures FFmpeg decodes to what a player shows: upright, with square pixels, in 8-bit BGR."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from livemarks.sources._square import centred, fitted_wh, square_wh
from livemarks.types import U8

# How stored pixels (x, y) are to be shown, but for a shift: at (a x + c y, b x + d y). The rows of a display matrix.
Turn = tuple[int, int, int, int]  # a, b, c, d


class Canvas:
    """Makes the images of one stream, all of one size; called with each decoded picture, in one thread.

    The first picture sets the size; a later one of another size (a stream may change its resolution) is scaled, and
    gets black bars if its shape is another, which `fitted` counts. Pixels that aren't square are stretched along one
    axis, so that no detail is lost. Alpha is dropped; ten bits become eight; HDR is not tone-mapped, so it looks flat;
    interlaced fields stay woven.
    """

    def __init__(
        self,
        first: VideoFrame,
        turn: Turn,
        pixel_aspect: Fraction | None = None,
        scaling: int = Interpolation.BILINEAR,
    ) -> None:
        self.fitted = 0
        self._pixel_aspect = pixel_aspect or Fraction(1)
        self._stored_wh = square_wh(first.width, first.height, self._pixel_aspect)
        self._scaling = scaling
        self._reformatter = VideoReformatter()  # keeps its tables from picture to picture
        a, b, c, d = turn
        self._transposed = abs(b) + abs(c) > abs(a) + abs(d)  # to the nearest quarter turn; nobody films askew
        self._flip_x, self._flip_y = (c < 0, b < 0) if self._transposed else (a < 0, d < 0)

    def __call__(self, picture: VideoFrame, pixel_aspect: Fraction | None = None) -> U8:
        """(H, W, 3) BGR. pixel_aspect: None if it is the first picture's."""
        shown_wh = square_wh(picture.width, picture.height, pixel_aspect or self._pixel_aspect)
        width, height = fitted_wh(shown_wh, self._stored_wh)
        bgr = self._reformatter.reformat(picture, width, height, "bgr24", interpolation=self._scaling)
        image: U8 = np.asarray(bgr.to_ndarray(), np.uint8)
        if (width, height) != self._stored_wh:
            image = centred(image, self._stored_wh)
            self.fitted += 1
        if self._transposed:
            image = np.asarray(cv2.transpose(image), np.uint8)
        if self._flip_x or self._flip_y:
            axes = -1 if self._flip_x and self._flip_y else int(self._flip_x)
            image = np.asarray(cv2.flip(image, axes), np.uint8)
        return image
