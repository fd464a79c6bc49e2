"""Imports run downwards only, plug-ins never import each other, heavy libraries stay in their rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import livemarks
from livemarks.plugins import SYMBOLS

ROOT = Path(livemarks.__file__).parent

# From the ground up. A room may import from any row below its own, and nothing from its own row.
LAYERS = (
    {"types"},
    {"plugins", "geometry", "clocks", "numbers"},
    {"weights", "smoothing", "draw", "metrics", "pipeline", "schemes", "models", "sources", "sinks"},
    {"landmarker", "backends", "detectors"},
    {"tracker", "train"},
    {"api"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
HEIGHT = {room: i for i, row in enumerate(LAYERS) for room in row}

# Libraries that cost seconds or hundreds of megabytes, and the only places that may ask for them.
HEAVY = {
    "torch": {"models", "backends", "train"},
    "torch_tensorrt": {"backends"},
    "onnxruntime": {"backends", "detectors"},
    "onnx": {"backends", "train", "weights"},
    "mediapipe": {"detectors"},
    "av": {"sources", "sinks"},
    "matplotlib": {"train"},
}


def module_name(path: Path) -> str:
    """`livemarks/sinks/video.py` -> `livemarks.sinks.video`."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(name: str) -> set[str]:
    """Every module that a module imports, at its top or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} line {node.lineno}: a relative import; write it in full"
            assert node.module is not None
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = whole & set(MODULES)
            found |= submodules if submodules == whole else {node.module} | submodules
    return found


def room(module: str) -> str:
    """`livemarks.sinks.video` -> `sinks`; the package itself, which imports nothing at once, has no room."""
    return module.split(".")[1] if "." in module else ""


def test_every_module_has_a_layer() -> None:
    assert {room(name) for name in MODULES} - {""} == set(HEIGHT)


@pytest.mark.parametrize("name", [name for name in MODULES if room(name)])
def test_imports_run_downwards(name: str) -> None:
    here = room(name)
    for target in imports(name):
        if not target.startswith("livemarks."):
            continue
        there = room(target)
        if there == here:
            shared = target.rsplit(".", 1)[1].startswith("_") or target == f"livemarks.{here}"
            assert here not in SYMBOLS or shared, f"{name} imports the plug-in {target}"
        else:
            assert HEIGHT[there] < HEIGHT[here], f"{name} imports {target}, which is not below it"


@pytest.mark.parametrize("name", [name for name in MODULES if room(name)])
def test_heavy_libraries_stay_in_their_rooms(name: str) -> None:
    for library in {target.split(".")[0] for target in imports(name)} & set(HEAVY):
        assert room(name) in HEAVY[library], f"{name} imports {library}"


def loaded_after(statement: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys; print(*sorted(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {name.split(".")[0] for name in output.split()}


def test_importing_the_package_is_light() -> None:
    assert not loaded_after("import livemarks") & {"numpy", "cv2", "rich", *HEAVY}
    assert not loaded_after("import livemarks; livemarks.open_tracker; livemarks.open_source") & set(HEAVY)


def test_help_needs_no_library() -> None:
    statement = "from livemarks.cli import parser; parser().format_help()"
    assert not loaded_after(statement) & {"numpy", "cv2", "rich", *HEAVY}
