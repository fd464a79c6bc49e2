"""`livemarks doctor`: looks for the usual troubles of a machine, and says what to do about each."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from pathlib import Path

from livemarks import __version__

# What livemarks can't do without: module and the package that brings it.
_NEEDED = {
    "numpy": "numpy",
    "cv2": "opencv-contrib-python",
    "av": "av",
    "rich": "rich",
    "onnxruntime": "onnxruntime",
}
_OPTIONAL = ("mediapipe", "torch", "torch-tensorrt", "onnx")
# Wheels that all unpack into one `cv2` folder: with two of them installed, the later one has overwritten the other.
_CV2_WHEELS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_TRIES = 10
_SLOW_MS = 15.0  # half of a camera's 33 ms; the other half goes to decoding, drawing and the screen
_LITTLE_GB = 1.0
_CAMERAS = 4  # how many numbers to try where the system doesn't list its cameras


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's table. good: None where something is only absent, which is no fault."""

    what: str
    good: bool | None
    text: str


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-cameras", action="store_true", help="leave the cameras alone: their lights would go on")


def run(args: argparse.Namespace) -> int:
    from rich.table import Table
    from rich.text import Text

    from livemarks.commands._table import show

    table = Table("check", "", "finding", title="livemarks doctor", title_justify="left")
    marks = {True: Text("ok", "green"), False: Text("broken", "bold red"), None: Text("-", "dim")}
    broken = 0
    for finding in examine(cameras=not args.no_cameras):
        table.add_row(finding.what, marks[finding.good], Text(finding.text))
        broken += finding.good is False
    show(table)
    return 1 if broken else 0


def examine(*, cameras: bool = True) -> Iterator[Finding]:
    """Every finding, in the order in which things depend on each other."""
    yield Finding("livemarks", True, __version__)
    yield Finding("python", True, f"{platform.python_version()} on {platform.platform()}")
    try:
        os.getcwd()
    except FileNotFoundError:  # which PyTorch's libraries don't survive
        yield Finding("this folder", False, "it was removed; change into another one")
        return
    whole = True
    for module, package in _NEEDED.items():
        finding = _checked(package, partial(_library, module, package))
        whole = whole and finding.good is True
        yield finding
    for package in _OPTIONAL:
        yield _optional(package)
    if len(wheels := [name for name in _CV2_WHEELS if _version(name)]) > 1:
        text = f"{' and '.join(wheels)} share one folder; uninstall all, then install opencv-contrib-python again"
        yield Finding("opencv", False, text)
    yield from _weights()
    if not whole:
        return  # the rest would only repeat it
    yield _checked("encoder", _encoder)
    yield from _detectors()
    yield from _backends()
    yield _checked("speed", _speed, needed=False)
    yield from _places()
    yield _display()
    if cameras:
        yield from _cameras()


def _checked(what: str, check: Callable[[], str], needed: bool = True) -> Finding:
    """The finding of a check that returns its text, or raises what is wrong: anything, from drivers and libraries."""
    try:
        return Finding(what, True, check())
    except Exception as error:  # a doctor must outlive every illness
        text = (str(error).splitlines() or [type(error).__name__])[0]
        return Finding(what, False if needed else None, text)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _library(module: str, package: str) -> str:
    try:
        import_module(module)
    except ImportError as error:
        if "shared object" in str(error):  # a minimal Debian or Ubuntu
            cure = "apt install libgl1 libegl1 libgles2 libglib2.0-0"
        else:
            cure = f"pip install --force-reinstall {package}"
        raise ImportError(f"{error}; try: {cure}") from error
    if misfit := _misfit(package):
        raise ImportError(misfit)
    return _version(package)


def _optional(package: str) -> Finding:
    if not _version(package):
        return Finding(package, None, "not installed; not needed")
    misfit = _misfit(package)
    return Finding(package, None if misfit else True, misfit or _version(package))


