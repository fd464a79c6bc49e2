"""Makes the clips that tests need, with PyAV, and looks into those that livemarks made. Frames carry their number."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.audio.frame import AudioFrame
from av.stream import Disposition
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from livemarks.types import U8, Frame, Result, Sink, Source, Tally

SIZE_WH = (96, 64)
FPS = Fraction(25)
SOUND_HZ = 44_100

# Rows of a display matrix, as the tkhd box of an mp4 holds it, by the picture's turn: clockwise degrees, or mirrored.
MATRICES = {
    "0": (1, 0, 0, 1),
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
}


def numbered(number: int, size_wh: tuple[int, int] = SIZE_WH) -> U8:
    """(H, W, 3): `number` in the upper half, as eight black or white bars; a colour below."""
    width, height = size_wh
    image = np.zeros((height, width, 3), np.uint8)
    bars = np.unpackbits(np.uint8(number % 256)).repeat(-(-width // 8))[:width]
    image[: height // 2] = bars[None, :, None] * 255
    image[height // 2 :] = (40, 90, 200)
    return image


def number(image: U8) -> int:
    """Which number `numbered` wrote."""
    height, width = image.shape[:2]
    middles = (np.arange(8) + 0.5) * (-(-width // 8))
    bars = image[height // 8 : height * 3 // 8, middles.astype(int)].mean(axis=(0, 2)) > 128
    return int(np.packbits(bars)[0])


def make_clip(
    path: Path,
    images: Sequence[U8] | int = 20,
    *,
    stamps: Iterable[int] | None = None,
    time_base: Fraction | None = None,
    last_duration: int | None = None,
    fps: Fraction = FPS,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    settings: dict[str, Any] | None = None,
    colours: tuple[int, int] | None = None,
    sounds: int = 0,
    sound_codec: str = "aac",
    sound_layout: str = "stereo",
    sound_from_s: float = 0.0,
    cover: bool = False,
    format: str | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Writes a video and returns its path.

    images: BGR, or how many numbered ones. stamps: their times in ticks of `time_base`, else one after the other at
    `fps`. last_duration: of the last frame, in ticks. settings: attributes of the encoder. colours: FFmpeg's numbers of
    the YUV matrix and the range. sounds: so many tracks, as long as the video, that begin at sound_from_s. cover: with
    a cover picture as first stream.
    """
    if isinstance(images, int):
        images = [numbered(i) for i in range(images)]
    time_base = time_base or 1 / fps
    ticks = list(stamps) if stamps is not None else [round(i / fps / time_base) for i in range(len(images))]
    muxer: Any  # PyAV's types can't tell sound from pictures by a codec's name
    with av.open(str(path), "w", format=format, container_options=container_options or {}) as muxer:
        if cover:
            art = muxer.add_stream("mjpeg", rate=1, width=32, height=32, pix_fmt="yuvj420p")
            art.disposition = Disposition.attached_pic.value
            picture = VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="bgr24")
            cover_packets = [*art.encode(picture), *art.encode(None)]
        tracks = [muxer.add_stream(sound_codec, rate=SOUND_HZ, layout=sound_layout) for _ in range(sounds)]
        video: Any = None
        if len(images) > 0:
            video = muxer.add_stream(codec, rate=fps, options=options or {"bf": "2", "crf": "10"})
            video.height, video.width = images[0].shape[:2]
            video.pix_fmt = pix_fmt
            video.codec_context.time_base = video.time_base = time_base
            for key, value in (settings or {}).items():
                setattr(video.codec_context, key, value)
            if colours is not None:
                video.codec_context.colorspace, video.codec_context.color_range = colours
        if cover:
            muxer.mux(cover_packets)
        end_s = max(ticks, default=25) * time_base + 1 / fps
        for index, track in enumerate(tracks):
            for tone in _tone(220 * (index + 1), sound_from_s, float(end_s)):
                muxer.mux(track.encode(tone))
            muxer.mux(track.encode(None))
        packets = []
        for image, tick in zip(images, ticks, strict=True):
            frame = VideoFrame.from_ndarray(image, format="bgr24" if image.shape[2] == 3 else "bgra")
            if colours is not None:
                frame = frame.reformat(format=pix_fmt, dst_colorspace=colours[0], dst_color_range=colours[1])
            frame.pts, frame.time_base = tick, time_base
            packets += video.encode(frame)
        if video is not None:
            packets += video.encode(None)
        if last_duration is not None:
            packets[-1].duration = last_duration
        muxer.mux(packets)
    return path


def _tone(pitch_hz: int, from_s: float, until_s: float) -> Iterable[AudioFrame]:
    for start in range(0, round((until_s - from_s) * SOUND_HZ), 1024):
        t = (np.arange(1024) + start) / SOUND_HZ
        wave = (0.3 * np.sin(2 * np.pi * pitch_hz * t)).astype(np.float32)
        frame = AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = SOUND_HZ, start + round(from_s * SOUND_HZ)
        frame.time_base = Fraction(1, SOUND_HZ)
        yield frame


