"""Boxes in, points in frame pixels out: the way there and home is exact, and one batch serves all."""

from __future__ import annotations

import numpy as np
import pytest

from livemarks.landmarker import Landmarker
from livemarks.schemes.imm58 import SCHEME as IMM
from livemarks.types import F32, U8, Card, FaceBox, LivemarksError, Scheme

PAIR = Scheme("pair", ("left", "right"), mirror=(1, 0), edges=(), norm=((0,), (1,)))
CARD = Card("pair-net", "made-up", "pair", size_hw=(48, 64), margin=1.5)


class BrightSpots:
    """A runner whose first point is the crop's brightest pixel (to part of one) and whose second is its centre."""

    label = "fake"

    def __init__(self, *, constant: bool = False) -> None:
        self.batches: list[int] = []
        self.closed = 0
        self._constant = constant

    def __call__(self, crops: U8) -> tuple[F32, F32, F32]:
        assert crops.dtype == np.uint8
        assert crops.shape[1:] == (48, 64, 3)
        self.batches.append(len(crops))
        xy = np.empty((len(crops), 2, 2), np.float32)
        for crop, out in zip(crops, xy, strict=True):
            light = crop.sum(axis=2).astype(np.float64)
            y, x = np.mgrid[:48, :64]
            total = max(light.sum(), 1.0)
            out[0] = (light * x).sum() / total, (light * y).sum() / total
            out[1] = 31.5, 23.5
        presence = crops.mean(axis=(1, 2, 3)) / 255 if not self._constant else np.full(len(crops), 0.98)
        return xy, np.full((len(crops), 2), 0.5, np.float32), presence.astype(np.float32)

    def close(self) -> None:
        self.closed += 1


def spot_at(x: int, y: int) -> U8:
    image = np.zeros((240, 320, 3), np.uint8)
    image[y - 2 : y + 3, x - 2 : x + 3] = 255
    return image


def box(x: float, y: float, side: float, roll_rad: float = 0.0) -> FaceBox:
    return FaceBox(np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2], np.float32), 1.0, roll_rad)


@pytest.mark.parametrize("side", [20.0, 60.0, 180.0])
@pytest.mark.parametrize("roll_rad", [0.0, 0.4, -2.0])
def test_points_come_home_to_part_of_a_pixel(side: float, roll_rad: float) -> None:
    landmarks = Landmarker(BrightSpots(), CARD, PAIR)(spot_at(150, 110), [box(148, 113, side, roll_rad)])[0]
    assert landmarks.scheme is PAIR
    assert landmarks.xy[0] == pytest.approx([150, 110], abs=0.02 * side)
    assert landmarks.xy[1] == pytest.approx([148, 113], abs=1e-3)
    assert landmarks.sigma == pytest.approx(0.5 * 1.5 * side / 48, rel=1e-4)


def test_many_faces_are_one_batch_in_the_boxes_order() -> None:
    runner = BrightSpots()
    landmarker = Landmarker(runner, CARD, PAIR)
    boxes = [box(40 * i + 30, 100, 30) for i in range(7)]
    many = landmarker(spot_at(150, 110), boxes)
    assert runner.batches == [7]
    assert [float(face.xy[1, 0]) for face in many] == pytest.approx([40 * i + 30 for i in range(7)], abs=1e-3)
    for face, alone in zip(many, boxes, strict=True):
        assert landmarker(spot_at(150, 110), [alone])[0].xy == pytest.approx(face.xy)
    assert len(landmarker(spot_at(150, 110), boxes[:3])) == 3  # fewer than before


def test_no_box_asks_the_net_nothing() -> None:
    runner = BrightSpots()
    assert Landmarker(runner, CARD, PAIR)(spot_at(10, 10), []) == []
    assert runner.batches == []


def test_answers_outlive_the_next_call() -> None:
    landmarker = Landmarker(BrightSpots(), CARD, PAIR)
    first = landmarker(spot_at(150, 110), [box(148, 113, 60)])[0]
    kept = first.xy.copy()
    landmarker(spot_at(50, 60), [box(50, 60, 60)])
    assert (first.xy == kept).all()


@pytest.mark.parametrize(
    ("which", "bad"),
    [*((which, bad) for which in (0, 1, 2) for bad in (np.nan, np.inf)), (1, 0.0), (1, -0.5), (2, -0.01), (2, 1.01)],
)
def test_what_cannot_be_is_refused(which: int, bad: float) -> None:
    class Damaged(BrightSpots):
        def __call__(self, crops: U8) -> tuple[F32, F32, F32]:
            answer = super().__call__(crops)
            answer[which][-1] = bad
            return answer

    with pytest.raises(LivemarksError, match="pair-net answers with NaN, infinity, a sigma that isn't above 0 or a"):
        Landmarker(Damaged(), CARD, PAIR)(spot_at(150, 110), [box(150, 110, 60)])


def test_whether_presence_tells_anything() -> None:
    assert Landmarker(BrightSpots(), CARD, PAIR).knows_absence
    assert not Landmarker(BrightSpots(constant=True), CARD, PAIR).knows_absence


def test_a_scheme_that_is_not_the_model_s() -> None:
    with pytest.raises(LivemarksError, match="pair-net finds pair points, not imm58"):
        Landmarker(BrightSpots(), CARD, IMM)


def test_close_closes_the_runner() -> None:
    runner = BrightSpots()
    Landmarker(runner, CARD, PAIR).close()
    assert runner.closed == 1