def _misfit(package: str) -> str:
    """What there is to say against the version of a package that is installed; empty if it suits."""
    try:
        needs = metadata.requires("livemarks") or []
    except metadata.PackageNotFoundError:  # run from a folder, not installed
        return ""
    has = _numbers(_version(package))
    for name, span in re.findall(r"(?m)^([\w-]+)([^;\n]*)", "\n".join(needs)):  # torch<2.14,>=2.13; extra == 'train'
        bounds = re.findall(r"(>=|<)([\d.]+)", span)
        if name == package and not all((has >= _numbers(number)) == (sign == ">=") for sign, number in bounds):
            return f"{_version(package)} is installed, livemarks goes with {span}: pip install '{package}{span}'"
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 13, 0) of "2.13.0+cpu"."""
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])[:3]))


def _weights() -> Iterator[Finding]:
    from livemarks import weights
    from livemarks.types import LivemarksError

    def check(file: Path) -> str:
        weights.verify(file)
        return ""

    try:
        files = weights.listed()
    except LivemarksError as error:
        yield Finding("weights", False, str(error))
        return
    findings = [_checked(f"weights {file.name}", partial(check, file)) for file in files]
    yield from [finding for finding in findings if not finding.good] or [
        Finding("weights", True, f"{len(files)} files, all whole")
    ]


def _encoder() -> str:
    if "libx264" not in import_module("av").codecs_available:
        raise ImportError("this PyAV has no libx264, and no film can be written: pip install --force-reinstall av")
    return "H.264"


def _detectors() -> Iterator[Finding]:
    import numpy as np

    from livemarks import plugins
    from livemarks.types import Frame

    def check(name: str) -> str:
        detector = plugins.load("detectors", name)("auto")
        detector(Frame(np.zeros((64, 64, 3), np.uint8), 0, 0.0))
        detector.close()
        return "runs"

    for name in plugins.names("detectors"):
        if name == "fixed":  # has no eyes
            continue
        yield _checked(f"detector {name}", partial(check, name), needed=name == "blazeface")


def _backends() -> Iterator[Finding]:
    import numpy as np

    from livemarks import api, plugins

    def check(name: str) -> str:
        net = api.open_net(backend=name)
        net.runner(np.zeros((1, *net.card.size_hw, 3), np.uint8))
        net.runner.close()
        return net.runner.label

    for name in plugins.names("backends"):
        yield _checked(f"backend {name}", partial(check, name), needed=name == "onnx")


def _speed() -> str:
    """How long one face takes, at best: old, throttled and virtual machines all look alike here."""
    import numpy as np

    from livemarks import api

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    net = api.open_net()
    crops = np.zeros((1, *net.card.size_hw, 3), np.uint8)
    spent_s = []
    for _ in range(_TRIES):
        start_s = time.perf_counter()
        net.runner(crops)
        spent_s.append(time.perf_counter() - start_s)
    net.runner.close()
    face_ms = 1e3 * min(spent_s)
    text = f"{cores} CPU core{'' if cores == 1 else 's'}; {net.card.name} takes {face_ms:.1f} ms a face"
    if face_ms > _SLOW_MS:
        raise RuntimeError(f"{text}, too slow for a camera: close other programs, plug the laptop in")
    return text


def _places() -> Iterator[Finding]:
    """Where files are written: here, and the cache, which only TensorRT's engines need."""
    from livemarks.backends._engines import folder

    for what, name in (("this folder", Path.cwd), ("cache", folder)):
        yield _checked(what, partial(_room, name), needed=False)


def _room(name: Callable[[], Path]) -> str:
    place = name()
    # os.path says no where Path.exists raises, up to Python 3.13: in a folder that can't be looked into
    there = next(parent for parent in (place, *place.parents) if os.path.exists(parent))
    free_gb = shutil.disk_usage(there).free / 1e9
    if not os.access(there, os.W_OK):
        raise PermissionError(f"{there} can't be written in")
    if free_gb < _LITTLE_GB:
        raise OSError(f"{place} has {free_gb:.1f} GB left; a film takes some 0.1 GB in ten minutes")
    return f"{place}, {free_gb:.0f} GB free"


def _display() -> Finding:
    from livemarks.sinks.window import no_display

    if reason := no_display():
        return Finding("display", None, f"{reason}; livemarks webcam then runs without a window")
    return Finding("display", True, "windows can be shown")


def _cameras() -> Iterator[Finding]:
    from livemarks import plugins

    def check(number: int) -> str:
        camera = plugins.load("sources", "camera")(number)
        camera.close()
        width, height = camera.info.size_wh
        return f"{width}x{height} at {float(camera.info.fps or 0):.0f} fps"

    numbers = list(range(_CAMERAS))
    if sys.platform == "linux":
        nodes = [path.name.removeprefix("video") for path in Path("/dev").glob("video*")]
        numbers = sorted(int(node) for node in nodes if node.isdecimal())
    if not numbers:
        yield Finding("camera", None, "none is connected")
    for number in numbers:
        yield _checked(f"camera {number}", partial(check, number), needed=False)
