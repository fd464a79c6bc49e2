"""Where a media file's clock starts: the same for the source of its frames and for the sink that copies its sound."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

# FFmpeg's flag AVFMT_TS_DISCONT of formats whose time stamps may start anywhere.
_NO_ZERO = 0x0200


def zero_s(container: Any) -> Fraction:
    """0, or the first time stamp of an av.container.InputContainer whose format gives no meaning to 0; in seconds."""
    if not container.format.flags & _NO_ZERO:
        return Fraction(0)
    streams = (*container.streams.video, *container.streams.audio)
    starts_s = (s.start_time * s.time_base for s in streams if s.start_time is not None and s.time_base)
    return min(starts_s, default=Fraction(0))
