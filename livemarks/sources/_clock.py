"""When each picture of a film is to be shown, whatever its time stamps say."""

from __future__ import annotations

import sys
from fractions import Fraction

from av.video.frame import VideoFrame

# A time stamp this far back, or ahead, begins a new count: recordings were joined, or the stamp is damaged. A smaller
# step back is a slip of the muxer's, after which the old count goes on.
_BACK_S, _AHEAD_S = 1.0, 3600.0


class Clock:
    """Tells when a picture is to be shown, in ticks; always later than the one before."""

    def __init__(self, time_base: Fraction, fps: Fraction | None) -> None:
        self.mended = 0
        self._frame = max(1, round(1 / ((fps or 25) * time_base)))  # 25: what FFmpeg takes for streams without a rate
        self._back, self._ahead = round(_BACK_S / time_base), round(_AHEAD_S / time_base)
        self._offset = 0  # from stamps to ticks
        self._last: int | None = None
        self._last_pts = self._last_dts = -sys.maxsize
        self._trust = 0  # how often dts ran backwards, less how often pts did

    def __call__(self, picture: VideoFrame) -> int:
        stamp = self._stamp(picture.pts, picture.dts)
        step = 0 if stamp is None or self._last is None else stamp + self._offset - self._last
        if self._last is None:
            tick = stamp or 0
        elif stamp is None:
            tick = self._last + self._frame
        elif -self._back < step <= self._ahead:
            tick = self._last + max(step, 1)
        else:
            tick = self._last + self._frame
            self._offset = tick - stamp
        self.mended += stamp is None or (self._last is not None and tick != self._last + step)
        self._last = tick
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
