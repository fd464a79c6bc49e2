"""The public Python API: plain words in; sources, nets, trackers and sinks out. The command line makes the same calls.

Whoever opens something closes it. What can't be opened raises LivemarksError, in one line that says what to do.
"""

from __future__ import annotations

import ctypes
import glob
import logging
import math
import os
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

from livemarks import plugins, smoothing, weights
from livemarks.landmarker import Landmarker
from livemarks.tracker import Tracker
from livemarks.types import Card, LivemarksError, Runner, Scheme, Sink, Source

log = logging.getLogger(__name__)

# What `auto` tries where there is an NVIDIA GPU, fastest first. Elsewhere it is onnx without a word.
_AUTO = ("tensorrt", "cudagraph", "onnx")

# Beyond all use, and still far from what fills a machine's memory with stacks.
_MOST_THREADS = 256

# A display is late by tens of milliseconds. What a face will do in a second nobody knows, and beyond it points fly off.
_MOST_AHEAD_S = 1.0


@dataclass(frozen=True, slots=True)
class Net:
    """A landmark net, loaded and ready to run. runner.label says on what, and what else was tried in vain."""

    card: Card
    scheme: Scheme
    runner: Runner


def open_source(
    spec: str | int | Path,
    *,
    live: bool = False,
    size_wh: tuple[int, int] | None = None,
    fps: float | None = None,
    camera_api: str = "auto",
) -> Source:
    """Opens what `spec` names: a camera by number, a stream by URL, a video, or an image, a folder or a glob of images.

    "-" is a video on standard input. A Path, or a string that names something there is, is no camera's number. live:
    play a video at its own pace, as a camera that drops frames; there a string of digits is always a camera. size_wh,
    fps and camera_api are asked of cameras alone.
    """
    if size_wh is not None and not _is_size(size_wh):
        raise LivemarksError(f"size_wh must be (width, height) in whole pixels above 0, not {size_wh!r}")
    if fps is not None and not (_is_finite(fps) and fps > 0):
        raise LivemarksError(f"fps must be a number above 0, not {fps!r}")
    size_wh = None if size_wh is None else (int(size_wh[0]), int(size_wh[1]))
    fps = None if fps is None else float(fps)
    text = str(spec)
    if text.isdecimal() and (isinstance(spec, Path) or (isinstance(spec, str) and not live and os.path.exists(text))):
        text = os.path.join(os.curdir, text)  # or it would be taken for a number
    if live or text.isdecimal() or "://" in text or text.startswith(("/dev/video", "/dev/v4l/")):
        camera: Source = plugins.load("sources", "camera")(text, size_wh=size_wh, fps=fps, api=camera_api)
        return camera
    from livemarks.sources.images import SUFFIXES  # here, as it needs PyAV

    is_images = os.path.isdir(text) or text.lower().endswith(SUFFIXES)
    if is_images or (glob.has_magic(text) and not os.path.exists(text)):
        images: Source = plugins.load("sources", "images")([text])
        return images
    video: Source = plugins.load("sources", "video")(text)
    return video


