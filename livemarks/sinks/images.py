"""The drawn images as files, each under its own name, in a folder of their own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import cv2

from livemarks.sinks._output import Draft
from livemarks.types import U8, LivemarksError, Result, Tally

# An image keeps its format if it is one of these, with these settings, and takes its size: JPEG ends at 65 500 px a
# side, WebP at 16 383. Any other gets .png behind its name.
_FORMATS = {
    ".png": [cv2.IMWRITE_PNG_COMPRESSION, 1],  # OpenCV's own choice, and the quickest
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 95],
    ".bmp": [],
}


class Sink:
    """Writes into `folder`, which is made if it is missing. LivemarksError, before any work, if that can't be.

    names: of the originals, by frame index; may grow with the run. Of two that share a file name the second gets a
    number. No frame overwrites its own original, nor what a link leads to, which may be another's.
    """

    wants_pixels = True

    def __init__(self, folder: str, names: Sequence[str]) -> None:
        self._folder, self._names = Path(folder), names
        self._written: set[str] = set()
        self._made = not self._folder.exists()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LivemarksError(f"can't make the folder {folder}: {error.strerror}; choose another") from error
        if not os.access(self._folder, os.W_OK):
            raise LivemarksError(f"can't write in {folder}: permission denied; choose another folder")

    def write(self, result: Result, image: U8 | None, tally: Tally) -> None:  # noqa: ARG002 - pixels only
        """LivemarksError if the disk is full, the target is the original or a link, or no format holds the picture."""
        original = Path(self._names[result.frame.index])
        picture = result.frame.image if image is None else image
        name, data = original.name, _encoded(picture, original.suffix)
        if data is None:
            name, data = f"{name}.png", _encoded(picture, ".png")
        if data is None:
            raise LivemarksError(f"can't write {self._folder / name}: no format holds {_size(picture)} pixels")
        target = self._folder / self._free(name)
        if target.is_symlink() or (target.exists() and original.exists() and target.samefile(original)):
            raise LivemarksError(f"{target} is a link or an original, which is not overwritten; choose another folder")
        draft = Draft(str(target), None)
        try:
            Path(draft.path).write_bytes(data)  # cv2.imwrite hides errors, and fails on some names
        except OSError as error:
            draft.drop()
            raise LivemarksError(f"can't write {target}: {error.strerror}; what came before is kept") from error
        draft.keep()

    def close(self) -> None:
        if self._made and not self._written:
            with suppress(OSError):  # somebody else may have used the folder meanwhile
                self._folder.rmdir()

    def _free(self, name: str) -> str:
        """This name, made one that no other image of this run has."""
        stem, suffix = os.path.splitext(name)
        number = 1
        while name.casefold() in self._written:  # as Windows and macOS compare names
            number += 1
            name = f"{stem}-{number}{suffix}"
        self._written.add(name.casefold())
        return name


def _encoded(picture: U8, suffix: str) -> bytes | None:
    """The picture as a file's content; None if the format is none of ours, or holds no picture of this size."""
    settings = _FORMATS.get(suffix.lower())
    if settings is None:
        return None
    try:
        ok, data = cv2.imencode(suffix, picture, settings)
    except cv2.error:
        return None
    return data.tobytes() if ok else None


def _size(picture: U8) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"
