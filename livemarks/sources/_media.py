"""Media files as PyAV opens them, and what their headers promise."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from livemarks.types import LivemarksError

# FFmpeg takes a file with one of these suffixes for pictures made of letters, whatever is in it.
_TEXT_ART = ("ansi", "bintext", "idf", "xbin")

# A duration counts from 0 in these formats, and not from where the film starts; with FLV that is up to its writer.
_FROM_0 = ("asf", "flv", "matroska,webm", "nut")


def open_media(file: Any, name: str) -> InputContainer:
    """The file as FFmpeg sees it. LivemarksError, with the reason, if it is not a media file that can be read."""
    if isinstance(file, str):
        if os.path.isdir(file):
            raise LivemarksError(f"{name} is a folder, not a video; `livemarks image` reads a folder of images")
        if "://" in file and not os.path.exists(file):
            raise LivemarksError(f"{name} is an address: fetch it first, or `livemarks webcam --camera` plays it")
        file = f"file:{file}"  # or a colon in its name would make it an address
    # FFmpeg is silent in PyAV unless someone asks for its log. Lists of other media (.m3u8, .sdp) may not lead anywhere
    # but to files: nothing is ever fetched.
    options = {"protocol_whitelist": "file,pipe"}
    try:
        container: InputContainer = av.open(file, "r", container_options=options, metadata_errors="replace")
    except FileNotFoundError:
        raise LivemarksError(f"{name}: there is no such file") from None
    except PermissionError:
        raise LivemarksError(f"{name}: no permission to read it") from None
    except FFmpegError as error:
        why = "it is no media file, or it is cut short and lacks its index"
        raise LivemarksError(f"{name} can't be read as video ({error.strerror}): {why}") from error
    return container


def picture_stream(container: InputContainer, name: str) -> VideoStream:
    """The best video stream, by FFmpeg's choice. LivemarksError if there is none."""
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or Disposition.attached_pic in Disposition(stream.disposition):
        why = "only sound" if container.streams.audio else "or it is cut short and lacks its index"
        raise LivemarksError(f"{name} has no video in it, {why}")
    if stream.codec_context is None or stream.codec_context.name in _TEXT_ART:
        raise LivemarksError(f"{name} is no video that can be decoded")
    return stream


def span_s(container: InputContainer, stream: Stream) -> tuple[float, float]:
    """When a stream starts and ends, by the file's header; 0 if it doesn't say. The earliest end that it may mean."""
    if stream.duration and stream.time_base:
        start, duration, tick_s = stream.start_time, stream.duration, stream.time_base
    else:
        start, duration, tick_s = container.start_time, container.duration or 0, Fraction(1, av.time_base)
    start_s, duration_s = float((start or 0) * tick_s), float(duration * tick_s)
    return start_s, duration_s if container.format.name in _FROM_0 else start_s + duration_s


def indexed(container: InputContainer, stream: Stream) -> int:
    """How many packets the index of an mp4 or mov says a stream has, but for those that its edit list leaves out.

    0 for other formats, which list key frames or what was read, and for files in fragments. PyAV before 17 tells none.
    """
    listed = stream.frames > 0 and container.format.name.startswith("mov,")
    return sum(entry.size > 0 for entry in stream.index_entries) if listed and hasattr(stream, "index_entries") else 0


def rate_of(stream: VideoStream) -> Fraction | None:
    return stream.average_rate or stream.guessed_rate or None


def frames_of(container: InputContainer, stream: VideoStream) -> int | None:
    """How many frames there should be: as counted by the file, or from how long it says it is."""
    start_s, end_s = span_s(container, stream)
    return stream.frames or round(max(0, end_s - start_s) * (rate_of(stream) or 0)) or None


def frames_in(path: str) -> int | None:
    """How many frames a file should have by its header; None if that doesn't say, or can't be read."""
    try:
        with open_media(path, path) as container:
            return frames_of(container, picture_stream(container, path))
    except LivemarksError:
        return None
