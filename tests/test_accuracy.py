"""bench/accuracy.py on made-up faces whose errors are known, with a net and peers that answer as told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from livemarks import api, plugins, weights
from livemarks.landmarker import Landmarker
from livemarks.train.samples import Sample
from livemarks.types import F32, F64, U8, Card, FaceBox, Frame, LivemarksError

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))
import _ask_peer  # noqa: E402
import _faces  # noqa: E402
import accuracy  # noqa: E402
import kaggle  # noqa: E402
import mesh_map as mapping  # noqa: E402

CARD = Card("fake-68", "fake", "ibug68", (64, 64), margin=1.6)


class CenterRunner:
    """A net that answers with a ring of points around the crop's centre, each 2 px uncertain."""

    label = "fake"

    def __call__(self, crops: U8) -> tuple[F32, F32, F32]:
        count = len(crops)
        ring = np.tile(ring68(31.5, 31.5, 10), (count, 1, 1)).astype(np.float32)
        return ring, np.full((count, 68), 2, np.float32), np.full(count, 0.25, np.float32)

    def close(self) -> None: ...


def ring68(x: float, y: float, radius: float) -> F64:
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)


def truth(folder: Path, name: str, xy: F64) -> _faces.Truth:
    path = folder / f"{name}.png"
    cv2.imwrite(str(path), np.full((200, 200, 3), 90, np.uint8))
    sample = Sample(path, "ibug68", xy.astype(np.float32), name, "helen-test", path.name)
    return _faces.Truth(sample, sample.xy, 50.0)


def ask(faces: list[_faces.Truth], box: str, detect: Callable[[Frame], tuple[FaceBox, ...]]) -> _faces.Answers:
    landmarker = Landmarker(CenterRunner(), CARD, plugins.load("schemes", "ibug68"))
    return accuracy.ask_net(landmarker, CARD.margin, faces, box, detect)


def no_detector(_: Frame) -> tuple[FaceBox, ...]:
    raise AssertionError("the label's box needs no detector")


def test_nobody_is_measured_whom_lfw_shows_to_those_who_learn(tmp_path: Path) -> None:
    def write(table: str, folder: str, *names: str) -> None:
        rows = [",".join([name, *map(str, ring68(100, 90, 20).ravel())]) for name in names]
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((200, 200, 3), 90, np.uint8))
        (tmp_path / table).write_text("\n".join(["header", *rows]) + "\n")

    write(
        "ytfaces68/training_frames_keypoints.csv", "ytfaces68/training", "Al_Roe_00.jpg", "Bo_Lee_03.jpg", "Cy_00.jpg"
    )
    (tmp_path / "ytfaces68" / "validation_people.txt").write_text("Al_Roe\nBo_Lee\n")
    write("lfw_pseudo68/labels.csv", "lfw_pseudo68/images", "Al_Roe_0001.jpg")
    faces = _faces.truths(tmp_path, "ytfaces-val", "ibug68", None)
    assert [face.sample.person for face in faces] == ["Bo_Lee"]


def test_with_the_labels_box_errors_are_exact(tmp_path: Path) -> None:
    # The crop is 1.6 x 40 px wide, so one of its 64 px is a px of the picture, and the net's ring is 10 px wide.
    faces = [truth(tmp_path, "a", ring68(100, 90, 20)), truth(tmp_path, "b", ring68(70, 110, 20))]
    answers = ask(faces, "label", no_detector)
    np.testing.assert_allclose(answers.xy[0], ring68(100, 90, 10), atol=0.05)
    row = _faces.score(answers, faces, "ibug68")
    assert row["nme_percent"] == pytest.approx(20, abs=0.1)  # 10 px off, of 50
    assert row["rmse_px"] == pytest.approx(10 / 2**0.5, abs=0.05)
    assert (row["faces"], row["missed"], row["low_presence"], row["failures_10"]) == (2, 0, 2, 1.0)
    assert row["sigma_coverage"]["all"][0] < 0.3  # off by 5 sigma


