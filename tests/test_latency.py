"""bench/latency.py: what it measures is what it says, with a net that needs no training."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest

from livemarks import api, weights
from livemarks.sources import synthetic
from livemarks.types import U8, Frame, LivemarksError, Result, Tally

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))
import _latency_film as film  # noqa: E402
import _latency_peers as peers  # noqa: E402
import _latency_report as report  # noqa: E402
import latency  # noqa: E402
from _latency_peers import Side  # noqa: E402
from _latency_runs import AgeSink, StampedSource, measure_pipeline, read_stamp, stamp  # noqa: E402
from _latency_stages import Stopwatch  # noqa: E402
from _latency_steps import floor  # noqa: E402


@pytest.mark.parametrize("number", [0, 1, 12345, 65535])
def test_stamp_comes_back_through_noise(number: int) -> None:
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (40, 80, 3), np.uint8)
    stamp(image, number)
    noisy = np.clip(image + rng.normal(0, 20, image.shape), 0, 255).astype(np.uint8)
    assert read_stamp(noisy) == number


def test_age_is_that_of_the_picture_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [np.zeros((40, 80, 3), np.uint8) for _ in range(2)]
    frames = [Frame(image, index, index / 30) for index, image in enumerate(images)]

    class Two:
        info, notices = None, ()

        def __iter__(self) -> object:
            return iter(frames)

        def close(self) -> None: ...

    now_s = [10.0]
    monkeypatch.setattr("time.perf_counter", lambda: now_s[0])
    source = StampedSource(Two())
    sink = AgeSink(source)
    first, second = source
    now_s[0] = 10.25
    sink.write(Result(first, (), {}), first.image, Tally())
    assert sink.age_s == [0.25]
    with pytest.raises(AssertionError, match="picture 0 was shown as frame 1"):
        sink.write(Result(second, (), {}), first.image, Tally())


def test_frames_go_there_and_back_without_a_jump() -> None:
    indices = film.there_and_back(4, 0, 14)
    assert indices[:7] == [0, 1, 2, 3, 2, 1, 0]
    assert indices[5:] == film.there_and_back(4, 5, 9)
    assert set(np.abs(np.diff(indices)).tolist()) == {1}
    assert film.there_and_back(1, 3, 2) == [0, 0]


def test_row_keeps_raw_times_and_doubts() -> None:
    steady = report.row("net", {"model": "m"}, [0.002] * 200)
    assert (steady["n"], steady["p50_ms"], steady["warning"]) == (200, 2.0, "")
    assert steady["raw_us"] == [2000] * 200
    doubtful = report.row("net", {"model": "m"}, [0.002, 0.02] * 10)
    assert report.cell(doubtful["warning"]) == "few, spread"


def test_crowd_has_a_face_in_every_cell() -> None:
    frames = film.crowd(3, (320, 180), 2)
    assert frames.shape == (2, 180, 320, 3)
    cells = [frames[0, y : y + 90, x : x + 160] for y, x in ((0, 0), (0, 160), (90, 0))]
    assert all(cell.std() > 20 for cell in cells)
    assert not np.array_equal(cells[0], cells[1])  # each moves in its own way


def test_a_run_measures_writes_draws_and_compares(
    still_model: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(film, "SIZES_WH", ((160, 90), (320, 180)))
    file, picture = tmp_path / "r.json", tmp_path / "r.png"
    parts = [word for part in ("pipeline", "live", "net", "stages", "growth") for word in ("--part", part)]
    arguments = [*parts, "--model", str(still_model()), "--backend", "onnx", "--seconds", "0.7", "--json", str(file)]
    assert latency.main([*arguments, "--plot", str(picture)]) == 0
    found = json.loads(file.read_text())
    assert {"cpu", "cores", "python", "versions"} <= found["machine"].keys()
    rows = found["rows"]
    whole = next(row for row in rows if row["part"] == "pipeline" and row["stage"] == "whole")
    assert (whole["captured"], whole["processed"], whole["dropped"], whole["n"]) == (21, 21, 0, 20)
    assert whole["fps"] == pytest.approx(1e6 * 20 / sum(whole["raw_us"]), rel=1e-3)  # n - 1 frames over the span
    assert {row["stage"] for row in rows if row["part"] == "pipeline"} >= {"decode", "draw", "encode", "whole"}
    overload = next(row for row in rows if row.get("load") == "2x overload")
    assert overload["dropped"] > 0
    assert overload["p50_ms"] >= 2e3 / film.FPS
    assert {row["batch"] for row in rows if row["part"] == "net"} == {1, 2, 4, 8}
    assert {row["stage"] for row in rows if row["part"] == "stages"} >= {"warp", "net", "smooth", "all but the net"}
    assert {row["faces"] for row in rows if row["part"] == "growth"} == {1, 2, 4, 8}
    assert picture.read_bytes().startswith(b"\x89PNG")

    table = report.comparison(found, found)
    assert table.row_count == sum("p50_ms" in row for row in rows) == len({report.name_of(r) + r["part"] for r in rows})
    assert set(table.columns[-1].cells) == {"1.00"}
    capsys.readouterr()


def test_the_portrait_becomes_a_file_and_a_clip_stays_itself(tmp_path: Path) -> None:
    path = film.as_file("synthetic", (160, 90), 0.5, tmp_path)
    assert film.as_file(path, (0, 0), 9.0, tmp_path) == path
    with closing(api.open_source(path)) as source:
        assert (source.info.path, source.info.size_wh) == (path, (160, 90))
        assert [frame.t_s for frame in source] == pytest.approx([i / film.FPS for i in range(15)])


def test_decoding_is_not_rendering(still_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A portrait that takes 50 ms a frame to render is decoded much faster, and the first frame with the opening."""
    render = synthetic.Source._image

    def slow(self: synthetic.Source, t_s: float) -> U8:
        time.sleep(0.05)
        return render(self, t_s)

    monkeypatch.setattr(synthetic.Source, "_image", slow)
    monkeypatch.setattr(film, "SIZES_WH", ((160, 90),))
    options = latency.parse(["--model", str(still_model()), "--backend", "onnx", "--seconds", "0.5"])
    rows = {row["stage"]: row for row in measure_pipeline(options)}
    assert rows["decode"]["n"] == 14
    assert 0 < rows["decode"]["p50_ms"] < 25
    assert rows["whole"]["processed"] == 15


