"""Every frame of a video file, at its own time. PyAV decodes, so anything FFmpeg reads will do."""

from __future__ import annotations

import itertools
import os
import select
import stat
import struct
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, cast

from av.buffer import Buffer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame

from livemarks.clocks import jumps, zero_s
from livemarks.numbers import counted
from livemarks.sources._clock import Clock
from livemarks.sources._media import frames_of, indexed, open_media, picture_stream, rate_of, span_s
from livemarks.sources._pictures import Canvas, Turn
from livemarks.types import U8, Frame, LivemarksError, SourceInfo

# Headers round the durations they promise, some to the frame and some to a sound packet (at most 0.1 s), so a file is
# cut short only if it ends this much early.
_ROUNDING_S = 0.25

# Counter-clockwise, as PyAV counts.
_QUARTER_TURNS: tuple[Turn, ...] = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))


class Source:
    """The frames of one file, or of standard input if the path is "-"; raises LivemarksError if there are none.

    t_s is the time stamp that the file holds, uneven or not; only formats whose clock has no zero, as MPEG-TS, count
    from their first packet. Frames are as a player shows them (see _pictures.Canvas), of the best video stream; a cover
    picture is none. A damaged file gives what can be decoded; then `damaged` is True, and `notices` says what is lost.
    The same file always gives the same frames, bit by bit. After a loop that was broken off, the next goes on.
    """

    def __init__(self, path: str) -> None:
        self.notices: list[str] = []
        self.damaged = False
        self._input = _Pipe(path) if path == "-" or _is_pipe(path) else None
        name = "standard input" if path == "-" else path
        try:
            self._container = open_media(path if self._input is None else self._input.file, name)
            try:
                self._stream = picture_stream(self._container, name)
            except LivemarksError:
                self._container.close()
                raise
        except LivemarksError:
            if self._input is not None:
                self._input.close()
                if self._input.interrupted:
                    raise KeyboardInterrupt from None
            raise
        # One thread: at 640x360 frame threads are no faster, and take 0.69 ms of CPU a frame instead of 0.49, which the
        # net and the encoder need. And with several threads concealed damage differs from run to run.
        self._stream.codec_context.thread_count = 1
        self._in_use = threading.Lock()  # PyAV's objects are not thread-safe, and `close` comes from another thread
        self._closed = False
        self._time_base = self._stream.time_base or Fraction(1, 90_000)
        self._zero = zero_s(self._container) / self._time_base  # in ticks
        self._why = ""  # FFmpeg's words for what went wrong last
        self._undecodable = self._marred = self._fitted = 0
        self._packets: Counter[int] = Counter()  # read so far, by the number of their stream
        self._ends_s: dict[int, float] = {}  # the latest end among them
        self._unsure_s = 0.0  # how much later that may be

        fps = rate_of(self._stream)
        pictures = self._decode(name, fps)
        first = next(pictures, None)
        if first is None:
            self.close()
            why = f"{name} has video of which no frame can be decoded ({self._why or 'it is empty'})"
            if self._input is not None and self._input.file is self._input:
                why += "; of a pipe, an mp4 whose index is at its end can't be read: name the file"
            raise LivemarksError(why)
        # Counted here, not in the loop over frames, so that a second loop goes on where one was broken off.
        self._pictures = enumerate(itertools.chain([first], pictures))
        height, width = first[0].shape[:2]
        self.info = SourceInfo(
            name,
            (width, height),
            fps,
            frames_of(self._container, self._stream),
            live=False,
            path=path if os.path.isfile(path) else None,  # a pipe can't be read a second time for its sound
            time_base=self._time_base,
        )
        if self._input is not None and self._container.streams.audio:
            self.notices.append(f"{name} is read only once, so a video of it has no sound; name the file to keep it")

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._in_use:
                taken = None if self._closed else next(self._pictures, None)
            if taken is None:
                return
            index, (image, tick) = taken
            yield Frame(image, index, float(tick * self._time_base))

    def close(self) -> None:
        """Ends the iteration and closes the file; from any thread."""
        if self._input is not None:
            self._input.interrupt()
        with self._in_use:
            self._closed = True
            self._container.close()
            if self._input is not None:
                self._input.close()

    def _decode(self, name: str, fps: Fraction | None) -> Iterator[tuple[U8, Fraction]]:
        """Images in order of presentation, each with its time in ticks; skips what can't be decoded, and says so."""
        streams = (self._stream, *self._container.streams.audio)
        promised_s = max(span_s(self._container, stream)[1] for stream in streams)
        canvas: Canvas | None = None
        coded = self._stream.codec_context
        clock = Clock(self._time_base, fps, end_s=0.0 if jumps(self._container) else promised_s)
        for packet in itertools.chain(self._demux(), [None]):  # None makes the decoder hand out what it holds back
            try:
                for picture in self._stream.decode(packet):
                    if canvas is None:
                        canvas = Canvas(picture, _turn(picture), self._stream.sample_aspect_ratio)
                        first_aspect = aspect = coded.sample_aspect_ratio
                    if picture.key_frame:  # others may be from before a change, which the decoder has read by now
                        aspect = coded.sample_aspect_ratio
                    image = canvas(picture, None if aspect == first_aspect else aspect)
                    self._fitted = canvas.fitted
                    self._marred += picture.is_corrupt
                    yield image, clock(picture) - self._zero
            except FFmpegError as error:  # noqa: PERF203 - damage is seen packet by packet
                self._undecodable += 1
                self._why = error.strerror or ""
        self._report(name, promised_s, fps, clock)

    def _demux(self) -> Iterator[Packet[Any]]:
        """The video stream's packets; ends where the file can't be read on."""
        rate = self._stream.average_rate
        try:
            for packet in self._container.demux():  # subtitles too: Matroska's duration has them in it
                picture = packet.stream_index == self._stream.index
                if packet.pts is not None:
                    end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    if picture and not packet.duration:  # as in FLV and ASF; the last may stay as long as any
                        begun = self._packets[packet.stream_index] > 0
                        longest_s = end_s - self._end_s if begun else float(1 / rate) if rate else 0.0
                        self._unsure_s = max(self._unsure_s, longest_s)
                    self._ends_s[packet.stream_index] = max(self._ends_s.get(packet.stream_index, 0.0), end_s)
                if packet.size > 0:
                    self._packets[packet.stream_index] += 1
                    if picture:  # an empty packet would tell the decoder that the stream is over
                        yield packet
        except FFmpegError as error:
            self._why = error.strerror or ""
        except IndexError:
            pass  # PyAV trips behind the last packet, if a stream began in the middle of the file
        if self._input is not None and self._input.interrupted:
            raise KeyboardInterrupt

    @property
    def _end_s(self) -> float:
        return max(self._ends_s.values(), default=0.0)

    def _report(self, name: str, promised_s: float, fps: Fraction | None, clock: Clock) -> None:
        damage = [cut] if (cut := self._cut(promised_s, fps)) else []
        if self._undecodable:
            damage.append(f"{counted(self._undecodable, 'frame')} could not be decoded ({self._why})")
        if self._marred:
            damage.append(f"{counted(self._marred, 'frame')} marred")
        if damage:
            self.damaged = True
            self.notices.append(f"{name} is damaged: {'; '.join(damage)}")
        if self._fitted:
            self.notices.append(
                f"{name} changes its shape: {counted(self._fitted, 'frame')} with black bars, to fit the first"
            )
        if clock.joints:
            places = counted(clock.joints, "place")
            self.notices.append(f"{name}: its clock jumps in {places}, as where recordings are joined; mended")
        if clock.mended:
            self.notices.append(f"{name}: {counted(clock.mended, 'frame')} had no time stamp, or a wrong one; mended")

    def _cut(self, promised_s: float, fps: Fraction | None) -> str:
        """What to say of a file that ends early; nothing of a whole one."""
        whole = True
        # Sound and pictures may be stored apart; then one is cut short and the other whole.
        for stream in (self._stream, *self._container.streams.audio):
            end_s, stream_s = self._ends_s.get(stream.index, 0.0), span_s(self._container, stream)[1]
            listed = indexed(self._container, stream)
            missing = listed - self._packets[stream.index]
            if missing > 0 and stream_s - end_s > _ROUNDING_S:
                cut = f"ends after {end_s:.1f} of {stream_s:.1f} s"
                return (
                    f"it {cut}, {counted(missing, 'frame')} missing" if stream is self._stream else f"its sound {cut}"
                )
            whole = whole and listed > 0
        if whole or promised_s - self._end_s <= _ROUNDING_S + self._unsure_s:
            return ""
        cut = f"it ends after {self._end_s:.1f} of {promised_s:.1f} s"
        missing = self._stream.frames - self._packets[self._stream.index]
        if missing <= 0:
            missing = round((promised_s - self._end_s) * (fps or 0))
        return f"{cut}, {counted(missing, 'frame')} missing" if missing > 0 else cut


