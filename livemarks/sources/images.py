"""Images from files, folders and globs. FFmpeg decodes them, because cv2 prints what it thinks of bad ones.

What FFmpeg doesn't know is for OpenCV.
"""

from __future__ import annotations

import glob
import io
import itertools
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import av
import cv2
import numpy as np
from av.error import FFmpegError, PatchWelcomeError
from av.video.frame import VideoFrame

from livemarks.sources import _devices
from livemarks.sources._pictures import Canvas, Turn
from livemarks.types import U8, Frame, LivemarksError, SourceInfo

# What is taken from a folder. A file that is named may be called anything.
SUFFIXES = (".bmp", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# The slow and exact way, since a picture is looked at once, and JPEGs should look as they did in training: swscale's
# SWS_BICUBIC, SWS_FULL_CHR_H_INT and SWS_ACCURATE_RND, of which PyAV before 18 has no names.
_SCALING = 0x4 | 0x2000 | 0x40000

# How the pictures of phones begin. They are kept in tiles, which FFmpeg doesn't join, and turned in their own way.
_PHONE = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")

# A list of other media, whatever it calls itself, leads nowhere: neither to the network nor to other files.
_NOWHERE = {"protocol_whitelist": "pipe"}

# Larger files aren't read, since a file is read whole: so many pixels fit in, as they are.
_MOST_BYTES = 1 << 30

# Beyond this FFmpeg refuses to take memory for a picture.
_MOST_PX = 1 << 28
_WHY = "it is of no kind that is read here, is damaged, or has more than 268 million pixels"
_RARE = "it is of a rare kind that nothing here reads; save it as PNG"

# How JPEG files begin, a marker for the start and the next one's first byte; and the marker that ends their header.
_JPEG, _SCAN = b"\xff\xd8\xff", b"\xda"

# How TIFF files begin, some of their tags, compressions that hold JPEG, old and new, and the first of libtiff's own,
# Zstandard; two kinds of colours (TIFF 6.0; DNG 1.7; libtiff's tiff.h).
_TIFF = (b"II*\0", b"MM\0*")
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLOURS = 0x0100, 0x0101, 0x0102, 0x0103, 0x0106
_ORIENTATION, _SAMPLES, _DNG = 0x0112, 0x0115, 0xC612
_JPEG_IN_TIFF, _ZSTD = (6, 7), 50_000
_YCBCR_OR_LAB = (6, 8)
_LONG = 4  # the kind of a tag's value that has four bytes; others are short

# The header of an extended WebP file: flags, one of which says that the picture moves; width and height less 1
# (developers.google.com/speed/webp/docs/riff_container).
_WEBP = re.compile(rb"RIFF.{4}WEBPVP8X.{4}(.)...(...)(...)", re.DOTALL)
_MOVING = 0x02

# By Exif's orientation (Exif 2.32, 4.6.4): how to show what is stored.
_TURNS: dict[int, Turn] = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


class Source:
    """The images that `paths` name: files, folders (not those inside) and globs; t_s is the index.

    Within a folder and a glob they come in the order people count in (2 before 10). Orientation as noted by the camera
    is honoured; grey becomes BGR; transparency is dropped. After a loop that was broken off, the next goes on.

    files: all that there are to read. names: names[i] is the one that frame i shows; grows as they are read. A file
    that can't be read is skipped and noted in `notices`; LivemarksError if none can, or if there is no file.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.notices: list[str] = []
        self.names: list[str] = []
        self.files = list(itertools.chain.from_iterable(map(_files, paths)))
        self._left = iter(self.files)
        self._closed = False
        name = paths[0] if len(paths) == 1 else f"{len(self.files)} images"
        self.info = SourceInfo(name, None, None, len(self.files), live=False)

    def __iter__(self) -> Iterator[Frame]:
        for file in self._left:
            if self._closed:
                return
            try:
                image = _read(file)
            except LivemarksError as error:
                self.notices.append(str(error))
                continue
            self.names.append(file.as_posix())
            yield Frame(image, len(self.names) - 1, float(len(self.names) - 1))
        if not self.names:
            more = f", nor any of {len(self.files) - 1} others" if len(self.files) > 1 else ""
            raise LivemarksError(self.notices[0] + more)

    def close(self) -> None:
        """Ends the iteration after the image at hand."""
        self._closed = True


def _files(path: str) -> list[Path]:
    """The image files that one path stands for. LivemarksError if there are none."""
    if os.path.isdir(path):
        try:
            files = list(Path(path).iterdir())
        except OSError as error:
            raise LivemarksError(f"{path} can't be read: {error.strerror}") from error
        named = (file for file in files if file.suffix.lower() in SUFFIXES and file.name[0] != ".")
        found = [file for file in named if not os.path.isdir(file)]  # a link that leads nowhere is a missing image
        if not found:
            raise LivemarksError(f"there is no image in {path}; their names end in {', '.join(SUFFIXES)}")
    elif os.path.exists(path):  # first of all: a name may have brackets in it
        found = [Path(path)]
    else:
        found = [Path(match) for match in glob.glob(path, recursive=True) if os.path.isfile(match)]
        if not found:
            what = "no file matches" if glob.has_magic(path) else "there is no file"
            raise LivemarksError(f"{what} {path}")
    return sorted(found, key=_in_counting_order)


def _in_counting_order(file: Path) -> list[str | int]:
    """Sorts a2 before a10: numbers within the name by their value. Words and numbers take turns, so they compare."""
    parts = re.split(r"(\d+)", file.as_posix().casefold())
    return [int(part) if part.isdecimal() else part for part in parts]


def _read(file: Path) -> U8:
    """(H, W, 3) BGR. LivemarksError if the file isn't an image."""
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise LivemarksError(f"{file} can't be read as an image: it is larger than 1 GiB")
        data = file.read_bytes()
        tags = _tags(data)
        turn = _TURNS.get(tags.get(_ORIENTATION, 1), _TURNS[1])
        if size_wh := _for_opencv(data, tags):
            return _read_by_opencv(data, size_wh, turn)
        # By itself FFmpeg takes a JPEG with another one behind it, as some cameras' are, for a film or for nothing.
        format = "jpeg_pipe" if data.startswith(_JPEG) else None
        with av.open(io.BytesIO(data), "r", format=format, container_options=_NOWHERE) as container:
            format = container.format.name
            if data[4:12] in _PHONE:
                raise LivemarksError(f"{file} is HEIC or AVIF, which can't be read here; save it as JPEG or PNG")
            if not (format.endswith("_pipe") or format in ("image2", "gif", "apng")):
                raise LivemarksError(f"{file} is no image of a kind that is read here; `livemarks video` reads videos")
            picture = next(container.decode(video=0))
            return Canvas(picture, turn, scaling=_SCALING)(picture)
    except OSError as error:
        raise LivemarksError(f"{file} can't be read: {error.strerror}") from error
    except (FFmpegError, StopIteration, cv2.error) as error:
        why = _RARE if isinstance(error, PatchWelcomeError) or _is_rare(data, tags) else _WHY
        raise LivemarksError(f"{file} can't be read as an image: {why}") from error


def _for_opencv(data: bytes, tags: Mapping[int, int]) -> tuple[int, int] | None:
    """Width and height of a picture that FFmpeg refuses, or makes black or of wrong colours without a word; or None."""
    if data[:4] in _TIFF and _DNG not in tags:
        if tags.get(_COMPRESSION) in _JPEG_IN_TIFF or tags.get(_COLOURS) in _YCBCR_OR_LAB:
            return tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0)
    elif (webp := _WEBP.match(data)) and webp[1][0] & _MOVING:
        return int.from_bytes(webp[2], "little") + 1, int.from_bytes(webp[3], "little") + 1
    return None