def test_seconds_are_blocks_of_30_frames_for_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the ratio is told with its quartiles beside it."""
    sides: list[FakeSide] = []

    class FakeSide:
        """Takes 1 ms a frame if it is livemarks, else 1, 2, 3, … ms by block."""

        version = "0"

        def __init__(self, name: str, *_: object) -> None:
            self.name = name
            self.all: list[list[int]] = []
            self.took_s: list[list[float]] = []
            self.faces: list[int] = []
            sides.append(self)

        def run(self, frames: Sequence[int], *, counts: bool = True) -> None:
            self.all.append(list(frames))
            if counts:
                ms = 1 if self.name == "livemarks" else 1 + len(self.took_s)
                self.took_s.append([1e-3 * ms] * len(frames))
                self.faces += [1] * len(frames)

        def close(self) -> None: ...

    monkeypatch.setattr(peers, "Side", FakeSide)
    monkeypatch.setattr(peers, "conditions", lambda: [("as it is", [], False)])
    monkeypatch.setattr(film, "SIZES_WH", ((160, 90),))
    rows = list(peers.measure_peers(latency.parse(["--seconds", "5", "--peers", "mediapipe"])))
    assert [side.name for side in sides] == ["livemarks", "mediapipe"]
    for side in sides:
        assert [len(block) for block in side.took_s] == [30] * 5
        assert [len(block) for block in side.all] == [30] * 6  # one to warm up
    assert sides[0].all == sides[1].all
    assert [row["n"] for row in rows if row["part"] == "peers"] == [150, 150]
    (table,) = [table for table in report.tables(rows) if "ratio" in str(table.title)]
    shown = {str(column.header): list(column.cells) for column in table.columns}
    assert list(shown)[-3:] == ["ratio", "ratio_p25", "ratio_p75"]
    assert [shown[name] for name in ("ratio", "ratio_p25", "ratio_p75")] == [["0.33"], ["0.25"], ["0.50"]]
    assert "blocks of 30 frames" in str(table.title)


def test_floor_of_the_shipped_net() -> None:
    found = floor(weights.find("lite-68"), 0.05)
    # by hand: 16 x 27 x 56^2 multiplications and additions in the stem, 32 x 144 x 28^2 in the next layer, and so on
    assert found["gflop"] == pytest.approx(2 * 86.2e-3, abs=0.002)
    stored = onnx.load(weights.find("lite-68")).graph.initializer
    shrunk = [t for t in stored if t.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8)]
    assert found["weights_mb"] == pytest.approx(4e-6 * sum(math.prod(t.dims) for t in shrunk), rel=0.03)
    assert found["arithmetic_ms"] > 0
    assert found["memory_ms"] > 0


def test_stopwatch_books_time_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now_s[0])
    watch = Stopwatch()

    def work(seconds: float) -> None:
        now_s[0] += seconds

    inner = watch.watched("inner", work)

    def both() -> None:
        work(1.0)
        inner(2.0)
        inner(4.0)

    watch.watched("outer", both)()
    assert watch.spent_s == {"inner": 6.0, "outer": 1.0}


def test_two_sides_race_on_the_same_frames(still_model: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "frames.npy"
    np.save(path, film.frames_of("synthetic", (160, 90), 8))
    side = Side("livemarks", sys.executable, path, [], "--model", str(still_model()), "--backend", "onnx")
    try:
        assert "still-68" in side.version
        side.run(range(8), counts=False)
        side.run([0, 1, 2])
        side.run([3, 4])
    finally:
        side.close()
    assert [len(block) for block in side.took_s] == [3, 2]
    assert len(side.faces) == 5
    assert all(0 < seconds < 5 for block in side.took_s for seconds in block)


def test_missing_peer_says_what_to_install(tmp_path: Path) -> None:
    """MediaPipe as livemarks needs it has no face mesh any more: the peer wants an interpreter of its own."""
    np.save(tmp_path / "frames.npy", np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(LivemarksError, match=r"pip install mediapipe==0\.10\.21"):
        Side("mediapipe", sys.executable, tmp_path / "frames.npy", [])


def test_unknown_model_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert latency.main(["--part", "growth", "--model", "no-such-net"]) == 2
    assert "no-such-net" in capsys.readouterr().err


def test_peers_that_do_not_start_are_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(latency, "measure_net", lambda _: pytest.fail("it was measured"))
    arguments = ["--part", "net", "--part", "peers", "--peer-python"]
    assert latency.main([*arguments, f"mediapipe={tmp_path}/python"]) == 2
    assert f"cannot run {tmp_path}/python" in capsys.readouterr().err
    assert latency.main([*arguments, f"mediapipe={sys.executable}"]) == 2
    assert "pip install mediapipe" in capsys.readouterr().err


def test_a_side_that_dies_is_told_in_one_line(still_model: Callable[..., Path], tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", np.zeros((1, 90, 160, 3), np.uint8))
    side = Side("livemarks", sys.executable, tmp_path / "frames.npy", [], "--model", str(still_model()))
    side._process.kill()
    side._process.wait()
    with closing(side), pytest.raises(LivemarksError, match="livemarks ended with status"):
        side.run([0])


def test_no_peer_is_asked_unless_its_interpreter_is_told() -> None:
    assert latency.parse([]).peers == []
    assert latency.parse(["--peer-python", "dlib=x"]).peers == ["dlib"]
    assert latency.parse(["--peers", "none", "--peer-python", "dlib=x"]).peers == []
    assert latency.parse(["--peers", "mediapipe,dlib"]).peers == ["mediapipe", "dlib"]


@pytest.mark.parametrize(
    "options",
    [
        ["--peer-python", "mediapipe"],
        ["--peer-python", "openface=x"],
        ["--peers", "openface"],
        ["--seconds", "0"],
        ["--seconds", "0.01"],
        ["--json", "{}/none/r.json"],
        ["--plot", "{}/none/r.png"],
        ["--plot", "{}/r"],
    ],
)
def test_options_that_would_fail_late_are_refused(options: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        latency.parse([word.format(tmp_path) for word in options])


def test_an_older_run_that_cannot_be_read_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(latency, "measure_net", lambda _: pytest.fail("it was measured"))
    file = tmp_path / "old.json"
    for text, said in ((None, "cannot read"), ("{", "cannot read"), ("[]", "was not written by --json")):
        if text is not None:
            file.write_text(text)
        assert latency.main(["--part", "net", "--compare", str(file)]) == 2
        assert said in capsys.readouterr().err
