"""Values check themselves at birth, say what was expected in one line, and can't be changed afterwards."""

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from livemarks import plugins
from livemarks.types import Affine, Card, FaceBox, Frame, Landmarks, LivemarksError, Scheme

NOSE = plugins.load("schemes", "nose1")


def test_frames_are_read_only_colour_pictures() -> None:
    frame = Frame(np.zeros((4, 6, 3), np.uint8), 0, 0.0)
    assert frame.size_wh == (6, 4)
    assert "6x4" in repr(frame)
    with pytest.raises(ValueError, match="read-only"):
        frame.image[0, 0] = 1
    wrong: list[Any] = [np.zeros((4, 6), np.uint8), np.zeros((4, 6, 4), np.uint8), np.zeros((4, 6, 3), np.float32)]
    for image in wrong:
        with pytest.raises(ValueError, match="image must be"):
            Frame(image, 0, 0.0)


def test_frames_leave_the_callers_array_writable() -> None:
    mine = np.zeros((4, 6, 3), np.uint8)
    frame = Frame(mine, 0, 0.0)
    mine[0, 0] = 7
    assert frame.image[0, 0, 0] == 7
    assert not frame.image.flags.writeable


def test_frames_refuse_what_is_no_picture() -> None:
    wrong: list[Any] = [[[[0, 0, 0]]], None, np.zeros((0, 6, 3), np.uint8), np.zeros((4, 0, 3), np.uint8)]
    for image in wrong:
        with pytest.raises(ValueError, match="image must be") as caught:
            Frame(image, 0, 0.0)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "t_s", [None, float("nan"), float("inf"), -float("inf"), "1", Fraction(10**400), Decimal("sNaN")]
)
def test_frames_have_a_time(t_s: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"t_s must be a finite number of seconds, not {t_s!r}")):
        Frame(np.zeros((4, 6, 3), np.uint8), 0, t_s)


@pytest.mark.parametrize("t_s", [np.float32(0.5), np.array(0.5), Fraction(1, 2), Decimal("0.5")])
def test_frames_take_any_number_and_keep_pythons_own(t_s: Any) -> None:
    frame = Frame(np.zeros((4, 6, 3), np.uint8), np.int64(3), t_s)  # type: ignore[arg-type]
    assert (type(frame.index), frame.index, type(frame.t_s), frame.t_s) == (int, 3, float, 0.5)
    assert repr(frame) == "Frame(6x4, index=3, t_s=0.500)"


@pytest.mark.parametrize("index", ["a", "1", 1.0, None])
def test_frames_are_counted(index: Any) -> None:
    with pytest.raises(ValueError, match=f"index must be a whole number, not {index!r}"):
        Frame(np.zeros((4, 6, 3), np.uint8), index, 0.0)


@pytest.mark.parametrize("xyxy", [[0, 0, 0, 5], [5, 0, 1, 5], [0, 0, 1], [0, 0, math.nan, 5], [0, 0, math.inf, 5]])
def test_boxes_have_an_inside(xyxy: list[float]) -> None:
    with pytest.raises(ValueError, match="xyxy must have"):
        FaceBox(np.array(xyxy, np.float32))


@pytest.mark.parametrize("wrong", [{"score": 1.5}, {"score": math.nan}, {"roll_rad": math.inf}])
def test_boxes_have_a_score_and_a_roll(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"score must be 0\.\.1 and roll_rad finite"):
        FaceBox(np.array([0, 0, 4, 8], np.float32), **wrong)


def test_values_keep_a_copy() -> None:
    mine = np.array([0, 0, 4, 8], np.float32)
    box = FaceBox(mine)
    mine[0] = 99
    assert box.xyxy[0] == 0
    assert box.center_xy.tolist() == [2, 4]
    assert box.size_wh.tolist() == [4, 8]


def test_landmarks_fit_their_scheme() -> None:
    Landmarks(NOSE, np.zeros((1, 2), np.float32), np.ones(1, np.float32))
    with pytest.raises(ValueError, match=r"xy must have shape \(1, 2\), not \(2, 2\)"):
        Landmarks(NOSE, np.zeros((2, 2), np.float32), np.ones(1, np.float32))


@pytest.mark.parametrize(
    ("x", "sigma", "presence"), [(math.nan, 1, 1), (0, -1, 1), (0, math.inf, 1), (0, 1, 7), (0, 1, math.nan)]
)
def test_landmarks_are_numbers(x: float, sigma: float, presence: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        Landmarks(NOSE, np.array([[x, 0]], np.float32), np.array([sigma], np.float32), presence)


def test_a_map_that_is_no_number_has_no_way_back() -> None:
    with pytest.raises(ValueError, match="no inverse"):
        Affine(np.full((2, 3), np.nan)).inverse()


def test_schemes_refuse_what_cannot_be() -> None:
    good = {"name": "x", "points": ("a", "b"), "mirror": (1, 0), "edges": (), "norm": None}
    Scheme(**good)  # type: ignore[arg-type]
    for change in ({"points": ("a", "a")}, {"mirror": (1, 1)}, {"mirror": (0,)}, {"edges": ((0, 2),)}):
        with pytest.raises(ValueError, match="scheme x"):
            Scheme(**{**good, **change})  # type: ignore[arg-type]


def test_cards_bound_memory() -> None:
    with pytest.raises(ValueError, match="input size"):
        Card("x", "pyramid", "ibug68", (100_000, 100_000), 1.4)
    with pytest.raises(ValueError, match="margin"):
        Card("x", "pyramid", "ibug68", (128, 128), 0.0)


def test_unknown_plug_ins_name_the_known() -> None:
    with pytest.raises(LivemarksError, match="ibug68"):
        plugins.load("schemes", "ibug86")
