"""bench/_slices.py: which faces are hard, and pictures that are spoilt alike each time."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import still_points

from livemarks.schemes.ibug68 import SCHEME
from livemarks.train.samples import Sample
from livemarks.types import F64, U8, FaceBox, Frame, Landmarks

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
import _slices
from _faces import Truth

FACE = still_points().astype(np.float64) * 200  # outer eye corners 68 px apart


def turned(yaw_deg: float) -> F64:
    """The face seen from the side: its width shrinks, and the nose, standing out, moves off the middle."""
    xy = FACE.copy()
    right, left = xy[36].copy(), xy[45].copy()
    middle, half = (right + left) / 2, (left - right) / 2
    yaw = math.radians(yaw_deg)
    xy[:, 0] = middle[0] + (xy[:, 0] - middle[0]) * math.cos(yaw)
    xy[30] = middle + half * _slices._NOSE_DEPTH * math.sin(yaw) + np.array([0, 30])
    return xy


@pytest.mark.parametrize("yaw_deg", [0.0, 20.0, -35.0, 60.0])
def test_yaw_is_told_by_the_noses_shift_however_the_picture_is_turned(yaw_deg: float) -> None:
    turn = 3 * np.array([[math.cos(0.6), -math.sin(0.6)], [math.sin(0.6), math.cos(0.6)]])
    assert _slices.yaw_deg(turned(yaw_deg)) == pytest.approx(abs(yaw_deg), abs=0.01)
    assert _slices.yaw_deg(turned(yaw_deg) @ turn.T + 50) == pytest.approx(abs(yaw_deg), abs=0.01)


def test_closed_eyes_are_flat() -> None:
    xy = FACE.copy()
    xy[[37, 38, 40, 41, 43, 44, 46, 47], 1] = xy[36, 1]
    assert _slices.eye_aspect(FACE) > 0.25
    assert _slices.eye_aspect(xy) < 0.05


@pytest.mark.parametrize("case", [case for case in _slices.SLICES if case.spoil is not _slices._as_it_is], ids=str)
def test_a_picture_is_spoilt_and_the_same_each_time(case: _slices.Slice) -> None:
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (240, 240, 3), np.uint8), (0, 0), 2)
    once, again = (case.spoil(np.asarray(image), FACE, np.random.default_rng(5)) for _ in range(2))
    assert once.shape == image.shape
    assert once.dtype == np.uint8
    assert (once == again).all()
    assert (once != image).mean() > 0.02


class Lens:
    """A detector that sees bright faces only, and a net that finds the face's labels 6 px too far to the right."""

    scheme = SCHEME

    def __init__(self) -> None:
        self.sizes: list[float] = []

    def __call__(self, image: U8, boxes: Sequence[FaceBox]) -> list[Landmarks]:
        (box,) = boxes
        self.sizes.append(float(box.size_wh.max()))
        scale = float(box.size_wh[0]) / float(np.ptp(FACE[:, 0]))
        xy = (FACE - (FACE.min(axis=0) + FACE.max(axis=0)) / 2) * scale + box.center_xy + np.array([3, 0])
        presence = 0.9 if image.mean() > 60 else 0.2
        return [Landmarks(SCHEME, xy.astype(np.float32), np.full(68, 6, np.float32), presence)]


def test_rows_count_faces_missed_lost_and_off(tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    cv2.imwrite(str(path), np.full((1200, 1600, 3), 120, np.uint8))
    xy = (FACE + np.array([700, 500])).astype(np.float32)
    face = Truth(Sample(path, "ibug68", xy, "a", "helen-test", "face.png"), xy, float(np.hypot(*(xy[45] - xy[36]))))
    lens: Any = Lens()

    def detect(frame: Frame) -> tuple[FaceBox, ...]:
        if frame.image.mean() < 60:
            return ()
        center = np.array([*_slices.SIZE_WH] * 2) / 2
        return (FaceBox(center + np.array([-50, -50, 50, 50])),)

    rows = {row["slice"]: row for row in _slices.measure(lens, [face, face], detect)}
    assert "profile, over 45 degrees" not in rows  # nobody is turned so far
    plain, dark, far = rows["all, before a webcam"], rows["low light"], rows["far: eyes 12 px apart"]
    assert (plain["faces"], plain["missed"], plain["lost"]) == (2, 0, 0)
    assert (dark["missed"], dark["lost"]) == (1, 1)
    assert rows["upside down"]["missed"] == 1  # there is a box, but an upright one
    assert plain["nme_percent"] == pytest.approx(10, abs=0.3)  # twice 3 px, of 60
    assert far["nme_percent"] == pytest.approx(50, abs=1.5)
    assert plain["sigma_coverage"]["all"][1] == 1.0
    assert _slices.table([{"model": "m", "set": "s"} | row for row in rows.values()]).row_count == len(rows)


def test_a_rolled_face_has_its_labels_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    image = np.zeros((300, 300, 3), np.uint8)
    xy = (FACE + np.array([40, 30])).astype(np.float32)
    chin = np.rint(xy[8]).astype(int)
    image[chin[1] - 4 : chin[1] + 5, chin[0] - 4 : chin[0] + 5] = 255
    face = Truth(Sample(path, "ibug68", xy, "a", "helen-test", "face.png"), xy, float(np.hypot(*(xy[45] - xy[36]))))
    for roll_deg, below, right in ((0.0, 1, 0), (90.0, 0, -1), (180.0, -1, 0)):
        shown, true = _slices.view(image, face, 60.0, roll_deg)
        y, x = (values.mean() for values in np.nonzero(shown[:, :, 0] > 127))
        np.testing.assert_allclose([x, y], true[8], atol=1)
        off = true[8] - np.array(_slices.SIZE_WH) / 2
        assert [round(float(v) / float(np.hypot(*off))) for v in off] == [right, below]