def _read_by_opencv(data: bytes, size_wh: tuple[int, int], turn: Turn) -> U8:
    """(H, W, 3) BGR. cv2.error if it can't."""
    _devices.hush()
    image = None
    if size_wh[0] * size_wh[1] <= _MOST_PX:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise cv2.error("too large, or damaged")
    if data[:4] in _TIFF:  # which it has turned all the same
        turn = _TURNS[1]
    picture = VideoFrame.from_ndarray(np.asarray(image, np.uint8), "bgr24")
    return Canvas(picture, turn)(picture)


def _is_rare(data: bytes, tags: Mapping[int, int]) -> bool:
    """Whether it is a TIFF with numbers of 32 bits, or in one of the newer compressions."""
    wide = tags.get(_SAMPLES, 1) == 1 and tags.get(_BITS, 1) > 16
    return data[:4] in _TIFF and (wide or tags.get(_COMPRESSION, 1) >= _ZSTD)


def _tags(data: bytes) -> dict[int, int]:
    """The first list of tags of a TIFF file, or of the Exif header of a JPEG, PNG or WebP file; empty without one.

    Exif is a TIFF header and a list of tags, which each kind of file announces in its own way. FFmpeg reads it too, but
    PyAV can't hand it on in full. Only numbers that stand in the list itself are right.
    """
    tags: dict[int, int] = {}
    end = len(data)
    if data.startswith(_JPEG):
        end = 2
        while data[end : end + 1] == b"\xff" and data[end + 1 : end + 2] != _SCAN:  # or another JPEG's would do
            end += 2 + int.from_bytes(data[end + 2 : end + 4], "big")
    header = re.search(rb"(?:\A|Exif\0\0|eXIf|EXIF.{4})(II\*\0|MM\0\*)", data[:end], re.DOTALL)
    if header is None:
        return tags
    start, order = header.start(1), "<" if header[1] == b"II*\0" else ">"
    try:
        (offset,) = struct.unpack_from(f"{order}I", data, start + 4)
        (count,) = struct.unpack_from(f"{order}H", data, start + offset)
        for at in range(start + offset + 2, start + offset + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", data, at)
            (value,) = struct.unpack_from(f"{order}{'I' if kind == _LONG else 'H'}", data, at + 8)
            tags.setdefault(tag, value)
    except struct.error:  # cut short
        pass
    return tags