def test_a_missed_face_is_counted_apart_and_fails(tmp_path: Path) -> None:
    faces = [truth(tmp_path, "a", ring68(100, 90, 10)), truth(tmp_path, "b", ring68(60, 110, 10))]

    def detect(frame: Frame) -> tuple[FaceBox, ...]:
        wrong = FaceBox(np.array([150, 150, 190, 190], np.float32))
        right = FaceBox(np.array([88, 78, 112, 102], np.float32))
        return (wrong, right) if frame.index == 0 else (wrong,)

    answers = ask(faces, "detector", detect)
    assert np.isnan(answers.xy[1]).all()
    row = _faces.score(answers, faces, "ibug68")
    assert (row["missed"], row["failures_10"]) == (1, 0.5)
    assert row["nme_percent"] < 10  # of the face that was found
    assert _faces.score(ask(faces, "detector", lambda _: ()), faces, "ibug68") == {"faces": 2, "missed": 2}


def test_a_recrop_is_cut_around_the_nets_own_points(tmp_path: Path) -> None:
    faces = [truth(tmp_path, "a", ring68(100, 90, 20))]
    box = FaceBox(np.array([80, 70, 120, 110], np.float32))
    once, again = (ask(faces, kind, lambda _: (box,)) for kind in ("detector", "recrop"))
    assert np.ptp(once.xy[0], axis=0).max() == pytest.approx(20, abs=0.1)
    assert np.ptp(again.xy[0], axis=0).max() == pytest.approx(10, rel=0.1)  # in a crop half as large, and turned


def test_the_15_points_are_told_in_px_of_a_picture_like_kaggles(tmp_path: Path) -> None:
    """Of the label's box alone, whatever crop a net was given."""
    face = truth(tmp_path, "a", ring68(100, 90, 20))  # 40 px across, so Kaggle's picture would have 46
    face15 = _faces.Truth(face.sample, np.zeros((15, 2), np.float32), 50.0)
    answers = _faces.Answers(np.full((1, 15, 2), 3.0), None, np.full(1, np.nan))
    row = _faces.score(answers, [face15], "kaggle15")
    assert row["rmse_px"] == pytest.approx(3)
    assert row["rmse_96_px"] == pytest.approx(3 * 96 / 46, rel=1e-3)
    theirs = _faces.Truth(replace(face.sample, set="kaggle"), face15.xy, 50.0)
    assert _faces.score(answers, [theirs], "kaggle15")["rmse_96_px"] == pytest.approx(3)


def test_faces_without_eye_corners_count_in_pixels_alone(tmp_path: Path) -> None:
    face = truth(tmp_path, "a", ring68(100, 90, 20))
    faces = [_faces.Truth(face.sample, np.zeros((15, 2), np.float32), distance) for distance in (50.0, float("nan"))]
    unknown = np.full(2, np.nan)
    pred = np.stack([np.full((15, 2), 3.0), np.full((15, 2), 4.0)])
    row = _faces.score(_faces.Answers(pred, None, unknown), faces, "kaggle15")
    assert row["nme_percent"] == pytest.approx(100 * 3 * 2**0.5 / 50)
    assert row["rmse_px"] == pytest.approx(12.5**0.5)


def test_the_nose_tip_is_normalised_by_imms_own_eyes(tmp_path: Path) -> None:
    xy = np.random.default_rng(0).uniform(40, 80, (58, 2))
    xy[21], xy[13] = (40, 50), (80, 50)
    (tmp_path / "imm_face_db").mkdir()
    for stem in ("32-1m", "33-1m"):
        rows = "\n".join(f"0 0 {x / 100:.6f} {y / 100:.6f} {i} 0 0" for i, (x, y) in enumerate(xy))
        (tmp_path / "imm_face_db" / f"{stem}.asf").write_text(f"58\n{rows}\n{stem}.png\n")
        cv2.imwrite(str(tmp_path / "imm_face_db" / f"{stem}.png"), np.zeros((100, 100, 3), np.uint8))
    (face,) = _faces.truths(tmp_path, "imm", "nose1", None)  # person 32 is one to train on
    assert face.sample.person == "33"
    assert face.interocular_px == pytest.approx(40, abs=1e-3)
    np.testing.assert_allclose(face.xy, xy[52:53], atol=1e-3)
    unknown = np.full(1, np.nan)
    row = _faces.score(_faces.Answers(xy[None, 52:53] + (4, 0), None, unknown), [face], "nose1")
    assert row["nme_percent"] == pytest.approx(10, abs=0.01)


