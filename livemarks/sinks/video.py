"""The drawn frames as a video: H.264, each frame at its own time, with the sound of the file they came from."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from fractions import Fraction
from functools import partial
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame

from livemarks.sinks._layout import missing_layout
from livemarks.sinks._original import Original
from livemarks.sinks._output import Draft, TimeOrigin
from livemarks.types import U8, LivemarksError, Result, SourceInfo, Tally

_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}

# x264's presets at crf 18 on real footage, measured once by hand: CPU per frame at 640x360 and at 1280x720, and the
# rate at 640x360. All look the same (41 dB); superfast leaves two cores to the net, and wastes no disk.
#   ultrafast  1.6 ms   4.9 ms  3.2 Mbit/s
#   superfast  2.2 ms   8.1 ms  1.9 Mbit/s
#   veryfast   3.3 ms  12.2 ms  1.2 Mbit/s
# Without B frames (20 % larger) frames are stored in order of presentation, so that uneven times and the last frame's
# duration are kept exactly, and nothing is held back.
_X264 = {"preset": "superfast", "crf": "18", "bf": "0"}

# Until it is closed, the file is a chain of fragments of a second each, so that it plays wherever it breaks off: disk
# full, power cut. Then FFmpeg makes it a plain one. Edit lists place a start other than 0.
_MP4 = {"movflags": "hybrid_fragmented", "frag_duration": "1000000", "use_editlist": "1"}

# The tick of a recording whose source has none of its own: MPEG's, which 24, 25, 30, 50 and 60 Hz are multiples of.
# Also if the source's is finer than this, at which an mp4 can hold a picture for just 1.2 hours: FFmpeg writes no more
# than 2^31 - 1 ticks, and doesn't read those.
_TICK_S = Fraction(1, 90_000)
_MOST_HZ, _MOST_TICKS = 500_000, 2**31 - 2

# What x264 takes, found by trying: it refuses frames of 2 rows, which 1 and 2 become, and of more than 16384 a side.
_LEAST_HEIGHT_PX, _MOST_SIDE_PX = 3, 16384

# For sources that don't know their rate. The encoder plans with it, and the last frame lasts as long.
_FPS = Fraction(30)

# FFmpeg's numbers for the colours that cv2 makes (AVCOL_SPC_SMPTE170M, AVCOL_RANGE_MPEG); players would guess.
_BT601, _LIMITED = 6, 1

# The least ticks a second of an mp4 as a whole.
_MOVIE_HZ = 48_000

# A longer pause of a live source (a laptop slept, a camera was away overnight) is left out but for so much: nobody
# would watch it.
_PAUSE_S, _SHORT_PAUSE_S = 3600.0, 1.0


class Sink:
    """Writes .mp4, .m4v, .mov or .mkv. Sound is copied packet by packet, not encoded again.

    Frames keep their t_s to the tick of info.time_base, or to 1/90000 s if that is very fine; Matroska rounds to
    milliseconds. A picture of odd width or height gets its last column or row twice, since in yuv420p 2x2 pixels share
    their colour; one of another size than the first is scaled to it; one that stays for many hours is written again
    where the format can't hold it so long. `notices` collects what could not be kept.

    The file grows under a temporary name, and plays even if the run is killed; `close` gives it its own.
    """

    wants_pixels = True

    def __init__(self, path: str, info: SourceInfo) -> None:
        suffix = os.path.splitext(path)[1].lower()
        if suffix not in _FORMATS:
            raise LivemarksError(f"can't tell how to write {path}: the name of a video ends in {', '.join(_FORMATS)}")
        self.notices: list[str] = []
        self._path = path
        self._format = _FORMATS[suffix]
        self._draft = Draft(path, info.path)
        self._info = info
        self._origin = TimeOrigin(info.live)
        self._t_s, self._left_out_s = 0.0, 0.0  # of the newest frame; of pauses
        self._film: _Film | None = None  # begun by the first frame, whose size it takes
        self._broken = False

    def write(self, result: Result, image: U8 | None, tally: Tally) -> None:  # noqa: ARG002 - pixels only
        """LivemarksError if the disk is full."""
        picture = result.frame.image if image is None else image
        t_s = self._origin.since(result.frame.t_s) - self._left_out_s
        if self._info.live and t_s - self._t_s > _PAUSE_S:
            shorter_s = t_s - self._t_s - _SHORT_PAUSE_S
            self._left_out_s += shorter_s
            t_s -= shorter_s
        self._t_s = t_s
        try:
            if self._film is None:
                self._film = self._begin(picture)
            self._film.add(picture, t_s)
        except FFmpegError as error:
            self._broken = True
            raise LivemarksError(f"{self._path} can't be written on: {error.strerror}; what plays is kept") from error

    def close(self) -> None:
        """Finishes the file. Leaves nothing behind if there were no frames, or none that plays."""
        if self._film is None:
            self._draft.drop()
            return
        if self._left_out_s > 0:
            self.notices.append(f"{self._path} leaves out {self._left_out_s / 3600:.1f} hours in which no picture came")
        failure: FFmpegError | None = None
        try:
            self._film.finish()
        except FFmpegError as error:
            failure = error
        kept = (failure is None and not self._broken and not self._film.is_empty) or _plays(self._draft.path)
        if kept:
            self._draft.keep()
        else:
            self._draft.drop()
        if failure is not None and not self._broken:  # else `write` has told
            rest = "what plays is kept" if kept else "nothing of it plays, so nothing is kept"
            raise LivemarksError(f"{self._path} can't be finished: {failure.strerror}; {rest}") from failure

    def _begin(self, picture: U8) -> _Film:
        size_wh = picture.shape[1], picture.shape[0]
        if size_wh[1] < _LEAST_HEIGHT_PX or max(size_wh) > _MOST_SIDE_PX:
            raise LivemarksError(
                f"can't write {self._path}: H.264 holds no frames of {size_wh[0]}x{size_wh[1]} pixels, only those at "
                f"least {_LEAST_HEIGHT_PX} high and at most {_MOST_SIDE_PX} a side; --landmarks does without"
            )
        tick_s = self._info.time_base or _TICK_S
        tick_s = tick_s if tick_s.denominator <= _MOST_HZ else _TICK_S
        film = partial(_Film, self._draft.path, self._format, size_wh, tick_s, self._info.fps)
        if self._info.path is not None and not self._info.live:
            try:
                return film(Original(self._info.path), self.notices)
            except FFmpegError as error:
                self.notices.append(f"the sound of {self._info.path} can't be copied: {error.strerror}")
        return film(None, self.notices)


class _Film:
    """A video file in the making. Everything raises PyAV's FFmpegError, if the disk is full for one."""

    def __init__(
        self,
        path: str,
        format: str,
        size_wh: tuple[int, int],
        tick_s: Fraction,
        fps: Fraction | None,
        original: Original | None,
        notices: list[str],
    ) -> None:
        self._size_wh = size_wh
        self._notices = notices
        self._tick_s = tick_s
        self._frame_s = float(1 / (fps or _FPS))
        self._tick, self._t_s = -sys.maxsize, 0.0  # of the newest frame
        self._yuv: U8 | None = None  # the newest frame, once x264 has taken one
        self._held: Packet[Any] | None = None  # a frame's duration is known when the next one comes
        self._original = original
        options = {}
        if format != "matroska":
            # Where a track starts is counted in ticks of the whole movie: a multiple of ours, or a late first frame
            # would be shifted by up to half of the usual millisecond; and a fine one, for the sound.
            options = {**_MP4, "movie_timescale": str(-(-_MOVIE_HZ // tick_s.denominator) * tick_s.denominator)}
        self._muxer = av.open(f"file:{path}", "w", format=format, container_options=options)
        self._pictures = self._muxer.add_stream("libx264", rate=fps or _FPS, options=_X264)
        self._pictures.time_base = tick_s
        width, height = size_wh
        encoder = self._pictures.codec_context
        encoder.width, encoder.height = width + width % 2, height + height % 2
        encoder.time_base = tick_s
        encoder.colorspace, encoder.color_range = _BT601, _LIMITED
        # Matroska has no negative times, and FFmpeg would move the whole film. The sound before 0, which decoders need
        # to warm up, is never heard anyway; a packet across 0 is moved to it.
        self._from_0 = format == "matroska"
        self._tracks: dict[int, Stream] = {}  # of sound, by the original's stream index
        self._dts: dict[int, int] = {}  # the newest of each
        self._backwards_s = 0.0  # sound that was left out, because other sound at its time came before it
        for number, stream in enumerate(original.sound if original is not None else (), start=1):
            try:
                layout = missing_layout(stream, format)
                track = self._muxer.add_stream_from_template(stream)
            except ValueError as error:
                self._note(f"sound track {number} was left out: {error}")
                continue
            if layout is not None:
                track.codec_context.layout = layout
            track.metadata.update({key: text for key, text in stream.metadata.items() if key in ("language", "title")})
            self._tracks[stream.index] = track
        self._muxer.start_encoding()
        self._longest = int(_MOST_TICKS * (self._pictures.time_base or tick_s) / tick_s)  # that a frame can stay

    @property
    def is_empty(self) -> bool:
        """No picture was taken yet."""
        return self._yuv is None

    def add(self, image: U8, t_s: float) -> None:
        """An image, and the sound up to it."""
        tick = max(round(Fraction(t_s) / self._tick_s), self._tick + 1)  # a camera may give two within one tick
        self._t_s = t_s
        width, height = self._size_wh
        if (image.shape[1], image.shape[0]) != self._size_wh:
            self._note(f"frames of another size than the first were scaled to {width}x{height}")
            image = np.asarray(cv2.resize(image, self._size_wh, interpolation=cv2.INTER_AREA), np.uint8)
        if width % 2 or height % 2:
            image = np.asarray(cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), np.uint8)
        # Not by FFmpeg: cv2 is five times faster and loses less (round trip 46 dB instead of 41).
        yuv = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8)
        while self._yuv is not None and tick - self._tick > self._longest:
            self._note("a picture that stays for longer than the format can tell was written again")
            self._show(self._yuv, self._tick + self._longest)
        self._show(yuv, tick)
        if self._original is not None:
            self._copy(self._original.sound_until(t_s))

    def finish(self) -> None:
        """Writes what is still held back, and closes the file, come what may."""
        if self.is_empty:  # FFmpeg crashes where it closes an mp4 in fragments that has none; this costs a handle
            return
        try:
            duration_s = self._frame_s
            if self._original is not None:
                duration_s, sound = self._original.ending(self._t_s, self._frame_s)
                self._copy(sound)
                if self._original.lost:
                    self._note("some of the sound has wrong time stamps and was left out")
            if self._backwards_s > 0:
                self._note(f"{self._backwards_s:.2f} s of the sound run backwards in time and were left out")
            self._encode(None)
            if self._held is not None:
                self._held.duration = min(max(1, round(Fraction(duration_s) / self._tick_s)), self._longest)
                self._muxer.mux(self._held)
        finally:
            self._muxer.close()

    def _show(self, yuv: U8, tick: int) -> None:
        frame = VideoFrame.from_numpy_buffer(yuv, format="yuv420p")
        frame.pts, frame.time_base = tick, self._tick_s
        self._encode(frame)
        self._yuv, self._tick = yuv, tick

    def _encode(self, frame: VideoFrame | None) -> None:
        """One more frame, or None to get those that x264 is still at work on."""
        for packet in self._pictures.encode(frame):
            if self._held is not None:
                self._held.duration = (packet.pts or 0) - (self._held.pts or 0)
                self._muxer.mux(self._held)
            self._held = packet

    def _copy(self, packets: Iterable[Packet[Any]]) -> None:
        for packet in packets:
            track = self._tracks.get(packet.stream_index)
            if track is None or packet.dts is None:
                continue
            if self._from_0 and packet.dts < 0:
                if packet.dts + (packet.duration or 0) <= 0:
                    continue
                packet.pts = packet.dts = 0
            if packet.dts <= self._dts.get(track.index, -sys.maxsize):
                self._backwards_s += float((packet.duration or 0) * packet.time_base)
                continue
            self._dts[track.index] = packet.dts
            packet.stream = track
            try:
                self._muxer.mux(packet)
            except FFmpegError as error:
                if isinstance(error, OSError):  # a full disk, not a bad packet
                    raise
                self._note("some of the sound is damaged and was left out")

    def _note(self, line: str) -> None:
        """Once."""
        if line not in self._notices:
            self._notices.append(line)


def _plays(path: str) -> bool:
    """True if a frame can be decoded."""
    try:
        with av.open(f"file:{path}") as container:
            pictures = container.streams.best("video")
            return pictures is not None and any(True for _ in container.decode(pictures))
    except FFmpegError:
        return False
