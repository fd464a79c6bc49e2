"""Crops show what they say they show, to a fraction of a pixel, and points find their way home."""

import math

import numpy as np
import pytest

from livemarks import plugins
from livemarks.geometry import box_from_points, crop_affine, face_crop, iou, resample, roll_from_points
from livemarks.types import F64, U8, Affine, FaceBox

IBUG = plugins.load("schemes", "ibug68")


def _ramp(width: int = 400, height: int = 300) -> U8:
    """Blue tells x, green tells y."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x / 2, y / 2, np.full_like(x, 90)], axis=2).round().astype(np.uint8)


def _face(roll_rad: float = 0.0) -> F64:
    """68 points of a sort, with level eyes, turned about their middle."""
    xy = np.random.default_rng(3).uniform(-50, 50, (68, 2))
    xy[36:42] = [-20, -10]
    xy[42:48] = [20, -10]
    cos, sin = math.cos(roll_rad), math.sin(roll_rad)
    turned: F64 = xy @ np.array([[cos, sin], [-sin, cos]]) + [200, 150]
    return turned


def test_a_crop_of_the_boxs_own_size_is_the_picture_itself() -> None:
    image = _ramp()
    box = FaceBox(np.array([99.5, 49.5, 199.5, 149.5], np.float32))  # edges between pixels: 100 x 100 of them
    crop = face_crop(image, box, (100, 100), 1.0)
    np.testing.assert_array_equal(crop.image, image[50:150, 100:200])
    np.testing.assert_allclose(crop.to_frame(np.array([[0.0, 0.0], [99.0, 99.0]])), [[100, 50], [199, 149]], atol=1e-4)


@pytest.mark.parametrize("side", [60, 150, 230, 290, 520])
@pytest.mark.parametrize("roll_rad", [0.0, 0.5, -2.0])
def test_what_a_crop_shows_lies_where_to_frame_says(side: float, roll_rad: float) -> None:
    light_xy, size = np.array([212.3, 141.6]), side / 16
    y, x = np.mgrid[:300, :400]
    light = 255 * np.exp(-((x - light_xy[0]) ** 2 + (y - light_xy[1]) ** 2) / (2 * size**2))
    center = np.array([200.3, 149.8])
    box = FaceBox(np.concatenate([center - side / 2, center + side / 2]).astype(np.float32), roll_rad=roll_rad)
    crop = face_crop(np.dstack([light.round().astype(np.uint8)] * 3), box, (64, 64), 1.0)
    seen = crop.image[:, :, 0].astype(np.float64)
    v, u = np.mgrid[:64, :64]
    middle = np.array([[(seen * u).sum(), (seen * v).sum()]]) / seen.sum()  # crop px
    expected = crop.to_frame.inverse()(light_xy[None])
    assert np.abs(middle - expected).max() < 0.06, "half a pixel of the picture lost in shrinking would be more"


@pytest.mark.parametrize("degrees", range(-180, 180, 15))
@pytest.mark.parametrize("side", [50, 110, 280, 420, 530])
def test_white_stays_white_whichever_way_a_face_is_turned(side: float, degrees: float) -> None:
    white = np.full((1200, 1210, 3), 255, np.uint8)
    for shift in (0, 0.5, 1, 3):
        center = np.array([603 + shift, 598 - shift])
        box = FaceBox(np.concatenate([center - side / 2, center + side / 2]), roll_rad=math.radians(degrees))
        assert face_crop(white, box, (48, 56), 1.2).image.min() == 255


def test_what_lies_outside_the_picture_is_black() -> None:
    beside_and_below = [170, -160, 590, 260]  # shrunk, begins beside the picture and ends below it
    for box in ([-400, -400, -300, -300], [-50, -50, 50, 50], [-1000, -1000, 3000, 3000], beside_and_below):
        crop = face_crop(np.full((81, 90, 3), 200, np.uint8), FaceBox(np.array(box, np.float32)), (64, 48), 1.2)
        assert crop.image.shape == (64, 48, 3)
        assert not crop.image[0].any()


def test_shrinking_averages_instead_of_picking_pixels() -> None:
    chess = (np.indices((800, 800)).sum(axis=0) % 2 * 255).astype(np.uint8)
    crop = face_crop(np.dstack([chess] * 3), FaceBox(np.array([0, 0, 800, 800], np.float32)), (64, 64), 0.9)
    inner = crop.image[4:-4, 4:-4].astype(int)
    assert inner.min() >= 120
    assert inner.max() <= 135


@pytest.mark.parametrize("shrink", [2.5, 5.0, 9.0])
def test_black_around_a_picture_changes_nothing(shrink: float) -> None:
    image = np.full((103, 101, 3), 200, np.uint8)
    framed = np.zeros((160, 160, 3), np.uint8)
    framed[:103, :101] = image
    size_hw = (int(110 / shrink), int(110 / shrink))
    to_image = Affine(np.array([[shrink, 0, 1.3], [0, shrink, 0.4]]))
    np.testing.assert_array_equal(resample(image, to_image, size_hw), resample(framed, to_image, size_hw))


def test_affine_maps_invert_and_chain() -> None:
    first = crop_affine(FaceBox(np.array([10, 20, 90, 140], np.float32), roll_rad=0.7), (128, 96), 1.4)
    points = np.random.default_rng(0).uniform(0, 100, (20, 2))
    np.testing.assert_allclose(first.inverse()(first(points)), points, atol=1e-9)
    second = Affine(np.array([[2, 0, 1], [0, 3, -4]]))
    np.testing.assert_allclose(first.then(second)(points), second(first(points)), atol=1e-9)
    assert second.scale == pytest.approx(math.sqrt(6))
    with pytest.raises(ValueError, match="flat"):
        Affine(np.array([[1, 2, 0], [2, 4, 0]])).inverse()


@pytest.mark.parametrize("roll_rad", [0.0, 0.3, -1.2, 3.0])
def test_a_turned_faces_box_is_the_same_box_turned(roll_rad: float) -> None:
    straight, turned = box_from_points(_face(), IBUG), box_from_points(_face(roll_rad), IBUG)
    assert roll_from_points(_face(roll_rad), IBUG) == pytest.approx(roll_rad, abs=1e-6)
    np.testing.assert_allclose(turned.size_wh, straight.size_wh, atol=1e-3)
    crops = [crop_affine(box, (128, 128), 1.4).inverse() for box in (straight, turned)]
    np.testing.assert_allclose(crops[1](_face(roll_rad)), crops[0](_face()), atol=1e-2)


def test_an_upright_box_is_tight() -> None:
    xy = _face(0.4)
    box = box_from_points(xy, IBUG, upright=True)
    np.testing.assert_allclose(box.xyxy, [*xy.min(axis=0), *xy.max(axis=0)], atol=1e-3)
    assert box.roll_rad == 0


def test_padding_is_in_fractions_of_the_points_own_box() -> None:
    scheme = plugins.load("schemes", "kaggle15")
    xy = np.random.default_rng(1).uniform(100, 200, (15, 2))
    tight, padded = np.array([*xy.min(axis=0), *xy.max(axis=0)]), box_from_points(xy, scheme, upright=True).xyxy
    left, top, right, bottom = scheme.box_pad
    wide, high = tight[2:] - tight[:2]
    np.testing.assert_allclose(padded - tight, [-left * wide, -top * high, right * wide, bottom * high], atol=1e-2)
    with pytest.raises(ValueError, match="nose1"):
        box_from_points(np.zeros((1, 2)), plugins.load("schemes", "nose1"))


@pytest.mark.parametrize("at", [0.0, 5000.0, 60000.0])
def test_points_on_a_line_span_a_thin_box(at: float) -> None:
    xy = np.stack([np.linspace(at, at + 50, 68), np.full(68, at)], axis=1)
    for upright in (False, True):
        width, height = box_from_points(xy, IBUG, upright=upright).size_wh.tolist()
        assert width == pytest.approx(50, abs=0.02)
        assert 0 < height < 0.1


def test_iou_of_halves_and_strangers() -> None:
    a = np.array([[0, 0, 10, 10]])
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]])
    np.testing.assert_allclose(iou(a, b), [[1, 1 / 3, 0]], atol=1e-6)
