"""Every plug-in keeps its room's contract, from the day its file appears.

The rooms are listed by `plugins.names`, so a new file is tested without being named here; only how to make one, where
constructors differ, has to be added, and a test fails until it is.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from conftest import ASTRONAUT_XYXY, still_points

from livemarks import draw, plugins, weights
from livemarks.geometry import iou
from livemarks.types import (
    U8,
    Affine,
    Detector,
    FaceBox,
    FaceTrack,
    Frame,
    Landmarks,
    LivemarksError,
    Result,
    Runner,
    Scheme,
    Sink,
    Source,
    SourceInfo,
    Tally,
)

SIZE_WH = (96, 64)
COUNT = 6


def frame(image: U8, index: int = 0) -> Frame:
    return Frame(image, index, index / 25)


def picture(value: int, size_wh: tuple[int, int] = SIZE_WH) -> U8:
    return np.full((size_wh[1], size_wh[0], 3), value, np.uint8)


def one_line(error: pytest.ExceptionInfo[LivemarksError]) -> None:
    """A message that the command line can print as it is."""
    text = str(error.value)
    assert text
    assert "\n" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in plugins.SYMBOLS for name in plugins.names(kind)])
def test_every_module_defines_its_symbol(kind: str, name: str) -> None:
    symbol = plugins.load(kind, name)
    assert symbol is not None
    module = importlib.import_module(f"livemarks.{kind}.{name.replace('-', '_')}")
    assert module.__doc__, "a plug-in says what it is"


@pytest.mark.parametrize("kind", plugins.SYMBOLS)
def test_an_unknown_name_is_told_with_the_choices(kind: str) -> None:
    with pytest.raises(LivemarksError) as error:
        plugins.load(kind, "nonsense")
    one_line(error)
    assert all(name in str(error.value) for name in plugins.names(kind))


def test_half_a_plug_in_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("livemarks.backends.onnx.load")
    with pytest.raises(LivemarksError, match="the backend onnx defines no load"):
        plugins.load("backends", "onnx")
    monkeypatch.delitem(sys.modules, "livemarks.backends.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"onnxruntime.*\(for the backend onnx\)"):
        plugins.load("backends", "onnx")


# --- Schemes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", plugins.names("schemes"))
def test_a_scheme_knows_its_left_from_its_right(name: str) -> None:
    scheme: Scheme = plugins.load("schemes", name)
    assert scheme.name == name
    for point, twin in enumerate(scheme.mirror):
        here, there = scheme.points[point], scheme.points[twin]
        assert ("right" in here) == ("left" in there), f"{here} becomes {there} in the mirror"
    if scheme.roll is not None:
        right, left = scheme.roll
        assert {scheme.mirror[i] for i in right} == set(left)
    if scheme.norm is not None:
        right, left = scheme.norm
        assert {scheme.mirror[i] for i in right} == set(left)
    assert all(a != b for a, b in scheme.edges)
    mirrored = {frozenset((scheme.mirror[a], scheme.mirror[b])) for a, b in scheme.edges}
    assert mirrored == {frozenset(edge) for edge in scheme.edges}
    assert {scheme.mirror[i] for i in scheme.light} == set(scheme.light)


# --- Detectors --------------------------------------------------------------------------------------------------------

DETECTORS: dict[str, Callable[[Any], Detector]] = {
    "fixed": lambda make: make([FaceBox(np.array(ASTRONAUT_XYXY)), FaceBox(np.array([0.0, 0.0, 9.0, 9.0]), 0.5)]),
    "blazeface": lambda make: make(),
    "mediapipe": lambda make: make(),
}


@pytest.mark.parametrize("name", plugins.names("detectors"))
def test_a_detector_finds_a_face(name: str, astronaut: U8) -> None:
    assert name in DETECTORS, "tell DETECTORS how to make it"
    detector = DETECTORS[name](plugins.load("detectors", name))
    assert isinstance(detector, Detector)
    boxes = detector(frame(astronaut, 0))
    assert isinstance(boxes, tuple)
    assert [box.score for box in boxes] == sorted((box.score for box in boxes), reverse=True)
    assert iou(boxes[0].xyxy[None], np.array([ASTRONAUT_XYXY]))[0, 0] > 0.6
    again = detector(frame(astronaut, 1))
    assert [box.xyxy.tolist() for box in again] == [box.xyxy.tolist() for box in boxes]
    for size_wh in ((1, 1), (7, 300), (300, 7)):
        detector(frame(picture(0, size_wh), 2))
    detector.close()
    detector.close()


# --- Models -----------------------------------------------------------------------------------------------------------


def recipes() -> list[str]:
    folder = Path(plugins.__file__).parent / "train" / "recipes"
    return sorted(path.stem for path in folder.glob("*.toml"))


@pytest.mark.parametrize("name", recipes())
def test_a_recipes_net_keeps_the_nets_contract(name: str) -> None:
    import torch

    from livemarks.train import recipe

    plan = recipe.load(name)
    assert plan.name == name
    scheme: Scheme = plugins.load("schemes", plan.scheme)
    torch.manual_seed(0)
    net = plugins.load("models", plan.architecture)(scheme, size_hw=plan.size_hw, **plan.options).eval()
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *plan.size_hw, 3), np.uint8))
    with torch.inference_mode():
        xy, sigma, presence = net(crops)
        alone = net(crops[1:])
    assert (xy.shape, sigma.shape, presence.shape) == ((2, len(scheme), 2), (2, len(scheme)), (2,))
    assert {xy.dtype, sigma.dtype, presence.dtype} == {torch.float32}
    assert all(torch.isfinite(output).all() for output in (xy, sigma, presence))
    assert (sigma > 0).all()
    assert ((presence >= 0) & (presence <= 1)).all()
    for batched, single in zip((xy, sigma, presence), alone, strict=True):
        assert torch.allclose(batched[1:], single, rtol=1e-3, atol=1e-2), "a crop's answer depends on its neighbours"


def test_every_model_has_a_recipe() -> None:
    from livemarks.train import recipe

    assert {recipe.load(name).architecture for name in recipes()} == set(plugins.names("models"))


# --- Backends ---------------------------------------------------------------------------------------------------------


def runner_of(name: str, path: Path, **options: Any) -> Runner:
    """Skips where the backend says that it can't run here, unless a GPU was promised."""
    try:
        runner: Runner = plugins.load("backends", name)(path, weights.read_card(path), **options)
    except LivemarksError as error:
        lacking = "not installed" in str(error) or "no CUDA device" in str(error)
        if not lacking or os.environ.get("LIVEMARKS_REQUIRE_CUDA") == "1":
            raise
        pytest.skip(f"{name}: {error}")
    return runner