class _Pipe:
    """Standard input or a named pipe, for PyAV to read. A blocked read can be broken off, where the system can do that.

    interrupted: Ctrl-C came in a read, where PyAV would print it and go on; so reads find the end of the file, and
    their caller raises it then. `close` when no read is under way; it leaves standard input itself open.
    """

    def __init__(self, path: str) -> None:
        if path == "-" and (sys.stdin is None or sys.stdin.isatty()):
            raise LivemarksError("standard input holds no video; pipe one in, or name a file")
        try:
            self._pipe = os.dup(sys.stdin.fileno()) if path == "-" else os.open(path, os.O_RDONLY)
        except PermissionError:
            raise LivemarksError(f"{path}: no permission to read it") from None
        self.interrupted = False
        self._wake_reader, self._wake_writer = os.pipe()
        self._open = True
        self._waking = threading.Lock()  # or the byte might go into a file that was opened under the pipe's old number
        # A file that was redirected can be searched as well as read, which some videos need. Windows can't wait for a
        # pipe and for something else.
        plain = os.name == "nt" or stat.S_ISREG(os.fstat(self._pipe).st_mode)
        self.file: Any = sys.stdin.buffer if plain else self

    def read(self, size: int) -> bytes:
        try:
            ready, _, _ = select.select([self._pipe, self._wake_reader], [], [])
            return b"" if self._wake_reader in ready else os.read(self._pipe, size)
        except KeyboardInterrupt:
            self.interrupted = True
            self.interrupt()
            return b""

    def interrupt(self) -> None:
        """From any thread; the read under way, and all later ones, find the end of the file."""
        with self._waking:
            if self._open:
                os.write(self._wake_writer, b"\0")

    def close(self) -> None:
        """From any thread, more than once."""
        with self._waking:
            if self._open:
                for handle in (self._pipe, self._wake_reader, self._wake_writer):
                    os.close(handle)
            self._open = False


def _is_pipe(path: str) -> bool:
    return os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)


def _turn(picture: VideoFrame) -> Turn:
    """How the file says a picture is to be shown."""
    try:
        matrix = picture.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18 fails at any side data newer than itself; then we can't know if it is mirrored
        return _QUARTER_TURNS[round(picture.rotation / 90) % 4]
    if matrix is None:
        return _QUARTER_TURNS[0]
    a, b, _, c, d = struct.unpack_from("=5i", cast(Buffer, matrix))
    return a, b, c, d