def open_net(
    model: str | Path = "lite-68",
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Net:
    """Loads a shipped net by name, or a model file, on a backend: auto, onnx, torch, cudagraph or tensorrt.

    `auto` takes the fastest that works here. device, precision: as the backend knows them. threads: None chooses.
    """
    _check_threads(threads)
    if not isinstance(model, (str, Path)):
        raise LivemarksError(f"model must be a net's name or the path of a file, not {model!r}")
    path = weights.find(model)
    weights.verify(path)
    card = weights.read_card(path)
    scheme: Scheme = plugins.load("schemes", card.scheme)
    wanted: tuple[str, ...] = (backend,)
    if backend == "auto":
        wanted = _AUTO if device != "cpu" and _has_nvidia_driver() else ("onnx",)
    failed: list[str] = []
    for name in wanted:
        try:
            runner = _runner(name, path, card, device=device, threads=threads, precision=precision)
        except LivemarksError as error:
            if len(wanted) == 1:
                raise
            failed.append(f"{name}: {error}")
            continue
        if failed:
            runner.label = f"{runner.label} ({'; '.join(failed)})"
            log.info("backend: %s", runner.label)
        return Net(card, scheme, runner)
    raise LivemarksError(f"no backend can run {card.name} here: {'; '.join(failed)}")


def open_tracker(
    model: str | Path | Net = "lite-68",
    *,
    faces: int = 1,
    smooth: str = "light",
    range: str = "auto",
    detector: str = "blazeface",
    extrapolate_s: float = 0.0,
    rest_s: float = 0.0,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Tracker:
    """A tracker: `tracker.step(frame)` finds the faces in a frame, and knows them again in the next.

    model, and the last four: as of `open_net`, or the Net it gave. faces: follow at most so many. smooth: off, light,
    medium or strong. range: how far faces may be from the camera, short, full or auto. detector: blazeface; or
    mediapipe, the same nets run by MediaPipe, which reports its use to Google. extrapolate_s: how far ahead of the
    frame's time the points shall be, to make up for the delay of a display; at most 1. rest_s: while nobody is there,
    look only so often; the search for small faces takes ten times as long as following one.

    The tracker closes the detector and the net with itself, a Net given to it as well.
    """
    _check_threads(threads)
    if not isinstance(faces, Integral):
        raise LivemarksError(f"faces must be a whole number, not {faces!r}")
    if not (_is_finite(extrapolate_s) and 0 <= extrapolate_s <= _MOST_AHEAD_S):
        raise LivemarksError(f"extrapolate_s must be a number of seconds from 0 to 1, not {extrapolate_s!r}")
    if not (_is_finite(rest_s) and rest_s >= 0):
        raise LivemarksError(f"rest_s must be a number of seconds from 0 on, not {rest_s!r}")
    if smooth == "off" and extrapolate_s > 0:
        raise LivemarksError("extrapolation needs smoothing, and it is off: choose light, medium or strong")
    smoother = smoothing.preset(smooth, extrapolate_s)
    with ExitStack() as opened:  # closed if what comes next is refused
        if not isinstance(model, Net):
            model = open_net(model, backend=backend, device=device, precision=precision, threads=threads)
            opened.callback(model.runner.close)
        seeker = opened.enter_context(closing(plugins.load("detectors", detector)(range, faces)))
        landmarker = Landmarker(model.runner, model.card, model.scheme)
        tracker = Tracker(seeker, landmarker, smoother, faces=faces, rest_s=rest_s)
        opened.pop_all()
    return tracker


def open_landmarks(path: str | Path, source: Source, net: Net) -> Sink:
    """A sink for the points of a run: JSON lines or a csv table, as the suffix says; "-" is JSON on standard output."""
    if not isinstance(path, (str, Path)):
        raise LivemarksError(f"path must name a file of landmarks, not {path!r}")
    suffix = ".jsonl" if str(path) == "-" else Path(path).suffix.lower()
    if suffix not in (".jsonl", ".csv"):
        raise LivemarksError(f"can't tell how to write {path}: the name of a file of landmarks ends in .jsonl or .csv")
    if not isinstance(net, Net):
        raise LivemarksError(f"net must be what open_net gives, not {net!r}")
    sink: Sink = plugins.load("sinks", suffix[1:])(
        str(path),
        source.info,
        scheme=net.scheme,
        model=net.card.name,
        backend=net.runner.label,
        names=getattr(source, "names", None),
    )
    return sink


def _runner(backend: str, path: Path, card: Card, **options: object) -> Runner:
    """The net on a backend. LivemarksError also for what PyTorch and CUDA raise: a library that can't be loaded, a GPU
    that is full or that this PyTorch doesn't know."""
    load = plugins.load("backends", backend)
    try:
        runner: Runner = load(path, card, **options)
    except (ImportError, OSError, RuntimeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise LivemarksError(f"backend {backend} can't be used: {why}") from error
    return runner


def _check_threads(threads: object) -> None:
    if not (threads is None or (isinstance(threads, Integral) and 1 <= int(threads) <= _MOST_THREADS)):
        raise LivemarksError(f"threads must be None or a whole number from 1 to {_MOST_THREADS}, not {threads!r}")


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and int(value) > 0


def _is_size(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_count, value))


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _has_nvidia_driver() -> bool:
    """Whether CUDA's driver is installed: asked of the system, since asking torch would cost seconds."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