@pytest.mark.parametrize("name", plugins.names("backends"))
@pytest.mark.parametrize("model", [None, *weights.names()])
def test_a_backend_runs_every_batch(name: str, model: str | None, still_model: Callable[..., Path]) -> None:
    if model is None and name != "onnx":
        pytest.skip("the still net is an ONNX graph without a module in models/")
    path = still_model() if model is None else weights.find(model)
    card = weights.read_card(path)
    points = len(plugins.load("schemes", card.scheme))
    runner = runner_of(name, path, threads=1)
    assert isinstance(runner, Runner)
    assert name in runner.label
    crops = np.random.default_rng(0).integers(0, 256, (3, *card.size_hw, 3), np.uint8)
    crops.flags.writeable = False
    for batch in (1, 3, 2):
        xy, sigma, presence = runner(crops[:batch])
        assert (xy.shape, sigma.shape, presence.shape) == ((batch, points, 2), (batch, points), (batch,))
        assert {xy.dtype, sigma.dtype, presence.dtype} == {np.dtype(np.float32)}
        assert (sigma > 0).all()
        assert ((presence >= 0) & (presence <= 1)).all()
    first = [output.copy() for output in runner(crops)]
    for once, again in zip(first, runner(crops), strict=True):
        assert (once == again).all(), "not the same answer twice"
    if model is None:
        assert np.allclose(xy[0], still_points() * card.size_hw[0] - 0.5, atol=1e-4)
    runner.close()
    runner.close()


@pytest.mark.parametrize("name", plugins.names("backends"))
@pytest.mark.parametrize("wrong", [{"device": "toaster"}, {"precision": "fp3"}])
def test_a_backend_refuses_what_it_does_not_know(
    name: str, wrong: dict[str, Any], still_model: Callable[..., Path]
) -> None:
    path = still_model()
    with pytest.raises(LivemarksError) as error:
        plugins.load("backends", name)(path, weights.read_card(path), **wrong)
    one_line(error)


# --- Sources ----------------------------------------------------------------------------------------------------------


def make_clip(path: Path) -> str:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = SIZE_WH
        stream.pix_fmt = "yuv420p"
        for i in range(COUNT):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(40 * i), "bgr24")))
        container.mux(stream.encode(None))
    return str(path)


def make_images(folder: Path) -> list[str]:
    folder.mkdir()
    for i in range(COUNT):
        cv2.imwrite(str(folder / f"{i}.png"), picture(40 * i))
    return [str(folder)]


SOURCES: dict[str, Callable[[Any, Path], Source]] = {
    "camera": lambda make, folder: make(make_clip(folder / "clip.mp4")),
    "images": lambda make, folder: make(make_images(folder / "images")),
    "synthetic": lambda make, _: make(picture(90), seconds=COUNT / 25, fps=25, size_wh=SIZE_WH),
    "video": lambda make, folder: make(make_clip(folder / "clip.mp4")),
}

# The arguments of sources that read something, with a name that leads nowhere.
NOWHERE: dict[str, Any] = {"camera": "/nowhere/clip.mp4", "images": ["/nowhere/*.png"], "video": "/nowhere/clip.mp4"}


