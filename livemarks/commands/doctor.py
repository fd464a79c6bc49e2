"""`livemarks doctor`: looks for the usual troubles of a machine, and says what to do about each."""

from __future__ import annotations

import argparse
import os
import platform
import sys
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
    "mediapipe": "mediapipe",
    "av": "av",
    "rich": "rich",
    "onnxruntime": "onnxruntime",
}
_OPTIONAL = ("torch", "torch-tensorrt", "onnx")
# Wheels that all unpack into one `cv2` folder: with two of them installed, the later one has overwritten the other.
_CV2_WHEELS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
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
    yield Finding("python", True, f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} CPU cores")
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
    if not whole:
        return  # the rest would only repeat it
    yield from _weights()
    yield _checked("detector", _detector)
    yield from _backends()
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
    return _version(package)


def _optional(package: str) -> Finding:
    return Finding(package, True if _version(package) else None, _version(package) or "not installed; not needed")


def _weights() -> Iterator[Finding]:
    from livemarks import weights

    def check(name: str) -> str:
        path = weights.find(name)
        weights.verify(path)
        weights.read_card(path)
        return f"whole, {path.stat().st_size / 1e6:.1f} MB"

    for name in weights.names():
        yield _checked(f"weights {name}", partial(check, name))


def _detector() -> str:
    import numpy as np

    from livemarks import plugins
    from livemarks.types import Frame

    detector = plugins.load("detectors", "mediapipe")("auto")
    detector(Frame(np.zeros((64, 64, 3), np.uint8), 0, 0.0))
    detector.close()
    return "MediaPipe BlazeFace runs"


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


def _display() -> Finding:
    from livemarks.sinks.window import no_display

    return Finding("display", None if no_display() else True, no_display() or "windows can be shown")


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
