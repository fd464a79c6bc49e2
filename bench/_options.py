"""Options that several benches have; what is wrong with them is said before anything is measured."""

from __future__ import annotations

import argparse
from pathlib import Path

PEERS = ("mediapipe", "dlib")


def to_write(text: str) -> Path:
    """A file in a folder that is there."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no file that can be written: {path.parent} must be a folder")
    return path


def picture(text: str) -> Path:
    """A PNG in a folder that is there."""
    if Path(text).suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} is no picture that can be written; its name must end in .png")
    return to_write(text)


def peers(text: str) -> list[str]:
    """Known names with a comma between them; none of them if it says so, or nothing."""
    names = [] if text in ("", "none") else text.split(",")
    for name in names:
        _known(name)
    return names


def peer_python(text: str) -> tuple[str, str]:
    """PEER=PATH."""
    name, _, path = text.partition("=")
    if not path:
        raise argparse.ArgumentTypeError(f"{text!r} names no interpreter; write it as mediapipe=PATH")
    _known(name)
    return name, path


def _known(peer: str) -> None:
    if peer not in PEERS:
        raise argparse.ArgumentTypeError(f"no peer is called {peer!r}; there are: {', '.join(PEERS)}")
