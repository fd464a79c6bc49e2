"""The file that frames came from, read alongside by the sink that writes them down again."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import av
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream

from livemarks.clocks import AHEAD_S, jumps, zero_s

# Times of pictures are compared as floats.
_SLACK_S = 1e-6

# Most mp4 as a whole have 1000 ticks a second, so an end that differs by less than two is none.
_EDIT_S = 0.002

# A packet further back than this, or further ahead than AHEAD_S in a film that isn't as long, is of another recording,
# or has a damaged time stamp.
_BACK_S = 0.2

# So many packets of sound wait for the pictures of their recording: two seconds of AAC.
_MOST_WAITING = 100


class Original:
    """The file that the frames came from, read alongside: for its sound, and for how long its last picture lasts.

    lost: True if there was sound of which nobody can tell when it is to be heard.
    """

    def __init__(self, path: str) -> None:
        self._container = av.open(f"file:{path}", metadata_errors="replace")
        self.sound = self._container.streams.audio
        self._pictures = self._container.streams.best("video")
        self.lost = False
        self._zero_s = zero_s(self._container)
        ends = (self._container.start_time or 0) + (self._container.duration or 0)
        self._end_s = 0.0 if jumps(self._container) else ends / av.time_base
        rate = self._pictures and (self._pictures.average_rate or self._pictures.guessed_rate)
        self._frame_s = float(1 / (rate or 25))  # as in sources.video
        self._shift_s: defaultdict[Stream | None, float] = defaultdict(float)  # of the recording that a stream is at
        self._latest_s: dict[Stream | None, float] = {}  # when a stream's latest packet starts
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
        """All packets, but no damaged sound, with times as the source gives them to frames."""
        pictures = [] if self._pictures is None else [self._pictures]
        waiting: list[Packet[Any]] = []
        try:
            for packet in self._container.demux(*pictures, *self.sound):
                picture = packet.stream is self._pictures
                if packet.dts is None or (packet.is_corrupt and not picture):
                    continue
                zero = round(self._zero_s / packet.time_base)
                packet.dts -= zero
                packet.pts = packet.dts if packet.pts is None else packet.pts - zero
                due = [packet]
                if picture:
                    due, waiting = [packet, *waiting], []
                for one in due:
                    if self._place(one):
                        yield one
                    else:
                        waiting.append(one)
                self.lost = self.lost or len(waiting) > _MOST_WAITING
                del waiting[_MOST_WAITING:]
        except (FFmpegError, IndexError):
            pass  # damaged here, which the source says, or at the end, as in sources.video
        self.lost = self.lost or len(waiting) > 0

    def _place(self, packet: Packet[Any]) -> bool:
        """Sets a packet's time to that of the film. False if it has none there, or not before a picture tells.

        Recordings that were joined follow each other by a frame, and their sound keeps to the pictures.
        """
        stream = packet.stream
        shift_s = self._shift_s[stream]
        if not self._fits(packet, shift_s):
            if stream is self._pictures:
                shift_s = max(self._picture_s, self._latest_s[stream]) + self._frame_s - _shown_s(packet)
            else:
                shift_s = self._shift_s[self._pictures]
                if not self._fits(packet, shift_s):
                    return False
            self._shift_s[stream] = shift_s
        shift = round(shift_s / packet.time_base)
        packet.dts, packet.pts = (packet.dts or 0) + shift, (packet.pts or 0) + shift
        self._latest_s[stream] = max(_start_s(packet), self._latest_s.get(stream, -math.inf))
        if stream is self._pictures and not packet.is_discard:
            self._note(packet)
        return True

    def _fits(self, packet: Packet[Any], shift_s: float) -> bool:
        latest_s = self._latest_s.get(packet.stream)
        if latest_s is None:
            return True
        start_s = _start_s(packet) + shift_s
        most_s = max(latest_s + AHEAD_S, self._picture_s + AHEAD_S, self._end_s)
        return latest_s - _BACK_S < start_s <= most_s

    def _note(self, picture: Packet[Any]) -> None:
        start_s = _shown_s(picture)
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


def _shown_s(picture: Packet[Any]) -> float:
    return float((picture.pts or 0) * picture.time_base)
