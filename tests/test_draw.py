"""What is drawn lies where the landmarks say, fades with sigma, and leaves the frame alone."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from livemarks import draw, plugins
from livemarks.types import I64, U8, FaceBox, FaceTrack, Frame, Landmarks, Result, Scheme

SPARSE = Scheme("sparse", ("a", "b", "c"), mirror=(0, 1, 2), edges=(), norm=None)
BARE = draw.Style(ids=False)


def face(scheme: Scheme, xy: object, sigma: float = 0.0, track: int = 1) -> FaceTrack:
    points = np.asarray(xy, np.float32)
    marks = Landmarks(scheme, points, np.full(len(scheme), sigma, np.float32))
    low, high = points.min(axis=0), points.max(axis=0)
    return FaceTrack(track, marks, marks, FaceBox(np.concatenate([low - 10, high + 10])), 0.0)


def grey(width: int = 320, height: int = 240) -> U8:
    return np.full((height, width, 3), 100, np.uint8)


def result(image: U8, *faces: FaceTrack) -> Result:
    return Result(Frame(image, 0, 0.0), faces, {})


def ink(image: U8) -> I64:
    """How far each pixel is from the grey background, (H, W)."""
    return np.asarray(np.abs(image.astype(np.int64) - 100).sum(axis=2))


def test_the_frame_stays_as_it_was() -> None:
    image = grey()
    drawn = draw.overlay(result(image, face(SPARSE, [[50, 50], [200, 60], [120, 200]])))
    assert (image == 100).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert drawn.flags.writeable


def test_nobody_gives_a_plain_copy() -> None:
    image = grey()
    assert (draw.overlay(result(image)) == image).all()


@pytest.mark.parametrize("xy", [(50.0, 50.0), (200.3, 60.7), (120.5, 200.25)])
def test_a_point_is_drawn_where_it_is_to_a_fraction_of_a_pixel(xy: tuple[float, float]) -> None:
    points = [xy, (10.0, 10.0), (310.0, 230.0)]
    drawn = ink(draw.overlay(result(grey(), face(SPARSE, points)), BARE))
    x, y = round(xy[0]), round(xy[1])
    around = drawn[y - 6 : y + 7, x - 6 : x + 7].astype(float)
    rows, columns = np.mgrid[y - 6 : y + 7, x - 6 : x + 7]
    center = np.array([(columns * around).sum(), (rows * around).sum()]) / around.sum()
    # Half a pixel lost in rounding would show: the drawing grid is 1/16 px.
    assert np.abs(center - xy).max() < 0.12


def test_an_unsure_point_fades() -> None:
    points = [[50, 50], [200, 60], [120, 200]]
    faces = [face(SPARSE, points, sigma) for sigma in (1, 10, 50)]
    strength = [int(ink(draw.overlay(result(grey(), each), BARE)).sum()) for each in faces]
    assert strength[0] > 1.3 * strength[1] > 1.3 * 1.3 * strength[2] > 0


def test_points_that_fell_together_are_drawn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = ink(draw.overlay(result(grey(), face(SPARSE, [[50, 50]] * 3, sigma=1.0))))
    assert drawn[50, 50] > 0


def test_sizes_follow_the_face() -> None:
    shape = np.array([[50, 50], [200, 60], [120, 200]])
    small = ink(draw.overlay(result(grey(), face(SPARSE, shape)), BARE)) > 20
    large = ink(draw.overlay(result(grey(1280, 960), face(SPARSE, shape * 4)), BARE)) > 20
    assert large.sum() > 6 * small.sum()


def test_ids_have_colours_of_their_own_and_tags_stay_inside() -> None:
    left = face(SPARSE, [[2, 2], [40, 4], [20, 40]], track=1)
    right = face(SPARSE, [[280, 200], [318, 205], [300, 238]], track=2)
    drawn = draw.overlay(result(grey(), left, right), draw.Style(points=False))
    for track in (left, right):
        color = draw.DEFAULT.colors[track.id - 1]
        assert (drawn == color).all(axis=2).sum() > 20, f"no tag of face {track.id} to be seen"


def test_a_mirror_shows_mirrored_ids_right() -> None:
    lone = result(grey(), face(SPARSE, [[100, 60], [140, 64], [120, 100]], track=23))
    plain, mirrored = (draw.overlay(lone, draw.Style(points=False, mirrored=yes)) for yes in (False, True))
    rows, columns = np.nonzero(ink(plain))
    plate = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (plain[plate] != plain[plate][:, ::-1]).any()
    assert (mirrored[plate][:, ::-1] == plain[plate]).all()
    assert ink(mirrored).sum() == ink(mirrored[plate]).sum()


@pytest.mark.parametrize("name", plugins.names("schemes"))
def test_every_scheme_draws_also_far_outside_the_frame(name: str) -> None:
    scheme = plugins.load("schemes", name)
    points = np.random.default_rng(0).uniform(20, 200, (len(scheme), 2))
    inside = draw.overlay(result(grey(), face(scheme, points)))
    assert ink(inside).any()
    outside = draw.overlay(result(grey(), face(scheme, points + 1e5)), BARE)
    assert not ink(outside).any()


def test_hud_shows_its_lines_in_the_corner() -> None:
    image = grey(1280, 720)
    one, two = draw.hud(image, ["30 fps"]), draw.hud(image, ["30 fps", "a longer second line"])
    assert (image == 100).all()
    assert one[:10, :10].max() < 100  # the panel
    assert one.max() == 255  # the letters
    assert (ink(two) > 0).sum() > (ink(one) > 0).sum()
    assert (two[360:] == 100).all()
    assert (draw.hud(image, []) == image)[100:].all()