def test_sets_are_matched_to_schemes() -> None:
    assert accuracy.sets_for("ibug68", []) == ["helen-test"]
    assert accuracy.sets_for("kaggle15", []) == ["helen-test"]
    assert accuracy.sets_for("nose1", []) == ["imm"]
    assert accuracy.sets_for("nose1", ["helen-test", "imm"]) == ["imm"]
    assert accuracy.sets_for("ibug68", ["cofw"]) == ["cofw"]  # and then it is called unknown


# --- peers -----------------------------------------------------------------------------------------------------------


def fake_peer(folder: Path, body: str) -> list[str]:
    script = folder / "peer.py"
    script.write_text("import json, sys\n" + body)
    return [sys.executable, str(script), "fake"]


def test_of_a_peers_faces_the_labelled_one_is_measured(tmp_path: Path) -> None:
    faces = [truth(tmp_path, "a", ring68(100, 90, 20)), truth(tmp_path, "b", ring68(40, 40, 20))]
    answers = json.dumps({"faces": [ring68(150, 150, 20).tolist(), ring68(102, 90, 20).tolist()]})
    command = fake_peer(
        tmp_path,
        f"""print(json.dumps({{"version": "fake 1.0"}}), flush=True)
for line in sys.stdin:
    assert json.loads(line)["box"] is None
    print({answers!r}, flush=True)
""",
    )
    found, version = _ask_peer.ask_peer(command, faces, "detector", None)
    row = _faces.score(found, faces, "ibug68")
    assert version == "fake 1.0"
    assert (row["missed"], row["nme_percent"]) == (1, pytest.approx(4, abs=1e-4))
    assert "sigma_coverage" not in row


def test_a_peer_that_is_missing_or_dies_is_told_in_one_line(tmp_path: Path) -> None:
    faces = [truth(tmp_path, "a", ring68(100, 90, 20))]
    command = fake_peer(tmp_path, """print(json.dumps({"missing": "no module; needs: pip install it"}))""")
    with pytest.raises(LivemarksError, match=r"not installed in .*pip install it"):
        _ask_peer.ask_peer(command, faces, "label", None)
    with pytest.raises(LivemarksError, match="ended: ValueError: too bad"):
        _ask_peer.ask_peer(fake_peer(tmp_path, "raise ValueError('too bad')"), faces, "label", None)
    with pytest.raises(LivemarksError, match="cannot run /none/python"):
        _ask_peer.ask_peer(["/none/python", "peer.py"], faces, "label", None)
    # it closes its ears before it is asked, and dies afterwards
    body = """import os, time
os.close(0)
print(json.dumps({"version": "1"}), flush=True)
time.sleep(0.5)
sys.exit("deaf")
"""
    with pytest.raises(LivemarksError, match="ended: deaf"):
        _ask_peer.ask_peer(fake_peer(tmp_path, body), faces, "label", None)


def test_peers_are_asked_for_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        accuracy.main(["--data", str(tmp_path), "--peers", "openface"])
    assert "there are: mediapipe, dlib" in capsys.readouterr().err


