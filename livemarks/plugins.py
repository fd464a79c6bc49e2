"""Plug-ins by file name: a module in a plug-in folder is one plug-in, and its name is the file's, `_` read as `-`.

Each kind of folder has one agreed symbol. There is no list to keep here and nothing runs at import. Modules whose name
starts with an underscore are shared parts, not plug-ins.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from livemarks.types import LivemarksError

SYMBOLS = {
    "schemes": "SCHEME",  # a types.Scheme
    "detectors": "Detector",  # class: types.Detector; Detector(range: str = "auto", faces: int | None = 1)
    "models": "build",  # build(scheme: Scheme, *, size_hw, **options) -> models._net.LandmarkNet
    "backends": "load",  # load(path: Path, card: Card, **options) -> types.Runner
    "sources": "Source",  # class: types.Source
    "sinks": "Sink",  # class: types.Sink
}


def names(kind: str) -> list[str]:
    """Public names of all plug-ins of a kind, sorted; nothing is imported."""
    folder = Path(__file__).parent / kind
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules([str(folder)]) if m.name[0] != "_")


def load(kind: str, name: str) -> Any:
    """The agreed symbol of one plug-in.

    Raises LivemarksError if there is no such plug-in, naming the choices, or if it lacks the symbol; ImportError if it
    needs what isn't installed.
    """
    if name not in names(kind):
        raise LivemarksError(f"no {kind[:-1]} is called {name!r}; there are: {', '.join(names(kind))}")
    try:
        module = importlib.import_module(f"livemarks.{kind}.{name.replace('-', '_')}")
    except ImportError as error:
        raise ImportError(f"{error} (for the {kind[:-1]} {name})", name=error.name) from error
    if not hasattr(module, SYMBOLS[kind]):
        raise LivemarksError(f"the {kind[:-1]} {name} defines no {SYMBOLS[kind]}")
    return getattr(module, SYMBOLS[kind])
