"""When each picture of a film is to be shown, whatever its time stamps say."""

from __future__ import annotations

import sys
from fractions import Fraction

from av.video.frame import VideoFrame

from livemarks.clocks import AHEAD_S

# After so many pictures in a row that don't fit, another recording has begun. Fewer may be damaged, or B frames in a
# container that mixes up their times: encoders put up to three between two others, as a rule.
_SURE = 4


class Clock:
    """Tells when a picture is to be shown, in ticks; always later than the one before.

    Recordings that were joined follow each other by a frame; `joints` counts where. `mended` counts the other pictures
    whose time stamp is missing or not believed. end_s: when the film ends by its header, 0 if that says nothing.
    """

    def __init__(self, time_base: Fraction, fps: Fraction | None, end_s: float) -> None:
        self.mended = self.joints = 0
        self._frame = max(1, round(1 / ((fps or 25) * time_base)))  # 25: what FFmpeg takes for streams without a rate
        self._ahead, self._end = round(AHEAD_S / time_base), round(Fraction(end_s) / time_base)
        self._last: int | None = None
        self._sure = 0  # the last tick that a stamp gave
        self._offset = self._next_offset = 0  # from stamps to ticks; the same in the recording that may have begun
        self._unsure = 0  # how many pictures it has by now
        self._last_pts = self._last_dts = -sys.maxsize
        self._trust = 0  # how often dts ran backwards, less how often pts did

    def __call__(self, picture: VideoFrame) -> int:
        stamp = self._stamp(picture.pts, picture.dts)
        if self._last is None:
            tick = self._sure = stamp or 0
            self.mended += stamp is None
        elif stamp is None:
            tick = self._last + self._frame
            self.mended += 1
        elif self._fits(due := stamp + self._offset, self._sure):
            tick = max(due, self._last + 1)
            self._sure, self._unsure = max(due, self._sure), 0
            self.mended += tick != due
        else:
            tick = self._joined(stamp, self._last)
        self._last = tick
        return tick

    def _fits(self, due: int, last: int) -> bool:
        return due > last - self._frame and (due - last <= self._ahead or due <= self._end)

    def _joined(self, stamp: int, last: int) -> int:
        """The tick of a picture of another recording."""
        if self._unsure == 0 or not self._fits(stamp + self._next_offset, last):
            self._next_offset, self._unsure = last + self._frame - stamp, 0
        tick = max(stamp + self._next_offset, last + 1)
        self._unsure += 1
        self.mended += 1
        if self._unsure == _SURE:
            self._offset, self._sure, self._unsure = self._next_offset, tick, 0
            self.joints += 1
            self.mended -= _SURE
        return tick

    def _stamp(self, pts: int | None, dts: int | None) -> int | None:
        """pts, or the decoder's dts where a container such as AVI has mixed up pts; FFmpeg's own way to tell."""
        if dts is not None:
            self._trust += dts <= self._last_dts
            self._last_dts = dts
        if pts is not None:
            self._trust -= pts <= self._last_pts
            self._last_pts = pts
        return pts if pts is not None and (self._trust >= 0 or dts is None) else dts
