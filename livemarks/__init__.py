"""livemarks finds facial landmarks in live video, and keeps hold of them.

    import livemarks

    tracker = livemarks.open_tracker()
    for frame in livemarks.open_source("clip.mp4"):
        for face in tracker.step(frame).faces:
            print(face.id, face.landmarks.xy)

`xy` is (68, 2) in pixels of the frame. `open_source` takes a video file, an image, a folder, a camera's number or a
stream's address; pictures of one's own go in as `livemarks.Frame(image, index, t_s)`. The `livemarks` command does the
same without a line of Python.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from livemarks import draw, pipeline, types
    from livemarks.api import open_landmarks, open_net, open_source, open_tracker
    from livemarks.types import Frame, LivemarksError

# With its hardware transforms on, Windows' Media Foundation takes up to a minute to open a camera. OpenCV reads this
# once, when some module of ours first imports it.
os.environ.setdefault("OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS", "0")

__version__ = "0.1.0"
__all__ = [
    "Frame",
    "LivemarksError",
    "draw",
    "open_landmarks",
    "open_net",
    "open_source",
    "open_tracker",
    "pipeline",
    "types",
]
_MODULES = ("draw", "pipeline", "types")


def __getattr__(name: str) -> Any:
    """Public names are looked up when they are first used, so that `import livemarks` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'livemarks' has no attribute {name!r}")
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"livemarks.{name}")  # which becomes an attribute here
    value = getattr(import_module("livemarks.api" if name.startswith("open_") else "livemarks.types"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
