"""A cache of built engines: files in the user's cache folder that are whole, or built again."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from livemarks.types import LivemarksError

T = TypeVar("T")


def folder() -> Path:
    """The cache folder of livemarks, by the customs of the system. Raises LivemarksError if the user has no home."""
    variable, usual = ("LOCALAPPDATA", "AppData/Local") if sys.platform == "win32" else ("XDG_CACHE_HOME", ".cache")
    try:
        base = Path(os.environ.get(variable) or Path.home() / usual)
    except RuntimeError:  # neither $HOME nor an entry in the system's list of users
        raise LivemarksError(f"there is no home folder to keep engines in; name one in {variable}") from None
    return base / "livemarks"


def key(*parts: object) -> str:
    """A name for all that an engine depends on: any other version, device or shape has another one."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def load_or_build(file: Path, load: Callable[[Path], T], build: Callable[[Path], None]) -> T:
    """What `load` makes of `file`; a file that is absent, damaged or refused is made anew by `build` first."""
    if _is_whole(file):
        try:
            return load(file)
        except (RuntimeError, ValueError, OSError):  # what PyTorch raises for a file it can't use
            pass
    file.parent.mkdir(parents=True, exist_ok=True)
    # Two programs may build at once, in two containers even under one process number; the last one's engine stays.
    temporary = file.with_name(f"{secrets.token_hex(4)}-{file.name}")
    try:
        build(temporary)
        with _sum_file(file).open("a", encoding="ascii") as sums:  # first, and beside the other's: never amiss
            sums.write(_digest(temporary) + "\n")
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return load(file)


def _is_whole(file: Path) -> bool:
    try:
        return _digest(file).encode() in _sum_file(file).read_bytes()
    except OSError:
        return False


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _sum_file(file: Path) -> Path:
    return file.with_name(file.name + ".sha256")