def move(path: Path, clip: Path, shift_s: Callable[[float], int]) -> Path:
    """Copies a clip, each packet moved by so many seconds, which shift_s tells from its time."""
    muxer: Any
    with av.open(str(path), "w") as muxer, av.open(str(clip)) as reader:
        streams = [muxer.add_stream_from_template(stream) for stream in reader.streams]
        for packet in reader.demux():
            if packet.dts is not None and packet.pts is not None:
                shift = round(shift_s(float(packet.dts * packet.time_base)) / packet.time_base)
                packet.dts, packet.pts, packet.stream = (
                    packet.dts + shift,
                    packet.pts + shift,
                    streams[packet.stream_index],
                )
                muxer.mux(packet)
    return path


def flv_tags(data: bytearray, kind: int) -> list[int]:
    """Where the tags of an FLV file begin that hold packets; kind: 8 for sound, 9 for video.

    A tag is one byte of kind, three of size, three of time in milliseconds, one with the time's highest bits, and so on
    (Adobe's specification, E.4.1).
    """
    found = []
    at = 13
    while at + 11 < len(data):
        if data[at] == kind:
            found.append(at)
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
    return found


def join(path: Path, *clips: Path) -> Path:
    """Puts the streams of several files into one."""
    muxer: Any
    with av.open(str(path), "w") as muxer, ExitStack() as readers:
        packets = []
        for clip in clips:
            reader = readers.enter_context(av.open(str(clip)))
            streams = {stream.index: muxer.add_stream_from_template(stream) for stream in reader.streams}
            for packet in reader.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream_index]
                    packets.append(packet)
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            muxer.mux(packet)
    return path


def apart(path: Path, clip: Path, first: str) -> Path:
    """Copies a clip into an mp4, index in front, and stores all "video" or "audio" packets before the others."""
    muxer: Any
    options = {"max_interleave_delta": "1"}  # microseconds, or the muxer would put them in order of time
    movflags = {"movflags": "faststart"}
    with av.open(str(path), "w", options=options, container_options=movflags) as muxer, av.open(str(clip)) as reader:
        streams = [muxer.add_stream_from_template(stream) for stream in reader.streams]
        packets = [packet for packet in reader.demux() if packet.dts is not None]
        for packet in sorted(packets, key=lambda packet: packet.stream.type != first):
            packet.stream = streams[packet.stream_index]
            muxer.mux(packet)
    return path


def turn(path: Path, how: str) -> Path:
    """Writes one of MATRICES into the header of an mp4's video track."""
    data = bytearray(path.read_bytes())
    a, b, c, d = MATRICES[how]
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    at = data.index(b"tkhd") + 44  # ISO/IEC 14496-12: type, version and flags, then 36 bytes up to the matrix
    data[at : at + len(matrix)] = matrix
    path.write_bytes(data)
    return path


def cut(path: Path, share: float) -> Path:
    """Keeps only the first `share` of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * share)])
    return path


def flip_bits(path: Path, count: int, seed: int) -> Path:
    """Flips bits in the middle of a file, where the pictures are."""
    data = bytearray(path.read_bytes())
    random = np.random.default_rng(seed)
    for at in random.integers(len(data) // 4, len(data) * 3 // 4, count).tolist():
        data[at] ^= 1 << int(random.integers(8))
    path.write_bytes(data)
    return path


@dataclass(frozen=True)
class Look:
    """What is in a media file. Times are in seconds; sounds: per track, (pts, bytes) of each packet."""

    images: list[U8]
    times: list[Fraction]
    end: Fraction
    sounds: list[list[tuple[Fraction, bytes]]]
    average_rate: Fraction | None


def look(path: Path) -> Look:
    """Reads a file as simply as can be, by PyAV alone."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        time_base = video.time_base or Fraction(0)
        images, times = [], []
        for frame in container.decode(video):
            images.append(np.asarray(frame.to_ndarray(format="bgr24"), np.uint8))
            times.append((frame.pts or 0) * time_base)
        end = ((video.start_time or 0) + (video.duration or 0)) * time_base
        rate = video.average_rate
    with av.open(str(path)) as container:
        tracks: dict[int, list[tuple[Fraction, bytes]]] = {stream.index: [] for stream in container.streams.audio}
        for packet in container.demux():
            if packet.stream.index in tracks and packet.pts is not None:
                tracks[packet.stream.index].append((packet.pts * packet.time_base, bytes(packet)))
    return Look(images, times, end, list(tracks.values()), rate)


def result(image: U8, index: int, t_s: float) -> Result:
    """A frame without faces."""
    return Result(Frame(image, index, t_s), (), {})


def copy(source: Source, sink: Sink, at_most: int | None = None) -> None:
    """Passes frames from a source to a sink, and closes both."""
    try:
        for frame in source:
            if frame.index == at_most:
                break
            sink.write(Result(frame, (), {}), frame.image, Tally())
    finally:
        sink.close()
        source.close()


def with_exif(path: Path, orientation: int) -> Path:
    """Adds an Exif header to a JPEG file that says how the camera was held."""
    data = path.read_bytes()
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"MM\x00\x2a" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
    segment = b"Exif\x00\x00" + tiff
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:])
    return path


def write_image(path: Path, image: NDArray[Any]) -> Path:
    """By suffix; any path will do."""
    ok, data = cv2.imencode(path.suffix, image)
    assert ok
    path.write_bytes(data.tobytes())
    return path
