"""What to make of a media file's clock: one answer for the source of its frames and the sink that copies its sound."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

# A time stamp this far ahead is damaged, or begins another recording, unless the film is as long.
AHEAD_S = 3600.0

# FFmpeg's flag AVFMT_TS_DISCONT, which PyAV's types get wrong.
_DISCONTINUOUS = 0x0200


def jumps(container: Any) -> bool:
    """Whether time stamps may start anywhere, and jump: a duration is then FFmpeg's guess from those it saw."""
    return bool(container.format.flags & _DISCONTINUOUS)


def zero_s(container: Any) -> Fraction:
    """0, or the first time stamp of an av.container.InputContainer whose format gives no meaning to 0; in seconds."""
    if not jumps(container):
        return Fraction(0)
    streams = (*container.streams.video, *container.streams.audio)
    starts_s = (s.start_time * s.time_base for s in streams if s.start_time is not None and s.time_base)
    return min(starts_s, default=Fraction(0))