def test_the_mesh_map_moves_turns_and_grows_with_the_face(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "map.npz"
    np.savez(path, mean_in=rng.normal(size=956), weights=rng.normal(size=(956, 136)), mean_out=rng.normal(size=136))
    mesh_map = _ask_peer.MeshMap(path)
    mesh = rng.uniform(0, 100, (478, 2))
    turn = 1.7 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    np.testing.assert_allclose(mesh_map(mesh @ turn.T + 5), mesh_map(mesh) @ turn.T + 5, rtol=1e-6)
    for damaged in (b"no map", b"", path.read_bytes()[:2000]):
        path.write_bytes(damaged)
        with pytest.raises(LivemarksError, match="not a map"):
            _ask_peer.MeshMap(path)


# --- the whole command -----------------------------------------------------------------------------------------------


def make_helen(data: Path, image: U8) -> None:
    """A test set of one face, and one that can't be read."""
    folder = data / "300w" / "helen" / "testset"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "1_1.png"), image)
    xy = ring68(222, 135, 45) + 1
    rows = "\n".join(f"{x} {y}" for x, y in xy)
    (folder / "1_1.pts").write_text(f"version: 1\nn_points: 68\n{{\n{rows}\n}}\n")
    (folder / "2_1.pts").write_text("")


def test_scores_are_written_into_the_file_that_was_measured(
    tmp_path: Path, still_model: Callable[..., Path], astronaut: U8, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not into the one that ships under the card's name."""
    make_helen(tmp_path, astronaut)
    mine, shipped = still_model(), still_model()
    before = shipped.read_bytes()
    find = weights.find
    monkeypatch.setattr(weights, "find", lambda name: shipped if name == "still-68" else find(name))
    assert accuracy.main(["--data", str(tmp_path), "--model", str(mine), "--box", "label", "--card"]) == 0
    assert list(weights.read_card(mine).scores) == ["helen-test NME %, label box"]
    assert shipped.read_bytes() == before


def test_a_peer_that_does_not_start_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(accuracy, "measure_nets", lambda _: pytest.fail("it was measured"))
    command = ["--data", str(tmp_path), "--peers", "dlib", "--peer-python", "dlib=/none/python"]
    assert accuracy.main(command) == 2
    assert capsys.readouterr().err.startswith("error: cannot run /none/python: ")


@pytest.mark.parametrize(
    "options",
    [
        ["--slices", "--box", "label"],
        ["--card", "--limit", "5"],
        ["--limit", "0"],
        ["--limit", "-3"],
        ["--worst", "worst"],
        ["--worst", "/none/worst.png"],
        ["--peer-python", "dlib"],
    ],
)
def test_options_that_would_be_dropped_or_fail_late_are_refused(options: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        accuracy.parse(["--data", str(tmp_path), *options])


def test_the_command_measures_a_model_file(
    tmp_path: Path, still_model: Callable[..., Path], astronaut: U8, capsys: pytest.CaptureFixture[str]
) -> None:
    make_helen(tmp_path, astronaut)
    command = ["--data", str(tmp_path), "--model", str(still_model())]
    worst = tmp_path / "worst.png"
    assert accuracy.main([*command, "--json", "--worst", str(worst)]) == 0
    said = capsys.readouterr()
    rows = json.loads(said.out)["rows"]
    assert [(row["box"], row["faces"], row["missed"]) for row in rows] == [(box, 1, 0) for box in accuracy.BOXES]
    assert "left out: helen-test: 2_1.pts" in said.err
    assert cv2.imread(str(worst)) is not None
    assert accuracy.main(command) == 0
    assert "still-68" in capsys.readouterr().out
    assert accuracy.main([*command, "--set", "cofw"]) == 2
    assert "error: no data set is called 'cofw'" in capsys.readouterr().err
    assert accuracy.main([*command, "--set", "imm"]) == 2
    assert "nothing to measure" in capsys.readouterr().err


def test_a_mesh_map_is_found_again_whatever_the_faces_place_and_turn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(3, 478, 2))  # three faces and all between them
    meshes, points = [], []
    for _ in range(60):
        own = np.tensordot(rng.dirichlet(np.ones(3)), shapes, 1)
        own[33], own[263] = (-0.5, 0.0), (0.5, 0.0)
        scale, angle = rng.uniform(20, 200), rng.uniform(-3, 3)
        turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        meshes.append(own @ turn + rng.uniform(0, 1000, 2))
        points.append(meshes[-1][5 : 5 + 68])  # a linear map: some of the mesh's own points
    inside = [
        np.stack([mapping.into_frame(xy, mesh) for xy, mesh in zip(xys, meshes, strict=True)])
        for xys in (meshes, points)
    ]
    found = mapping.fit(inside[0][:40], inside[1][:40], 1e-9)
    assert mapping.error_percent(found, inside[0][40:], inside[1][40:]) < 0.01
    np.savez(tmp_path / "map.npz", mean_in=found["mean_in"], weights=found["weights"], mean_out=found["mean_out"])
    again = _ask_peer.MeshMap(tmp_path / "map.npz")
    for mesh, want in zip(meshes[40:], points[40:], strict=True):
        np.testing.assert_allclose(again(mesh), want, atol=0.05)


# --- Kaggle's test pictures -------------------------------------------------------------------------------------------


@pytest.fixture
def kaggle_files(tmp_path: Path) -> tuple[Path, U8]:
    """A folder of two pictures, 7 and 9, of which four numbers are asked for; and the pictures (2, 96, 96, 3)."""
    greys = np.random.default_rng(0).integers(0, 256, (2, 96 * 96)).astype(np.uint8)
    rows = [f"{name},{' '.join(map(str, row.tolist()))}\n" for name, row in zip((7, 9), greys, strict=True)]
    (tmp_path / "test.csv").write_text("".join(["ImageId,Image\n", *rows]))
    (tmp_path / "IdLookupTable.csv").write_text(
        "RowId,ImageId,FeatureName,Location\n"
        "1,7,left_eye_center_x,\n2,7,left_eye_center_y,\n3,9,nose_tip_x,\n4,9,mouth_center_bottom_lip_y,\n"
    )
    return tmp_path, np.repeat(greys.reshape(2, 96, 96, 1), 3, axis=3)


def test_kaggles_submission_holds_what_the_net_says_of_whole_pictures(kaggle_files: tuple[Path, U8]) -> None:
    folder, pictures = kaggle_files
    out = folder / "submission.csv"
    assert kaggle.main(["--data", str(folder), "--model", "kth15", "--out", str(out)]) == 0
    with closing(api.open_net("kth15", backend="onnx").runner) as runner:
        (first, second), _, _ = runner(pictures)  # a net of 96x96, as the pictures
    header, *lines = out.read_text().splitlines()
    assert header == "RowId,Location"
    assert [line.split(",")[0] for line in lines] == ["1", "2", "3", "4"]
    wanted = [first[0, 0], first[0, 1], second[10, 0], second[14, 1]]
    assert [float(line.split(",")[1]) for line in lines] == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("IdLookupTable.csv", "RowId", "Row", "not the columns of Kaggle's IdLookupTable.csv"),
        ("IdLookupTable.csv", "nose_tip_x", "nose_x", "no coordinate of Kaggle's 15 points: 'nose_x'"),
        ("IdLookupTable.csv", "3,9", "3,8", "asks for image 8, which test.csv doesn't show"),
        ("test.csv", "\n9,", "\n9,x", "asks for image 9, which test.csv doesn't show"),
        ("test.csv", "ImageId", "Id", "neither the columns of Kaggle's training.csv nor of its test.csv"),
    ],
)
def test_what_kaggles_tables_lack_is_one_line_and_status_2(
    kaggle_files: tuple[Path, U8], file: str, old: str, new: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = kaggle_files
    (folder / file).write_text((folder / file).read_text().replace(old, new))
    assert kaggle.main(["--data", str(folder), "--out", str(folder / "submission.csv")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert not (folder / "submission.csv").exists()


def test_kaggle_asks_for_a_net_of_15_points(kaggle_files: tuple[Path, U8], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = kaggle_files
    command = ["--data", str(folder), "--out", str(folder / "submission.csv")]
    assert kaggle.main([*command, "--model", "lite-68"]) == 2
    assert capsys.readouterr().err == "error: lite-68 finds ibug68 points; Kaggle asks for kaggle15's\n"
    (folder / "test.csv").unlink()
    assert kaggle.main(command) == 2
    assert "test.csv: no such file" in capsys.readouterr().err
