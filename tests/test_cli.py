"""The command line as its users meet it: what it writes, what it says, and with which status it ends."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import partial
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest
from fakes import FakeSink, FakeSource, FakeTracker
from rich.console import Console

from livemarks import cli, draw, pipeline, plugins, weights
from livemarks.backends import _engines
from livemarks.commands import _track, doctor, video
from livemarks.commands._progress import progress
from livemarks.detectors import blazeface
from livemarks.sinks import window
from livemarks.types import U8, LivemarksError, SourceInfo, Tally

FRAMES = 20


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, astronaut: U8) -> Path:
    """FRAMES frames of a real face that slides to the right, 256x256 at 25 fps."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        for i in range(FRAMES):
            picture = np.ascontiguousarray(astronaut[:256, 120 - 2 * i : 376 - 2 * i])
            frame = av.VideoFrame.from_ndarray(picture, "bgr24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, astronaut: U8) -> Path:
    """A folder with a face, two faces and none."""
    folder = tmp_path_factory.mktemp("photos")
    cv2.imwrite(str(folder / "one.jpg"), astronaut)
    cv2.imwrite(str(folder / "two.png"), np.hstack([astronaut, astronaut]))
    cv2.imwrite(str(folder / "none.png"), np.full((200, 200, 3), 90, np.uint8))
    return folder


@pytest.fixture(scope="module")
def model(still_model: Callable[..., Path]) -> str:
    return str(still_model())


Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """run(*arguments) -> exit status, lines on stdout, lines on stderr."""

    def run(*arguments: object) -> tuple[int, list[str], list[str]]:
        capfd.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:  # how argparse leaves
            status = int(end.code or 0)
        out, err = capfd.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


# --- Help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command: str, run: Run) -> None:
    status, out, err = run(command, "--help")
    assert (status, err) == (0, [])
    assert f"usage: livemarks {command}" in out[0]


@pytest.mark.parametrize("arguments", [*([command, "--help"] for command in cli.COMMANDS), ["completion", "zsh"]])
def test_help_goes_through_any_encoding(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("shtab")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    with suppress(SystemExit):
        cli.main(arguments)
    sys.stdout.flush()
    assert b"livemarks" in written.getvalue()
    assert b"\\u" not in written.getvalue()


def test_help_is_quick() -> None:
    import resource  # there is none on Windows

    spent_s = []
    for _ in range(3):  # the best of three: other programs may keep the machine busy
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "livemarks", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent_s) < 0.5


# --- The main job -----------------------------------------------------------------------------------------------------


def test_video_writes_what_was_asked_for_and_says_so(run: Run, clip: Path, model: str, tmp_path: Path) -> None:
    out, points = tmp_path / "out.mp4", tmp_path / "points.jsonl"
    status, stdout, err = run("video", clip, "--out", out, "--landmarks", points, "--model", model)
    assert (status, stdout) == (0, [])
    assert frames_of(out) == FRAMES
    header, *lines = read_jsonl(points)
    assert header["scheme"] == "ibug68"
    assert header["model"] == "still-68"
    assert "onnx" in header["backend"]
    assert [line["frame"] for line in lines] == list(range(FRAMES))
    assert all(len(line["faces"]) == 1 and line["faces"][0]["id"] == 1 for line in lines)
    assert all(line.startswith("livemarks: ") for line in err), "something else spoke on stderr"
    said = "\n".join(err)
    assert f"{FRAMES} frames" in said
    assert f"a face in {FRAMES} (100.0 %)" in said
    assert "decode" in said
    assert str(points) in said


def test_two_runs_write_the_same_bytes(run: Run, clip: Path, model: str, tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "a.csv", "b.csv"):
        assert run("video", clip, "--landmarks", tmp_path / name, "--model", model, "-q") == (0, [], [])
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_landmarks_on_standard_output(run: Run, clip: Path, model: str) -> None:
    status, out, err = run("video", clip, "--landmarks", "-", "--model", model)
    assert (status, err[-1]) == (0, "livemarks: wrote standard output")
    assert len([json.loads(line) for line in out]) == 1 + FRAMES


def test_webcam_plays_a_file_without_a_window(run: Run, clip: Path, model: str, tmp_path: Path) -> None:
    points, record = tmp_path / "points.jsonl", tmp_path / "record.mp4"
    outputs = ("--landmarks", points, "--record", record)
    status, _, err = run("webcam", "--camera", clip, "--headless", *outputs, "--model", model)
    assert status == 0
    lines = read_jsonl(points)[1:]
    assert 0 < len(lines) <= FRAMES
    assert frames_of(record) == len(lines)
    assert "dropped" in "\n".join(err)


def test_webcam_chooses_headless_without_a_display_and_stops_in_time(
    run: Run, clip: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "no_display", lambda: "no display is set in DISPLAY")
    started_s = time.monotonic()
    status, _, err = run("webcam", "--camera", clip, "--seconds", "0.2", "--model", model)
    assert status == 0
    assert time.monotonic() - started_s < 5
    assert len([line for line in err if "no display" in line]) == 1


def test_demo_shows_a_face_in_every_frame(run: Run, model: str, tmp_path: Path) -> None:
    out = tmp_path / "demo.mp4"
    status, _, err = run("demo", "--out", out, "--seconds", "0.5", "--model", model)
    assert status == 0
    assert frames_of(out) == 15
    assert "a face in 15 (100.0 %)" in "\n".join(err)


def test_a_run_without_a_frame_says_so(run: Run, model: str, tmp_path: Path) -> None:
    outputs = ("--out", tmp_path / "o.mp4", "--landmarks", tmp_path / "o.jsonl")
    status, out, err = run("demo", "--seconds", "0.01", *outputs, "--model", model)
    assert (status, out, len(err)) == (0, [], 1)
    assert err[0].endswith(": no frame came and nothing was written")
    assert list(tmp_path.iterdir()) == []


def test_demo_without_a_display_overwrites_nothing(
    run: Run, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(window, "no_display", lambda: "no display is set in DISPLAY")
    (tmp_path / "demo.mp4").write_text("my own")
    status, _, err = run("demo", "--seconds", "0.2", "--model", model)
    assert (status, err[0]) == (0, "livemarks: no window: no display is set in DISPLAY; writing demo-2.mp4 instead")
    assert (tmp_path / "demo.mp4").read_text() == "my own"
    assert frames_of(tmp_path / "demo-2.mp4") == 6


@pytest.mark.parametrize("headless", [False, True])
def test_a_mirrored_window_leaves_the_film_alone(
    headless: bool, run: Run, clip: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, film = FakeSink(wants_pixels=True), FakeSink(wants_pixels=True)
    load = plugins.load
    fakes = {("sinks", "window"): lambda *_, **__: screen, ("sinks", "video"): lambda *_: film}
    monkeypatch.setattr(plugins, "load", lambda *name: fakes.get(name) or load(*name))
    monkeypatch.setattr(window, "no_display", lambda: "")
    options = ("--mirror", "--record", "o.mp4", "--model", model, *(["--headless"] if headless else []))
    assert run("webcam", "--camera", clip, *options)[0] == 0
    mirrored = replace(draw.DEFAULT, mirrored=True)
    assert bool(screen.images) != headless
    assert film.images
    for sink, style in ((film, draw.DEFAULT), (screen, mirrored)):
        for result, image in zip(sink.results, sink.images, strict=True):
            assert np.array_equal(np.asarray(image), draw.overlay(result, style))
    assert film.closed == 1


def test_a_camera_that_never_gives_a_frame(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs in its first read."""
    monkeypatch.setattr(pipeline, "_LAST_READ_S", 0.05)
    monkeypatch.setattr(pipeline, "_LET_GO_S", 0.05)
    let_go = threading.Event()
    source = FakeSource(5, live=True, before=lambda _: let_go.wait(30))
    net: Any = SimpleNamespace()
    follow = partial(_track.follow, source, FakeTracker(), [FakeSink], net=net, quiet=True, seconds=0.01)
    assert follow() == 0  # the user wanted no more
    assert [record.getMessage() for record in caplog.records] == [
        "fake: no frame came and nothing was written",
        "fake did not answer within 0 s at the end and was left alone",
    ]
    monkeypatch.setattr(FakeSource, "status", "fake is lost; opening it again, attempt 2", raising=False)
    with pytest.raises(LivemarksError, match="fake is lost"):
        follow()
    let_go.set()


def test_a_run_shorter_than_the_clocks_tick(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_track, "time", SimpleNamespace(monotonic=lambda: 7.0))
    net: Any = SimpleNamespace(card=SimpleNamespace(name="lite-68"), runner=SimpleNamespace(label="onnx"))
    with caplog.at_level("INFO", logger="livemarks"):
        assert _track.follow(FakeSource(1), FakeTracker(), [FakeSink], net=net, quiet=True) == 0
    assert "fake: 1 frame in 0.0 s" in caplog.text


def test_the_windows_display_says_what_is_wrong_with_the_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    huds: list[Callable[[U8, Tally], U8]] = []
    said: list[list[str]] = []

    def make_window(title: str, *, hud: Callable[[U8, Tally], U8], mirror: bool) -> None:
        assert (title, mirror) == ("livemarks: camera 0", False)
        huds.append(hud)

    def write(image: U8, lines: list[str]) -> U8:
        said.append(lines)
        return image

    monkeypatch.setattr(plugins, "load", lambda *_: make_window)
    monkeypatch.setattr(draw, "hud", write)
    source: Any = SimpleNamespace(info=SimpleNamespace(name="camera 0"), status="")
    net: Any = SimpleNamespace(card=SimpleNamespace(name="lite-68"), runner=SimpleNamespace(label="onnx"))
    _track.open_window(source, net)
    picture = np.zeros((9, 9, 3), np.uint8)
    huds[0](picture, Tally(captured=9, processed=7, dropped=2))
    source.status = "camera 0 is lost; opening it again, attempt 2"
    huds[0](picture, Tally())
    assert said[0][1:] == ["2 of 9 frames dropped", "lite-68 on onnx"]
    assert said[1][-1] == source.status


# --- Images -----------------------------------------------------------------------------------------------------------


def test_images_are_counted_if_nothing_else_is_wanted(run: Run, photos: Path, model: str) -> None:
    status, out, err = run("image", photos, "--model", model)
    assert status == 0
    assert ": 3 images in " in err[0]
    assert ": 1 image in " in run("image", photos / "one.jpg", "--model", model)[2][0]
    assert sorted(line.rpartition("/")[2] for line in out) == [
        "none.png: no faces",
        "one.jpg: 1 face",
        "two.png: 2 faces",
    ]


def test_each_image_stands_alone(run: Run, photos: Path, model: str, tmp_path: Path) -> None:
    whole, single = tmp_path / "whole.jsonl", tmp_path / "single.jsonl"
    assert run("image", photos, "--landmarks", whole, "--model", model)[0] == 0
    assert run("image", photos / "two.png", "--landmarks", single, "--model", model)[0] == 0
    among = next(line for line in read_jsonl(whole)[1:] if line["image"].endswith("two.png"))
    alone = read_jsonl(single)[1]
    assert among["faces"] == alone["faces"]
    assert [face["id"] for face in alone["faces"]] == [1, 2]


def test_a_detector_is_chosen_by_its_files_name(
    run: Run, photos: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Any, ...]] = []

    class Detector(blazeface.Detector):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(arguments)

    names = plugins.names
    monkeypatch.setattr(plugins, "names", lambda kind: [*names(kind), "mine"] if kind == "detectors" else names(kind))
    monkeypatch.setitem(sys.modules, "livemarks.detectors.mine", SimpleNamespace(Detector=Detector))
    chosen = ("--range", "short", "--faces", "1", "--detector", "mine", "--model", model)
    assert run("image", photos / "one.jpg", *chosen)[0] == 0
    assert made == [("short", 1)]
    checked = [finding.what for finding in doctor._detectors()]
    assert checked == ["detector blazeface", "detector mediapipe", "detector mine"]


def test_every_image_that_cannot_be_read_is_named_once(run: Run, photos: Path, model: str, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_text("a shopping list")
    status, _, err = run("image", tmp_path, "--model", model)
    assert (status, len(err)) == (2, 2)
    assert "b.jpg" in err[0]
    assert "a.jpg" in err[1]
    (tmp_path / "c.jpg").symlink_to("nowhere")
    for also in ([], [photos]):
        status, _, err = run("image", tmp_path, *also, "--model", model, "--quiet")
        assert (status, len(err)) == (2, 3)
        assert all(any(name in line for line in err) for name in ("a.jpg", "b.jpg", "c.jpg"))


def test_images_that_cannot_be_read_leave_no_folder(run: Run, model: str, tmp_path: Path) -> None:
    """Not even if the points were to go into it."""
    (tmp_path / "bad.jpg").write_text("a shopping list")
    out = tmp_path / "out"
    assert run("image", tmp_path / "bad.jpg", "--out", out, "--landmarks", out / "o.csv", "--model", model)[0] == 2
    assert not out.exists()


def test_images_are_written_beside_and_never_over_their_originals(
    run: Run, photos: Path, model: str, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    assert run("image", photos, "--out", tmp_path / "drawn", "--model", model)[0] == 0
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == sorted(before)
    drawn = cv2.imread(str(tmp_path / "drawn" / "two.png"))
    original = cv2.imread(str(photos / "two.png"))
    assert drawn is not None
    assert original is not None
    assert drawn.shape == original.shape
    assert (drawn != original).any()
    status, _, err = run("image", photos, "--out", photos, "--model", model)
    assert (status, len(err)) == (2, 1)
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before


def test_originals_that_links_lead_to_are_never_overwritten(run: Run, photos: Path, model: str, tmp_path: Path) -> None:
    folder, pool = tmp_path / "in", tmp_path / "pool"
    folder.mkdir()
    pool.mkdir()
    for path in (pool / "y.jpg", folder / "y.jpg"):
        path.write_bytes((photos / "one.jpg").read_bytes())
    (folder / "x.jpg").symlink_to("../pool/y.jpg")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.jpg")}
    for out in (pool, folder):
        status, _, err = run("image", folder, "--out", out, "--model", model)
        assert (status, len(err)) == (2, 1)
        assert "holds the originals, which would be overwritten" in err[0]
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.jpg")} == before


# --- What users get wrong ---------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[object, ...]] = {
    "no such file": ("video", "missing.mp4", "--out", "out.mp4"),
    "a text file": ("video", "notes.txt", "--out", "out.mp4"),
    "a folder": ("video", "empty", "--out", "out.mp4"),
    "an address": ("video", "https://example.com/clip.mp4", "--out", "out.mp4"),
    "an empty file": ("video", "void.mp4", "--out", "out.mp4"),
    "an empty folder": ("image", "empty"),
    "a glob that fits nothing": ("image", "*.jpg"),
    "a text file as image": ("image", "notes.txt"),
    "no such camera": ("webcam", "--camera", "97", "--headless"),
    "no such camera file": ("webcam", "--camera", "missing.mp4", "--headless"),
    "an output folder that isn't there": ("video", "CLIP", "--out", "nowhere/out.mp4"),
    "an output that is a folder": ("video", "CLIP", "--landmarks", "folder.jsonl"),
    "an output of unknown kind": ("video", "CLIP", "--out", "out.xyz"),
    "landmarks of unknown kind": ("video", "CLIP", "--landmarks", "points.txt"),
    "the input as output": ("video", "copy.mp4", "--out", "copy.mp4"),
    "the input, played as by a camera, as output": (
        "webcam",
        "--camera",
        "copy.mp4",
        "--headless",
        "--record",
        "copy.mp4",
    ),
    "a link to it": ("webcam", "--camera", "copy.mp4", "--headless", "--record", "link.mp4"),
    "an image as landmarks": ("image", "photo.csv", "--landmarks", "./photo.csv"),
    "nothing to write": ("video", "CLIP"),
    "unknown model": ("video", "CLIP", "--out", "out.mp4", "--model", "nonsense-68"),
    "a model that is none": ("video", "CLIP", "--out", "out.mp4", "--model", "fake.onnx"),
    "unknown smoothing": ("video", "CLIP", "--out", "out.mp4", "--smooth", "very"),
    "unknown range": ("video", "CLIP", "--out", "out.mp4", "--range", "wide"),
    "unknown detector": ("video", "CLIP", "--out", "out.mp4", "--detector", "dowser"),
    "a detector for programs": ("video", "CLIP", "--out", "out.mp4", "--detector", "fixed"),
    "unknown backend": ("video", "CLIP", "--out", "out.mp4", "--backend", "abacus"),
    "unknown device": ("video", "CLIP", "--out", "out.mp4", "--device", "toaster"),
    "unknown precision": ("video", "CLIP", "--out", "out.mp4", "--precision", "fp3"),
    "no faces": ("video", "CLIP", "--out", "out.mp4", "--faces", "0"),
    "no threads": ("video", "CLIP", "--out", "out.mp4", "--threads", "0"),
    "more threads than a number holds": ("video", "CLIP", "--out", "out.mp4", "--threads", str(10**20)),
    "unknown option": ("video", "CLIP", "--nonsense"),
    "an option of two lines": ("video", "CLIP", "--non\nsense\x1b[31m"),
    "unknown command": ("vide", "CLIP"),
    "no number": ("webcam", "--seconds", "soon"),
    "no size": ("webcam", "--size", "big"),
    "a size below zero": ("webcam", "--camera", "CLIP", "--headless", "--size", "0x-5"),
    "a size beyond all cameras": ("webcam", "--camera", "CLIP", "--headless", "--size", f"1280x{10**400}"),
    "extrapolation by nothing that is a number": ("webcam", "--camera", "CLIP", "--headless", "--extrapolate", "nan"),
    "extrapolation for ever": ("webcam", "--camera", "CLIP", "--headless", "--extrapolate", "inf"),
    "extrapolation by minutes": ("webcam", "--camera", "CLIP", "--headless", "--extrapolate", "1e5"),
    "extrapolation into the past": ("webcam", "--camera", "CLIP", "--headless", "--extrapolate", "-20"),
    "unknown camera interface": ("webcam", "--camera-api", "telepathy", "--headless"),
    "a log file that can't be": ("video", "CLIP", "--out", "out.mp4", "--log-file", "nowhere/log.txt"),
    "a log file of two lines": ("video", "CLIP", "--out", "out.mp4", "--log-file", "no\nwhere/\x1b[31m.txt"),
    "the input as log file": ("video", "copy.mp4", "--out", "out.mp4", "--log-file", "link.mp4"),
    "an image of a folder as log file": ("image", "photos", "--log-file", "photos/one.jpg"),
    "an image of a pattern as log file": ("image", "photos/o*", "--log-file", "photos/one.jpg"),
    "the net as log file": ("video", "CLIP", "--out", "out.mp4", "--model", "fake.onnx", "--log-file", "fake.onnx"),
    "an output as log file": ("webcam", "--headless", "--record", "out.mp4", "--log-file", "./out.mp4"),
    "no data": ("train", "lite-68", "--data", "missing"),
    "unknown recipe": ("train", "nonsense", "--data", "empty"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_costs_one_line_and_status_2(
    mistake: str, run: Run, clip: Path, photos: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("a shopping list\n" * 50)
    (tmp_path / "fake.onnx").write_text("no model")
    (tmp_path / "void.mp4").write_bytes(b"")
    (tmp_path / "copy.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "link.mp4").symlink_to("copy.mp4")
    (tmp_path / "photo.csv").write_bytes((photos / "one.jpg").read_bytes())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes((photos / "one.jpg").read_bytes())
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.jsonl").mkdir()
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    arguments = [str(clip) if argument == "CLIP" else str(argument) for argument in WRONG[mistake]]
    if arguments[0] in ("video", "webcam", "image") and "--model" not in arguments:
        arguments += ["--model", model]
    status, out, err = run(*arguments)
    assert status == 2, err
    assert out == []
    assert len(err) == 1, err
    assert err[0].startswith("livemarks: ")
    assert err[0].isprintable()
    assert len(err[0]) > len("livemarks: ") + 20, "says too little to help"
    assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before, "left something behind"


def test_of_a_truncated_file_the_good_frames_are_written(run: Run, model: str, tmp_path: Path, astronaut: U8) -> None:
    whole, cut, points = tmp_path / "whole.mkv", tmp_path / "cut.mkv", tmp_path / "points.jsonl"
    with av.open(str(whole), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "5", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        for i in range(50):
            picture = np.ascontiguousarray(astronaut[:256, 100 + i : 356 + i])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
        container.mux(stream.encode(None))
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    status, _, err = run("video", cut, "--landmarks", points, "--model", model)
    lines = read_jsonl(points)[1:]
    assert status == 2
    assert 5 < len(lines) < 45
    assert len([line for line in err if "damaged" in line]) == 1
    assert not [line for line in err if "Traceback" in line]
    status, _, err = run("video", cut, "--landmarks", points, "--model", model, "--quiet")
    assert (status, len(err)) == (2, 1), "status 2 without a word"
    assert "is damaged" in err[0]


def test_a_fault_of_ours_is_one_line_too(run: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise RuntimeError("the first line\nand a second")

    monkeypatch.setattr(video, "run", fail)
    status, out, err = run("video", clip)
    assert (status, out, len(err)) == (1, [], 1)
    assert "RuntimeError: the first line" in err[0]
    assert "Traceback" in "\n".join(run("video", clip, "--verbose")[2])
    trace = tmp_path / "log.txt"
    assert len(run("video", clip, "--log-file", trace)[2]) == 1
    assert "Traceback" in trace.read_text()


def test_a_system_without_threads_is_no_fault_of_ours(
    run: Run, clip: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(pipeline._Stage, "start", refuse)
    status, out, err = run("video", clip, "--landmarks", tmp_path / "points.csv", "--model", model)
    assert (status, out, len(err)) == (2, [], 1)
    assert "the system refused: can't start new thread" in err[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no program's working folder can be removed there")
@pytest.mark.parametrize(
    "output", [("video", "--landmarks", "o.csv"), ("image", "--landmarks", "o.csv"), ("image", "--out", "o")]
)
def test_a_working_folder_that_was_removed(
    output: tuple[str, ...],
    run: Run,
    clip: Path,
    photos: Path,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command, *options = output
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    status, out, err = run(command, clip if command == "video" else photos, *options, "--model", model)
    assert (status, out, len(err)) == (2, [], 1)
    assert f"{options[-1]}: No such file or directory; " in err[0]


def test_a_name_is_part_of_a_line_and_no_command_to_the_terminal(
    run: Run, clip: Path, model: str, tmp_path: Path
) -> None:
    """Names with a line break, an escape sequence and, where the file system allows it, bytes that are no text."""
    odd = tmp_path / os.fsdecode(b"a\nb \x1b[31m \xff.mp4" if sys.platform == "linux" else "été.mp4".encode())
    odd.write_bytes(clip.read_bytes())
    points = tmp_path / "points.jsonl"
    status, _, err = run("video", odd, "--landmarks", points, "--model", model)
    assert status == 0
    assert len([line for line in err if f"{FRAMES} frames in" in line]) == 1
    assert "\x1b" not in "".join(err)
    assert read_jsonl(points)[0]["source"] == str(odd)


def test_a_library_that_cannot_be_loaded_is_one_line(run: Run, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise ImportError("libGL.so.1: cannot open shared object file")

    with monkeypatch.context() as broken:
        broken.setattr(video, "run", fail)
        status, _, err = run("video", clip)
    assert (status, len(err)) == (2, 1)
    assert "libGL.so.1" in err[0]
    assert "doctor" in err[0]
    monkeypatch.setitem(sys.modules, "livemarks.types", None)  # as without numpy
    status, _, err = run("video", clip)
    assert (status, len(err)) == (2, 1)


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("a broken numpy"), 1), (ImportError("no numpy"), 2)])
def test_a_library_that_breaks_while_it_is_loaded_is_one_line(
    error: Exception, status: int, run: Run, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finder(MetaPathFinder):
        def find_spec(self, name: str, *_: object) -> None:
            if name == "livemarks.types":
                raise error

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "livemarks.types")
    ended, out, err = run("video", clip)
    assert (ended, out, len(err)) == (status, [], 1)
    assert str(error) in err[0]


# --- Talk -------------------------------------------------------------------------------------------------------------


def test_quiet_says_nothing_and_the_log_file_everything(run: Run, clip: Path, model: str, tmp_path: Path) -> None:
    trace = tmp_path / "log.txt"
    outputs = ("--landmarks", tmp_path / "points.csv", "--log-file", trace)
    assert run("video", clip, "--model", model, "--quiet", *outputs) == (0, [], [])
    assert f"{FRAMES} frames" in trace.read_text()


def test_a_log_is_added_to_even_among_images(run: Run, photos: Path, model: str, tmp_path: Path) -> None:
    (tmp_path / "one.jpg").write_bytes((photos / "one.jpg").read_bytes())
    for _ in range(2):
        assert run("image", tmp_path, "--model", model, "--log-file", tmp_path / "log.txt")[0] == 0
    assert (tmp_path / "log.txt").read_text().count("1 image in") == 2


def test_progress_off_a_terminal_is_a_line_now_and_then(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    now_s = 0.0
    info = SourceInfo("clip.mp4", (64, 64), Fraction(25), 1000, live=False)
    with caplog.at_level("INFO"), progress(info, quiet=False, clock=lambda: now_s) as show:
        for processed in range(0, 1000, 10):
            now_s += 0.125
            show(Tally(processed, processed, fps=100.0))
    assert [record.getMessage() for record in caplog.records] == [
        "clip.mp4: 390 of 1000 frames, 100.0 a second, 6 s left",
        "clip.mp4: 790 of 1000 frames, 100.0 a second, 2 s left",
    ]
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals to try this on")
@pytest.mark.parametrize("no_color", [False, True])
def test_progress_on_a_terminal_is_a_bar(no_color: bool, clip: Path, model: str, tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    if no_color:
        environment["NO_COLOR"] = "1"
    command = [
        sys.executable,
        "-m",
        "livemarks",
        "video",
        str(clip),
        "--model",
        model,
        "--out",
        str(tmp_path / "o.mp4"),
    ]
    with subprocess.Popen(command, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # how Linux says that nobody is left at the other end
                break
            if not part:
                break
            shown += part
    os.close(ours)
    assert process.returncode == 0
    assert f" of {FRAMES} frames".encode() in shown
    assert (b"\x1b[3" in shown) != no_color  # colours
    assert f"{FRAMES} frames in".encode() in shown


def test_a_name_does_not_steer_the_terminal_through_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr("livemarks.commands._progress.Console", lambda **_: console)
    with progress(SourceInfo("a\x1b]0;b\n.mp4", (64, 48), None, 5, live=False), quiet=False) as show:
        show(Tally(processed=1))
    assert r"a\x1b]0;b\n.mp4" in written.getvalue()
    assert "\x1b]" not in written.getvalue()


@pytest.mark.skipif(sys.platform == "win32", reason="of POSIX shells")
@pytest.mark.parametrize(
    ("closed", "status", "says"),
    [
        (">&-", 0, "1 image in"),
        ("2>&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        ("2>/dev/full", 0, ""),
        ("--log-file /dev/full", 0, "1 image in"),
        (">/dev/full", 2, "No space left on device"),
    ],
)
def test_streams_that_are_closed_or_full(closed: str, status: int, says: str, photos: Path, model: str) -> None:
    if "/dev/full" in closed and not Path("/dev/full").exists():
        pytest.skip("only Linux has /dev/full")
    command = f'"$0" -m livemarks image "$1" --model "$2" {closed}'
    done = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, str(photos / "one.jpg"), model], capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="of POSIX shells")
@pytest.mark.parametrize("output", ["--out", "--landmarks p.csv --log-file"])
def test_a_film_that_is_read_from_standard_input_is_not_overwritten(
    output: str, clip: Path, model: str, tmp_path: Path
) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(clip.read_bytes())
    command = f'"$0" -m livemarks video - {output} "$1" --model "$2" < "$1"'
    done = subprocess.run(["/bin/sh", "-c", command, sys.executable, str(film), model], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert re.search(r"it is (the|an) input", done.stderr)
    assert film.read_bytes() == clip.read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file systems know no such names")
def test_a_name_is_part_of_a_line_whatever_it_holds(photos: Path, model: str, tmp_path: Path) -> None:
    for name in (b"1\nb: 7 faces.jpg", b"2\xff.jpg", "3é.jpg".encode(), b"4\x1b[31m.jpg"):
        (tmp_path / os.fsdecode(name)).write_bytes((photos / "one.jpg").read_bytes())
    command = [sys.executable, "-m", "livemarks", "image", ".", "--model", model]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = [line.rpartition(": ")[0] for line in done.stdout.splitlines()]
    assert names == [r"1\nb: 7 faces.jpg", r"2\udcff.jpg", r"3\xe9.jpg", r"4\x1b[31m.jpg"]


def test_a_reader_that_has_read_enough_is_no_fault(photos: Path, model: str) -> None:
    command = [sys.executable, "-m", "livemarks", "image", str(photos), "--model", model, "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_film_goes_on_when_the_reader_of_its_points_has_left(clip: Path, model: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "livemarks", "video", str(clip), "--out", str(tmp_path / "out.mp4")]
    command += ["--landmarks", "-", "--model", model, "-q"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert frames_of(tmp_path / "out.mp4") == frames_of(clip)


# --- Stopping ---------------------------------------------------------------------------------------------------------


def demo(seconds: int, model: str, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "livemarks", "demo", "--seconds", str(seconds), "--model", model]
    return [*command, "--out", str(folder / "out.mp4"), "--landmarks", str(folder / "points.jsonl")]


def await_points(process: subprocess.Popen[Any], folder: Path, wait: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 60
    while not any(part.stat().st_size > 5000 for part in folder.glob("points*part*")):
        assert time.monotonic() < deadline_s, "it does not get going"
        assert process.poll() is None
        wait()


def finished(folder: Path) -> int:
    """How many frames both files have; there is nothing else."""
    assert sorted(path.name for path in folder.iterdir()) == ["out.mp4", "points.jsonl"]
    frames = frames_of(folder / "out.mp4")
    assert frames == len(read_jsonl(folder / "points.jsonl")) - 1
    return frames


def test_ctrl_c_before_there_is_anything_to_stop(run: Run, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: object) -> int:
        raise ImportError("initialization failed") from KeyboardInterrupt()  # as compiled libraries do it

    monkeypatch.setattr(video, "run", load)
    assert run("video", clip) == (130, [], ["livemarks: stopped by Ctrl-C; what was done so far is kept"])
    monkeypatch.setattr(cli, "parser", partial(signal.default_int_handler, signal.SIGINT, None))
    assert run("video", clip) == (130, [], ["livemarks: stopped by Ctrl-C"])


@pytest.mark.skipif(sys.platform == "win32", reason="of POSIX signals")
@pytest.mark.parametrize(
    ("name", "said", "before"),
    [
        ("SIGINT", "Ctrl-C", None),
        ("SIGTERM", "SIGTERM", None),
        ("SIGTERM", "SIGTERM", partial(signal.signal, signal.SIGINT, signal.SIG_IGN)),  # what a script's `&` does
        ("SIGHUP", "SIGHUP", None),
    ],
)
def test_a_signal_ends_the_run_and_keeps_what_is_done(
    name: str, said: str, before: Callable[[], object] | None, model: str, tmp_path: Path
) -> None:
    command, signum = demo(3600, model, tmp_path), getattr(signal, name)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=before
    ) as process:
        try:
            await_points(process, tmp_path, partial(time.sleep, 0.05))
            process.send_signal(signum)
            if name != "SIGINT":  # whose second one means it; timeout(1) and closing terminals send theirs twice
                time.sleep(0.01)
                process.send_signal(signum)
            _, err = process.communicate(timeout=40)
        finally:
            process.kill()
    assert process.returncode == 128 + signum
    assert f"stopped by {said}; what was done so far is kept" in err
    assert "frames in" in err
    assert "Traceback" not in err
    assert finished(tmp_path) > 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals to try this on")
@pytest.mark.parametrize("option", ["--verbose", "--log-file"])
@pytest.mark.parametrize(("nohup", "status"), [(False, 129), (True, 0)])
def test_a_terminal_that_is_closed_leaves_whole_files(
    nohup: bool, status: int, option: str, model: str, tmp_path: Path
) -> None:
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()

    def before() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)

    def read() -> None:
        if select.select([ours], [], [], 0.05)[0]:
            os.read(ours, 1 << 16)

    folder, trace = tmp_path / "out", tmp_path / "log.txt"
    folder.mkdir()
    command = [*demo(10 if nohup else 3600, model, folder), option, *([str(trace)] if option == "--log-file" else [])]
    with subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
        preexec_fn=before,
    ) as process:
        try:
            os.close(theirs)
            await_points(process, folder, read)
            os.close(ours)
            process.wait(60)
        finally:
            process.kill()
    assert process.returncode == status
    assert (finished(folder) == 300) == nohup
    if option == "--log-file":
        assert ("stopped by SIGHUP" in trace.read_text()) != nohup


# --- The other commands -----------------------------------------------------------------------------------------------


def test_models_lists_every_net_that_ships(run: Run) -> None:
    status, out, err = run("models")
    assert (status, err) == (0, [])
    for name in weights.names():
        assert any(name in line for line in out)


def test_doctor_finds_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor._NEEDED, "no_such_library", "no-such-package")
    status, out, err = run("doctor", "--no-cameras")
    assert (status, err) == (1, [])
    assert any("no-such-package" in line and "broken" in line for line in out)
    assert not any("detector" in line for line in out), "goes on without what the rest needs"


def findings(run: Run) -> dict[str, str]:
    """What the doctor's table says: check -> the rest of its row."""
    _, out, _ = run("doctor", "--no-cameras")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out if line.startswith("│")]
    return {what: f"{mark}: {text}" for what, mark, text in rows}


def test_doctor_finds_packages_that_do_not_fit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor._version
    others = {"av": "9.2.0", "torch": "2.6.0+cpu", "opencv-python": "4.13", "opencv-contrib-python": "4.13.0.88"}
    monkeypatch.setattr(doctor, "_version", lambda package: others.get(package) or version(package))
    said = findings(run)
    assert re.match(r"broken: 9.2.0 is installed, livemarks goes with >=\d+: pip install 'av>=\d+'", said["av"])
    assert said["torch"].startswith("-: 2.6.0+cpu is installed, livemarks goes with ")
    assert "install opencv-contrib-python again" in said["opencv"]


def test_doctor_finds_damaged_and_missing_weights(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in weights.folder().iterdir():
        if path.name != "nose1.onnx":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "imm58.onnx").open("ab") as file:
        file.write(b"x")
    monkeypatch.setattr(weights, "folder", lambda: tmp_path)
    said = findings(run)
    assert "is damaged" in said["weights imm58.onnx"]
    assert "No such file" in said["weights nose1.onnx"]
    assert "weights lite-68.onnx" not in said
    (tmp_path / "SHA256SUMS").unlink()
    assert findings(run)["weights"].startswith("broken: cannot read")


def test_doctor_finds_a_machine_that_is_slow_full_and_without_an_encoder(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_SLOW_MS", 0.0)
    monkeypatch.setattr(doctor, "_LITTLE_GB", 1e9)
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    said = findings(run)
    assert "too slow for a camera" in said["speed"]
    assert "GB left" in said["this folder"]
    assert said["encoder"].startswith("broken: this PyAV has no libx264")


@pytest.mark.parametrize(
    ("what", "says"), [("locked", "can't be written in"), ("homeless", "Could not determine home directory.")]
)
def test_doctor_outlives_a_cache_out_of_reach(
    what: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `sudo -u x` with root's HOME, and of a user who has none."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    stat = os.stat

    def locked(path: Any, **options: Any) -> os.stat_result:
        if isinstance(path, (str, os.PathLike)) and Path(path).is_relative_to(tmp_path / "cache"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    if what == "homeless":
        monkeypatch.setattr(_engines, "folder", homeless)
    else:
        monkeypatch.setattr(_engines, "folder", lambda: tmp_path / "cache" / "livemarks")
        monkeypatch.setattr(os, "stat", locked)
        monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)  # root may do everything
    here, cache = doctor._places()
    assert (here.what, here.good) == ("this folder", True)
    assert (cache.what, cache.good) == ("cache", None)
    assert says in cache.text


def test_doctor_outlives_a_broken_driver() -> None:
    def crash() -> str:
        raise OSError("driver\nexploded")

    finding = doctor._checked("gpu", crash, needed=False)
    assert finding == doctor.Finding("gpu", None, "driver")


def test_completion_knows_the_commands(run: Run) -> None:
    pytest.importorskip("shtab")
    for shell in ("bash", "zsh", "fish"):
        status, out, _ = run("completion", shell)
        assert status == 0
        assert "webcam" in "\n".join(out)


def test_completion_names_what_it_needs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    status, _, err = run("completion", "bash")
    assert (status, len(err)) == (2, 1)
    assert "pip install shtab" in err[0]


def test_completion_by_an_old_shtab_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shtab.SUPPORTED_SHELLS", ["bash", "zsh", "tcsh"])
    status, _, err = run("completion", "fish")
    assert (status, len(err)) == (2, 1)
    assert "doesn't know fish" in err[0]


@pytest.mark.parametrize("missing", ["torch", "onnxscript", "matplotlib"])
def test_training_names_the_extra_before_it_begins(
    missing: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("livemarks.train")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    status, _, err = run("train", "lite-68", "--data", tmp_path)
    assert (status, len(err)) == (2, 1)
    assert f"training needs {missing}" in err[0]
    assert "livemarks[train]" in err[0]


# --- Privacy ----------------------------------------------------------------------------------------------------------


def test_nothing_is_sent_anywhere(
    run: Run, clip: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert run("video", clip, "--landmarks", tmp_path / "points.csv", "--model", model)[0] == 0
