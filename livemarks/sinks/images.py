"""The drawn images as files, each under its own name, in a folder of their own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import cv2

from livemarks.types import U8, LivemarksError, Result, Tally

# An image keeps its format if that is one of these, with these settings; any other gets .png behind its name.
_FORMATS = {
    ".png": [cv2.IMWRITE_PNG_COMPRESSION, 1],  # OpenCV's own choice, and the quickest
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 95],
    ".bmp": [],
}


class Sink:
    """Writes into `folder`, which is made if it is missing. paths: of the originals, by frame index.

    Images from several folders keep that part of their paths in which they differ. Raises LivemarksError before any
    work if the folder can't be written, or if an original would be overwritten.
    """

    wants_pixels = True

    def __init__(self, folder: str, paths: Sequence[str]) -> None:
        self._folder = Path(folder)
        self._targets = [self._folder / name for name in _names(paths)]
        for path, target in zip(paths, self._targets, strict=True):
            if target.exists() and os.path.exists(path) and target.samefile(path):
                raise LivemarksError(f"{target} is an original and would be overwritten; choose another output folder")
        self._made = not self._folder.exists()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LivemarksError(f"can't make the folder {folder}: {error.strerror}; choose another") from error
        if not os.access(self._folder, os.W_OK):
            raise LivemarksError(f"can't write in {folder}: permission denied; choose another folder")

    def write(self, result: Result, image: U8 | None, tally: Tally) -> None:  # noqa: ARG002 - pixels only
        """LivemarksError if the disk is full."""
        target = self._targets[result.frame.index]
        picture = result.frame.image if image is None else image
        suffix = target.suffix.lower()
        data = cv2.imencode(suffix, picture, _FORMATS[suffix])[1].tobytes()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)  # cv2.imwrite hides errors, and fails on some names
        except OSError as error:
            raise LivemarksError(f"can't write {target}: {error.strerror}; what came before is kept") from error

    def close(self) -> None:
        if self._made:
            with suppress(OSError):  # it is not empty, as it should be
                self._folder.rmdir()


def _names(paths: Sequence[str]) -> list[str]:
    """Names within the output folder, no two the same."""
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]) if paths else ""
    names = [os.path.relpath(os.path.abspath(path), root) for path in paths]
    return [name if Path(name).suffix.lower() in _FORMATS else f"{name}.png" for name in names]
