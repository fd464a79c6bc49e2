"""What bench/latency.py films: a clip, or a portrait in motion, alone or in a crowd."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import livemarks
from livemarks import api, plugins
from livemarks.types import U8, LivemarksError, Result, Tally

SIZES_WH = ((640, 360), (1280, 720), (1920, 1080), (3840, 2160))
FPS = 30
WARM_FRAMES = 15  # the detector's first look, libraries that load late, buffers that grow
PORTRAIT = Path(livemarks.__file__).parent / "portrait.jpg"


def portrait() -> U8:
    """The public-domain portrait that `livemarks demo` moves about."""
    image = cv2.imread(str(PORTRAIT))
    if image is None:
        raise LivemarksError(f"{PORTRAIT} is missing or damaged; install livemarks again")
    return np.asarray(image, np.uint8)


def open_source(spec: str, size_wh: tuple[int, int], seconds: float, *, live: bool = False, seed: int = 0) -> Any:
    """The portrait in motion, or a clip as it is."""
    if spec != "synthetic":
        return api.open_source(spec)
    make = plugins.load("sources", "synthetic")
    return make(portrait(), seconds=seconds, fps=FPS, size_wh=size_wh, seed=seed, live=live)


def as_file(spec: str, size_wh: tuple[int, int], seconds: float, folder: Path) -> str:
    """A clip's path: the portrait in motion is written to an mp4 in the folder first, a clip is itself."""
    if spec != "synthetic":
        return spec
    path = str(folder / "in.mp4")
    source = open_source(spec, size_wh, seconds)
    with closing(source), closing(plugins.load("sinks", "video")(path, source.info)) as sink:
        for frame in source:
            sink.write(Result(frame, (), {}), frame.image, Tally())
    return path


def frames_of(spec: str, size_wh: tuple[int, int], count: int, seed: int = 0) -> U8:
    """The first `count` frames of a source, (F, H, W, 3): scaled to cover the size, and cut to it."""
    width, height = size_wh
    frames = []
    with closing(open_source(spec, size_wh, count / FPS, seed=seed)) as source:
        for frame in source:
            scale = max(width / frame.size_wh[0], height / frame.size_wh[1])
            scaled_wh = (max(width, round(frame.size_wh[0] * scale)), max(height, round(frame.size_wh[1] * scale)))
            image = cv2.resize(frame.image, scaled_wh, interpolation=cv2.INTER_AREA)
            x, y = (scaled_wh[0] - width) // 2, (scaled_wh[1] - height) // 2
            frames.append(np.asarray(image[y : y + height, x : x + width], np.uint8))
            if len(frames) == count:
                break
    return np.stack(frames)


def crowd(faces: int, size_wh: tuple[int, int], count: int) -> U8:
    """As many portraits side by side, each moving in its own way: (F, H, W, 3)."""
    columns = math.ceil(math.sqrt(faces))
    width, height = size_wh[0] // columns, size_wh[1] // math.ceil(faces / columns)
    frames = np.zeros((count, size_wh[1], size_wh[0], 3), np.uint8)
    for i in range(faces):
        x, y = i % columns * width, i // columns * height
        frames[:, y : y + height, x : x + width] = frames_of("synthetic", (width, height), count, seed=i)
    return frames


def there_and_back(count: int, start: int, length: int) -> list[int]:
    """Indices into `count` frames, forwards and backwards by turns, so that nothing ever jumps."""
    period = max(1, 2 * (count - 1))
    return [min(i % period, period - i % period) for i in range(start, start + length)]