def source_of(name: str, folder: Path) -> Source:
    assert name in SOURCES, "tell SOURCES how to make it"
    return SOURCES[name](plugins.load("sources", name), folder)


@pytest.mark.parametrize("name", plugins.names("sources"))
def test_a_source_gives_its_frames_in_order(name: str, tmp_path: Path) -> None:
    source = source_of(name, tmp_path)
    assert isinstance(source, Source)
    assert source.info.name
    frames = list(source)
    source.close()
    assert frames
    assert all(isinstance(item, Frame) and not item.image.flags.writeable for item in frames)
    indices = [item.index for item in frames]
    assert indices == sorted(set(indices))
    assert all(after.t_s > before.t_s for before, after in pairwise(frames))
    if not source.info.live:
        assert indices == list(range(COUNT))
        assert source.info.frames == COUNT
    if source.info.size_wh is not None:
        assert {item.size_wh for item in frames} == {source.info.size_wh}
    assert source.notices == []


@pytest.mark.parametrize("name", plugins.names("sources"))
def test_a_source_can_be_closed_early_from_elsewhere_and_twice(name: str, tmp_path: Path) -> None:
    source = source_of(name, tmp_path)
    frames = iter(source)
    next(frames)
    closer = threading.Thread(target=source.close)
    closer.start()
    closer.join(10)
    assert not closer.is_alive()
    assert len(list(frames)) < COUNT
    source.close()


@pytest.mark.parametrize("name", [name for name in plugins.names("sources") if name in NOWHERE])
def test_a_source_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(LivemarksError) as error:
        list(plugins.load("sources", name)(NOWHERE[name]))
    one_line(error)


# --- Sinks ------------------------------------------------------------------------------------------------------------

SCHEME: Scheme = plugins.load("schemes", "ibug68")
INFO = SourceInfo("clip", SIZE_WH, Fraction(25), COUNT, live=False)
NET = {"scheme": SCHEME, "model": "still-68", "backend": "onnx"}
IMAGE_NAMES = [f"{i}.png" for i in range(COUNT)]


class FakeWindows:
    """OpenCV's windows, for a machine without a display."""

    def namedWindow(self, *_: Any) -> None: ...
    def resizeWindow(self, *_: Any) -> None: ...
    def destroyWindow(self, *_: Any) -> None: ...
    def imshow(self, *_: Any) -> None: ...

    def getWindowProperty(self, *_: Any) -> float:
        return 1.0

    def pollKey(self) -> int:
        return -1


SINKS: dict[str, Callable[[Any, Path], Sink]] = {
    "csv": lambda make, folder: make(str(folder / "out.csv"), INFO, **NET),
    "images": lambda make, folder: make(str(folder / "out"), IMAGE_NAMES),
    "jsonl": lambda make, folder: make(str(folder / "out.jsonl"), INFO, **NET),
    "video": lambda make, folder: make(str(folder / "out.mp4"), INFO),
    "window": lambda make, _: make("a window", hud=lambda image, _: image, gui=FakeWindows()),
}


def sink_of(name: str, folder: Path) -> Sink:
    assert name in SINKS, "tell SINKS how to make it"
    return SINKS[name](plugins.load("sinks", name), folder)


def results() -> list[Result]:
    """COUNT frames: nobody, one face, two faces, and so on."""
    home = Affine(np.array([[60.0, 0.0, 2.0], [0.0, 60.0, 2.0]]))
    made = []
    for i in range(COUNT):
        marks = Landmarks(SCHEME, home(still_points()).astype(np.float32) + i, np.ones(68, np.float32))
        box = FaceBox(np.array([*marks.xy.min(axis=0), *marks.xy.max(axis=0)]))
        faces = tuple(FaceTrack(k + 1, marks, marks, box, 0.0) for k in range(i % 3))
        made.append(Result(frame(picture(40 * i), i), faces, {}))
    return made


@pytest.mark.parametrize("name", plugins.names("sinks"))
def test_a_sink_takes_every_frame_and_keeps_it(name: str, tmp_path: Path) -> None:
    sink = sink_of(name, tmp_path)
    assert isinstance(sink, Sink)
    for result in results():
        sink.write(result, draw.overlay(result) if sink.wants_pixels else None, Tally())
    sink.close()
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert bool(left) == (name != "window")
    assert all(path.stat().st_size > 0 for path in left)
    assert not [path for path in left if ".part" in path.name]


@pytest.mark.parametrize("name", plugins.names("sinks"))
def test_a_sink_that_wrote_nothing_leaves_nothing(name: str, tmp_path: Path) -> None:
    sink_of(name, tmp_path).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in plugins.names("sinks") if name != "window"])
def test_a_sink_that_can_not_write_says_so_at_once(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(LivemarksError) as error:
        sink_of(name, tmp_path / "file")
    one_line(error)
