"""The file that frames came from, read alongside by the sink that writes them down again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import av
from av.error import FFmpegError
from av.packet import Packet

from livemarks.clocks import zero_s

# Times of pictures are compared as floats.
_SLACK_S = 1e-6

# Most mp4 as a whole have 1000 ticks a second, so an end that differs by less than two is none.
_EDIT_S = 0.002

# A packet of sound further ahead than this has a damaged time stamp; sources.video trusts frames as far.
_AHEAD_S = 3600.0


class Original:
    """The file that the frames came from, read alongside: for its sound, and for how long its last picture lasts."""

    def __init__(self, path: str) -> None:
        self._container = av.open(f"file:{path}", metadata_errors="replace")
        self.sound = self._container.streams.audio
        self._pictures = self._container.streams.best("video")
        self._zero_s = zero_s(self._container)
        self._picture_s, self._duration_s = -math.inf, 0.0  # the latest picture met so far
        self._packets = self._read()
        self._next = next(self._packets, None)

    def sound_until(self, t_s: float, picture_s: float = math.inf) -> Iterator[Packet[Any]]:
        """The sound that begins before t_s and wasn't given yet; stops where a picture later than picture_s is met."""
        while self._next is not None and _start_s(self._next) < t_s and self._picture_s <= picture_s:
            if self._next.stream is not self._pictures:
                yield self._next
            self._next = next(self._packets, None)

    def ending(self, t_s: float, frame_s: float) -> tuple[float, list[Packet[Any]]]:
        """How long the picture at t_s lasts, and the sound that is left: all, if no picture comes after that one.

        frame_s: how long a picture usually lasts. If the run ended early, sound ends with the picture.
        """
        sound = list(self.sound_until(t_s + frame_s))
        tail = list(self.sound_until(math.inf, t_s + _SLACK_S))
        if self._picture_s > t_s + _SLACK_S:
            return frame_s, sound
        if self._picture_s > t_s - _SLACK_S and self._duration_s > 0:
            frame_s = self._duration_s
        return frame_s, sound + tail

    def _read(self) -> Iterator[Packet[Any]]:
        """All packets that are whole, with times as the source gives them to frames."""
        pictures = [] if self._pictures is None else [self._pictures]
        latest_s: float | None = None
        try:
            for packet in self._container.demux(*pictures, *self.sound):
                start_s = _start_s(packet)
                latest_s = start_s if latest_s is None else latest_s
                if packet.dts is None or packet.is_corrupt or start_s > latest_s + _AHEAD_S:
                    continue
                latest_s = max(latest_s, start_s)
                zero = round(self._zero_s / packet.time_base)
                packet.dts -= zero
                packet.pts = packet.dts if packet.pts is None else packet.pts - zero
                if packet.stream is self._pictures and not packet.is_discard:
                    self._note(packet)
                yield packet
        except FFmpegError:
            return  # damaged here; the source says so

    def _note(self, picture: Packet[Any]) -> None:
        start_s = float((picture.pts or 0) * picture.time_base)
        if start_s <= self._picture_s:
            return
        self._picture_s, self._duration_s = start_s, float((picture.duration or 0) * picture.time_base)
        stream = picture.stream
        if stream.duration is not None:  # an edit list may end the stream before its last picture does
            end_s = float(((stream.start_time or 0) + stream.duration) * picture.time_base - self._zero_s)
            if end_s < start_s + self._duration_s - _EDIT_S:
                self._duration_s = end_s - start_s


def _start_s(packet: Packet[Any]) -> float:
    return float((packet.dts or 0) * packet.time_base)
