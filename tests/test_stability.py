"""bench/stability.py: its counts on made-up results, its labels' reader, and its blink on a drawn eye."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import still_points

from livemarks.schemes.ibug68 import SCHEME
from livemarks.train.samples import Sample
from livemarks.types import U8, FaceBox, FaceTrack, Frame, Landmarks, LivemarksError, Result

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
import _follow
import _labelled
import _made_up
import _scenes
import stability


def result(index: int, *ids: int, looked: bool = False) -> Result:
    xy = (still_points() * 100 + index).astype(np.float32)
    landmarks = Landmarks(SCHEME, xy, np.ones(68, np.float32))
    faces = tuple(FaceTrack(i, landmarks, landmarks, FaceBox(np.array([0, 0, 9, 9])), 0.0) for i in ids)
    frame = Frame(np.zeros((1, 1, 3), np.uint8), index, index / 30)
    return Result(frame, faces, {"detect": 0.01 if looked else 0.0, "infer": 0.002})


def test_tracks_counts_losses_ids_and_waits() -> None:
    shown = [result(i, 1) for i in range(4)]
    gone = [result(i, looked=True) for i in range(4, 7)]
    back = [result(i, 2) for i in range(7, 9)]
    row = _follow.tracks([*shown, *gone, *back, result(9)])
    assert row["frames"] == 10
    assert row["shown_percent"] == pytest.approx(60)
    assert row["ids"] == 2
    assert row["losses"] == 2
    assert row["first_found"] == 0
    assert row["longest_gap"] == 3
    assert row["longest_track"] == 4
    assert row["looks_percent"] == pytest.approx(30)


def test_a_face_found_late_and_lost_for_good_is_told() -> None:
    late = [result(i) for i in range(5)]
    row = _follow.tracks([*late, result(5, 1), *(result(i) for i in range(6, 16))])
    assert (row["first_found"], row["losses"], row["longest_gap"]) == (5, 1, 10)
    assert _follow.tracks(late)["first_found"] is None


def test_frames_without_a_face_are_not_left_out_unsaid() -> None:
    true = np.random.default_rng(0).uniform(0, 100, (8, 68, 2))
    pred = true.copy()
    pred[6:] = np.nan
    assert _follow.compare(pred, true, true[:, 45] - true[:, 36])["shown_percent"] == pytest.approx(75)


def test_raw_points_are_smoothed_track_by_track() -> None:
    results = [result(0, 1), result(1, 1), result(2), result(3, 2)]
    off = _follow.smoothed(results, "off", SCHEME)
    assert np.isnan(off[2]).all()
    assert off[1] == pytest.approx(results[1].faces[0].raw.xy)
    strong = _follow.smoothed(results, "strong", SCHEME)
    assert strong[3] == pytest.approx(off[3])  # another face's past is not this one's


def test_labels_name_their_points(tmp_path: Path) -> None:
    table = tmp_path / "clip.csv"
    table.write_text("frame,x36,y36,x45,y45\n0,1,2,3,4\n1,5,6,7,8\n")
    indices, true = _labelled.read_labels(table)
    assert indices == [36, 45]
    assert true.tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    table.write_text("frame,x36,y36\n0,1,no\n")
    with pytest.raises(LivemarksError, match="cannot read the labels"):
        _labelled.read_labels(table)


def test_lids_close_and_nothing_else_moves() -> None:
    xy = still_points().astype(np.float64) * 400
    image = np.zeros((400, 400, 3), np.uint8)
    image[: round(xy[37, 1])] = 200  # skin down to the upper lids, dark below
    closed = _made_up._closed_lids(image, xy)
    for upper, lower in ((37, 41), (44, 46)):
        column = round(float(xy[upper, 0] + xy[upper + 1, 0]) / 2) if upper == 37 else round(float(xy[upper, 0]))
        lid = int(np.argmax(closed[:, column, 0] < 100))
        opening = xy[lower, 1] - xy[upper, 1]
        assert lid - xy[upper, 1] > 0.6 * opening
    assert (closed[:, :60] == image[:, :60]).all()
    assert (closed[round(xy[33, 1]) :] == image[round(xy[33, 1]) :]).all()


@pytest.mark.parametrize("part", stability.PARTS)
def test_a_folder_without_the_data_is_said_in_one_line(
    part: str, still_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        assert stability.main(["--data", str(folder), "--model", str(still_model()), "--part", part]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert str(folder) in line


@pytest.mark.parametrize(
    "options",
    [
        ["--part", "shake", "--plot", "{}/x.png"],
        ["--part", "shake", "--mesh-python", "python", "--mediapipe-map", "{}/map.npz"],
        ["--part", "labelled", "--plot", "{}/none/x.png"],
        ["--trials", "0"],
    ],
)
def test_options_that_would_be_dropped_or_fail_late_are_refused(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        stability.main(["--data", str(tmp_path), *(word.format(tmp_path) for word in options)])
    assert "error: " in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="of POSIX shells")
@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; print('{\"version\": \"1\"}'); sys.exit('the mesh broke')", "the mesh broke"),
        ('print(\'{"missing": "no mesh"}\')', "no mesh"),
        ("", "without a word"),
        (None, "cannot run"),
    ],
)
def test_a_mesh_that_is_missing_or_dies_is_told_in_one_line(program: str | None, said: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    if program is not None:
        (tmp_path / "peer.py").write_text(program)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/peer.py"\n')
        python.chmod(0o755)
    mesh_map = tmp_path / "map.npz"
    np.savez(mesh_map, mean_in=np.zeros(956), weights=np.zeros((956, 136)), mean_out=np.zeros(136))
    with pytest.raises(LivemarksError, match=said):
        _labelled.mesh_peer(tmp_path, str(python), mesh_map)


def test_lids_that_close_are_no_error(astronaut: U8, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sees where they go is not blamed for it, and who doesn't isn't praised."""
    cv2.imwrite(str(tmp_path / "a.png"), astronaut)
    sample = Sample(tmp_path / "a.png", "ibug68", still_points() * 100 + (172, 85), "a", "helen-test", "a.png")
    face = _made_up.Portrait(sample)
    (clip,) = (clip for clip in _made_up.CLIPS if clip.name == "blink")
    monkeypatch.setattr(_scenes, "CLIPS", (clip,))
    monkeypatch.setattr(_scenes, "portraits", lambda _: [face])

    class Seeing:
        def step(self, frame: Frame) -> Result:
            pose = clip.pose(frame.t_s)
            xy = face.place(pose)(face.xy)
            if pose.closed:
                for upper, lower in _scenes._LIDS:
                    xy[upper] = xy[lower]
            landmarks = Landmarks(SCHEME, xy.astype(np.float32), np.ones(68, np.float32))
            track = FaceTrack(1, landmarks, landmarks, FaceBox(np.array([0, 0, 9, 9])), 0.0)
            return Result(frame, (track,), {"detect": 0.0, "infer": 0.0})

        def close(self) -> None: ...

    def make(_: int) -> Any:
        return Seeing()

    (row,) = _scenes.shake(tmp_path, ["off"], make, SCHEME)
    assert row["nme_percent"] == pytest.approx(0, abs=1e-4)
    assert row["flicker_percent"] == pytest.approx(0, abs=1e-4)
    assert row["blink_share"] == pytest.approx(1)
    assert row["blink_percent"] > 1


def test_tiles_change_places_and_none_is_lost() -> None:
    image = np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)
    mixed = _made_up.shuffled(image, np.random.default_rng(1))
    assert mixed.shape == image.shape
    assert (mixed != image).mean() > 0.9
    assert (np.sort(mixed, axis=None) == np.sort(image, axis=None)).all()
