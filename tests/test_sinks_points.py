"""The two sinks that write points: what is in the file, to the byte, and that it is there only when it is whole."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import livemarks
from livemarks import plugins
from livemarks.sinks import _output
from livemarks.types import FaceBox, FaceTrack, Frame, Landmarks, LivemarksError, Result, Scheme, SourceInfo, Tally

INFO = SourceInfo("clip.mp4", (640, 360), Fraction(24000, 1001), 3, live=False)
KINDS = ("jsonl", "csv")
HERE = Path(__file__).parent
SCHEMES: dict[str, Scheme] = {name: plugins.load("schemes", name) for name in ("ibug68", "nose1")}


def face(id: int, shift: float = 0.0, scheme: Scheme = SCHEMES["ibug68"]) -> FaceTrack:
    xy = np.random.default_rng(id).uniform(100, 200, (len(scheme), 2)) + shift
    landmarks = Landmarks(scheme, xy.astype(np.float32), np.full(len(scheme), 0.51234, np.float32), 0.98765)
    raw = Landmarks(scheme, xy.astype(np.float32) + 1, landmarks.sigma)
    return FaceTrack(id, landmarks, raw, FaceBox(np.array([1, 2, 3.5, 4], np.float32)), born_s=0.0)


def result(index: int, t_s: float, *faces: FaceTrack) -> Result:
    return Result(Frame(np.zeros((36, 64, 3), np.uint8), index, t_s), faces, {})


RESULTS = [result(0, 0.0, face(1), face(2)), result(1, 1001 / 24000), result(2, 2002 / 24000, face(1, shift=5.5))]


def write(kind: str, path: Path | str, results: list[Result], **changes: Any) -> None:
    settings = {"info": INFO, "scheme": SCHEMES["ibug68"], "model": "lite-68", "backend": "onnx (cpu)", **changes}
    sink = plugins.load("sinks", kind)(str(path), **settings)
    for each in results:
        sink.write(each, None, Tally())
    sink.close()


def test_jsonl(tmp_path: Path) -> None:
    write("jsonl", tmp_path / "out.jsonl", RESULTS)
    text = (tmp_path / "out.jsonl").read_text()
    assert text.endswith("}\n")
    header, *lines = map(json.loads, text.splitlines())
    assert header == {
        "livemarks": livemarks.__version__,
        "scheme": "ibug68",
        "source": "clip.mp4",
        "width": 640,
        "height": 360,
        "fps": 23.976024,
        "model": "lite-68",
        "backend": "onnx (cpu)",
    }
    assert [(line["frame"], line["t"], len(line["faces"])) for line in lines] == [
        (0, 0, 2),
        (1, 0.041708, 0),
        (2, 0.083417, 1),
    ]
    first = RESULTS[0].faces[0]
    written = lines[0]["faces"][0]
    assert list(written) == ["id", "score", "box", "points", "sigma"]
    assert (written["id"], written["score"]) == (1, 0.988)
    assert np.array(written["points"]) == pytest.approx(first.landmarks.xy, abs=0.00051)
    assert written["sigma"] == [0.512] * 68
    assert written["box"] == pytest.approx(first.box.xyxy, abs=0.00051)
    assert all(len(repr(x).partition(".")[2]) <= 3 for point in written["points"] for x in point)


def test_csv(tmp_path: Path) -> None:
    write("csv", tmp_path / "out.csv", RESULTS)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert list(rows[0]) == ["frame", "t", "id", "score", "point", "x", "y", "sigma"]
    assert len(rows) == 3 * 68
    assert [row["point"] for row in rows] == [str(i) for i in range(68)] * 3
    assert {row["frame"] for row in rows} == {"0", "2"}
    xy = RESULTS[2].faces[0].landmarks.xy
    last = rows[-1]
    assert (last["t"], last["id"], last["score"], last["sigma"]) == ("0.083417", "1", "0.988", "0.512")
    assert (last["x"], last["y"]) == (f"{xy[67, 0]:.3f}", f"{xy[67, 1]:.3f}")


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_give_the_same_bytes(tmp_path: Path, kind: str) -> None:
    for name in ("a", "b"):
        write(kind, tmp_path / name, RESULTS)
    data = (tmp_path / "a").read_bytes()
    assert data == (tmp_path / "b").read_bytes()
    assert b"\r" not in data


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_named(tmp_path: Path, kind: str) -> None:
    info = SourceInfo("photos", None, None, 2, live=False)
    names: list[str] = []  # grows while images are read, as the source's does
    sink = plugins.load("sinks", kind)(
        str(tmp_path / "out"), info, scheme=SCHEMES["ibug68"], model="m", backend="b", names=names
    )
    for i, name in enumerate(['a, "b".jpg', "ü.png"]):
        names.append(name)
        sink.write(result(i, float(i), face(i + 1)), None, Tally())
    sink.close()
    text = (tmp_path / "out").read_text(encoding="utf-8")
    if kind == "jsonl":
        header, *lines = map(json.loads, text.splitlines())
        assert (header["width"], header["fps"]) == (None, None)
        assert [line["image"] for line in lines] == names
    else:
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [rows[0]["image"], rows[-1]["image"]] == names


@pytest.mark.parametrize("kind", KINDS)
def test_live_time_counts_from_the_first_frame(tmp_path: Path, kind: str) -> None:
    info = SourceInfo("camera 0", (640, 360), None, None, live=True)
    write(kind, tmp_path / "out", [result(7, 1234.5, face(1)), result(9, 1234.75, face(1))], info=info)
    text = (tmp_path / "out").read_text()
    if kind == "jsonl":
        assert [json.loads(line)["t"] for line in text.splitlines()[1:]] == [0.0, 0.25]
    else:
        assert {line.split(",")[1] for line in text.splitlines()[1:]} == {"0.000000", "0.250000"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_appears_when_it_is_whole(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    target.write_text("old")
    sink = plugins.load("sinks", kind)(str(target), INFO, scheme=SCHEMES["ibug68"], model="m", backend="b")
    sink.write(RESULTS[0], None, Tally())
    assert target.read_text() == "old"
    sink.close()
    assert target.read_text() != "old"
    sink.close()
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(sys.platform == "win32", reason="a folder with an open file can't be removed")
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_removed_meanwhile_is_told(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    sink = plugins.load("sinks", kind)(str(folder / "out"), INFO, scheme=SCHEMES["ibug68"], model="m", backend="b")
    sink.write(RESULTS[0], None, Tally())
    shutil.rmtree(folder)
    with pytest.raises(LivemarksError, match=r"can't finish .*out: .*; its folder was removed meanwhile"):
        sink.close()


@pytest.mark.parametrize("kind", KINDS)
def test_without_frames_nothing_is_left_and_nothing_is_touched(tmp_path: Path, kind: str) -> None:
    (tmp_path / "out").write_text("precious")
    write(kind, tmp_path / "out", [])
    assert (tmp_path / "out").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_written_is_refused_before_any_work(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in.mp4").touch()
    info = SourceInfo("in.mp4", None, None, None, live=False, path=str(tmp_path / "in.mp4"))
    for path, why in (
        (tmp_path, "a folder"),
        (tmp_path / "no" / "out", "no folder"),
        (tmp_path / "in.mp4", "the input"),
        (tmp_path / ("x" * 300 + ".out"), "File name too long|can't write"),
    ):
        with pytest.raises(LivemarksError, match=why):
            write(kind, path, RESULTS, info=info)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize("name", ["a:b.csv", "what?.csv", "CON", "nul.csv", "com1.tar.csv", "a.csv ", "a.", "a\tb.csv"])
def test_names_that_windows_does_not_allow_are_refused_there(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_output, "_WINDOWS", True)
    with pytest.raises(LivemarksError, match="Windows allows no such name"):
        write("csv", tmp_path / name, RESULTS)
    assert list(tmp_path.iterdir()) == []
    for fine in ("console.csv", ".a b", "com.csv", "été 顔.csv"):
        write("csv", tmp_path / fine, RESULTS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_standard_input_is_never_overwritten(kind: str, tmp_path: Path) -> None:
    path, link = tmp_path / f"in.{kind}", tmp_path / f"link.{kind}"
    path.write_text("precious")
    link.symlink_to(path)
    own = os.dup(0)
    try:
        with path.open() as stdin:
            os.dup2(stdin.fileno(), 0)
        for target in (path, link):
            with pytest.raises(LivemarksError, match="it is the input"):
                write(kind, target, [result(0, 0.0)])
    finally:
        os.dup2(own, 0)
        os.close(own)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("kind", KINDS)
def test_standard_output(kind: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(kind, tmp_path / "out", RESULTS)
    write(kind, "-", RESULTS)
    assert capfd.readouterr().out == (tmp_path / "out").read_text()


@pytest.mark.parametrize("stdout", [io.StringIO(), None])
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_standard_output(kind: str, stdout: io.StringIO | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(LivemarksError, match="no standard output to write on; name a file"):
        write(kind, "-", RESULTS)


# A run in a process of its own, until something ends it.
RUN = """
import resource, sys
from livemarks import plugins
from livemarks.types import LivemarksError, Stop
from test_sinks_points import INFO, RESULTS, SCHEMES, Tally
kind, path, limit = sys.argv[1:]
sink = plugins.load("sinks", kind)(path, INFO, scheme=SCHEMES["ibug68"], model="m", backend="b")
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    for _ in range(1000):
        sink.write(RESULTS[0], None, Tally())
except (LivemarksError, Stop) as end:
    print(type(end).__name__, end, file=sys.stderr)
sink.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_told_and_leaves_whole_lines(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-c", RUN, kind, str(tmp_path / "out"), "50000"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE)
    assert run.stderr.startswith(f"LivemarksError {tmp_path / 'out'} can't be written on: File too large")
    text = (tmp_path / "out").read_text()
    assert 40_000 < len(text) <= 50_000
    assert text.endswith("\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_behind_standard_output_is_told() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", RUN, "csv", "-", "0"]
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=True, cwd=HERE)
    why = "standard output can't be written on: No space left on device; what came before is kept"
    assert run.stderr == f"LivemarksError {why}\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_who_leaves_ends_the_run(kind: str) -> None:
    command = [sys.executable, "-c", RUN, kind, "-", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == "Stop \n"
        assert process.wait() == 0
