"""Training crops are the crops that live tracking cuts, and points stay on what they mark."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the train extra")

from livemarks import plugins  # noqa: E402
from livemarks.geometry import box_from_points, crop_affine, face_crop  # noqa: E402
from livemarks.train import augment, batches  # noqa: E402
from livemarks.types import FaceBox  # noqa: E402

SCHEME = plugins.load("schemes", "ibug68")


def _points(n: int = 3) -> np.ndarray:
    return np.random.default_rng(2).uniform(40, 150, (n, 68, 2)).astype(np.float32)


def test_boxes_are_the_turned_and_the_upright_box_of_the_points() -> None:
    xy = _points()
    boxes = augment.boxes_of(xy, SCHEME).numpy()
    for points, pair in zip(xy, boxes, strict=True):
        for row, upright in zip(pair, (False, True), strict=True):
            box = box_from_points(points, SCHEME, upright=upright)
            np.testing.assert_allclose(row, [*box.center_xy, box.size_wh.max(), box.roll_rad], rtol=1e-5)


def test_a_face_with_missing_labels_has_the_upright_box_of_the_others() -> None:
    xy = _points()
    xy[:, 36] = np.nan  # the eyes' line can't be told
    boxes = augment.boxes_of(xy, SCHEME).numpy()
    for points, (turned, upright) in zip(xy, boxes, strict=True):
        box = box_from_points(np.delete(points, 36, axis=0), SCHEME, upright=True)
        np.testing.assert_allclose(upright, [*box.center_xy, box.size_wh.max(), 0], rtol=1e-5)
        np.testing.assert_array_equal(turned, upright)


@pytest.mark.parametrize("size_hw", [(128, 128), (60, 80)])
def test_affines_equal_geometrys(size_hw: tuple[int, int]) -> None:
    box = FaceBox(np.array([30, 50, 110, 150], np.float32), roll_rad=0.4)
    row = torch.tensor([[*box.center_xy.tolist(), float(box.size_wh.max()), box.roll_rad]])
    ours = augment.crop_affines(row, size_hw, 1.4)[0].numpy()
    np.testing.assert_allclose(ours, crop_affine(box, size_hw, 1.4).matrix, atol=1e-4)


def test_sampled_crops_equal_face_crop() -> None:
    canvas = np.random.default_rng(0).integers(0, 255, (192, 192, 3)).astype(np.uint8)
    canvas = np.ascontiguousarray(np.repeat(np.repeat(canvas[::8, ::8], 8, 0), 8, 1))
    box = FaceBox(np.array([50, 60, 140, 150], np.float32), roll_rad=-0.3)
    live = face_crop(canvas, box, (96, 96), 1.3)
    affine = torch.tensor(live.to_frame.matrix, dtype=torch.float32)[None]
    ours = augment.sample(torch.from_numpy(canvas).permute(2, 0, 1)[None].float(), affine, (96, 96))
    off = np.abs(ours[0].permute(1, 2, 0).numpy() - live.image)
    assert off.mean() < 1.0, "cv2 samples on a 1/32 px grid; more than that is a shift"


def test_points_go_into_the_crop_and_back() -> None:
    xy = torch.from_numpy(_points())
    affines = augment.crop_affines(augment.boxes_of(xy.numpy(), SCHEME)[:, 0], (128, 128), 1.4)
    inside = augment.into_crop(affines, xy)
    back = inside @ affines[:, :, :2].transpose(1, 2) + affines[:, None, :, 2]
    torch.testing.assert_close(back, xy, atol=1e-3, rtol=0)


def test_spoiling_keeps_range_and_place() -> None:
    torch.manual_seed(0)
    images = torch.full((16, 3, 64, 64), 0.5)
    images[:, :, 30:34, 40:44] = 1.0  # a light that must not move
    everything = dict.fromkeys(("colour", "dark", "blur", "shrink", "jpeg", "noise"), 1.0)
    spoilt = augment.spoil(images, augment.Augment(**everything, occlude=0.0, grey=0.0, motion=0.0))
    assert spoilt.shape == images.shape
    assert spoilt.min() >= 0
    assert spoilt.max() <= 1
    assert not torch.equal(spoilt, images)
    mean = spoilt.mean(dim=(0, 1))
    peak = int(mean.argmax())
    assert abs(peak // 64 - 31.5) <= 3
    assert abs(peak % 64 - 41.5) <= 3


@pytest.mark.parametrize("way", ["blur", "motion", "shrink", "jpeg", "noise"])
def test_no_way_of_spoiling_moves_anything(way: str) -> None:
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")  # a side that shrinks without a rest
    light = 0.4 * torch.exp(-((x - 60.3) ** 2 + (y - 44.6) ** 2) / (2 * 6**2))
    images = (0.5 + light).expand(128, 3, 96, 96)
    spoilt = augment.spoil(images, replace(augment.Augment().milder(0.0), **{way: 1.0}))
    assert not torch.equal(spoilt, images)
    left = spoilt.mean(dim=(0, 1)) - 0.5
    center = torch.stack([(left * x).sum(), (left * y).sum()]) / left.sum()
    assert center.tolist() == pytest.approx([60.3, 44.6], abs=0.1)


def _middles(canvas: Any) -> Any:
    """(3, h, w) -> (3, 2): x, y of the centre of what shines in each colour."""
    y, x = torch.meshgrid(torch.arange(canvas.shape[1]), torch.arange(canvas.shape[2]), indexing="ij")
    total = canvas.sum(dim=(1, 2))
    return torch.stack([(canvas * x).sum(dim=(1, 2)), (canvas * y).sum(dim=(1, 2))], dim=1) / total[:, None]


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_crops_and_their_points_are_turned_and_mirrored_together(flip: float) -> None:
    """A dot in each colour: two that are each other's mirror image, and the nose. Points change places, dots don't."""
    torch.manual_seed(0)
    scheme = plugins.load("schemes", "kaggle15")
    left, right, nose = 0, 1, 10  # the eyes' centres, as the scheme has them
    at = torch.tensor([[70.3, 60.8], [41.6, 52.4], [49.2, 71.7]])  # a face turned to one side
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    canvas = torch.stack([255 * torch.exp(-((x - u) ** 2 + (y - v) ** 2) / 8) for u, v in at.tolist()])
    xy = torch.full((15, 2), 50.0)
    xy[[left, right, nose]] = at
    boxes = torch.tensor([[56.0, 62.0, 56.0, 0.3], [56.0, 62.0, 56.0, 0.0]])
    moves = replace(augment.Augment().milder(0.0), flip=flip, negatives=0.0, rotate=20.0)
    made: Any = SimpleNamespace(augment=moves, size_hw=(80, 112), margin=1.3, heads=False)
    canvases = canvas.round().byte().expand(16, 3, 128, 128)
    crops, points, is_face = batches._crops(canvases, xy.expand(16, 15, 2), boxes.expand(16, 2, 4), made, scheme)
    assert crops.shape == (16, 80, 112, 3)
    assert is_face.all()
    names = [right, left, nose] if flip else [left, right, nose]  # in the mirror the left eye is the right one
    for crop, told in zip(crops, points, strict=True):
        torch.testing.assert_close(_middles(crop.permute(2, 0, 1)), told[names], atol=0.3, rtol=0)
        assert bool(told[left, 0] > told[right, 0])


def test_nothing_happens_at_zero() -> None:
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(augment.spoil(images, augment.Augment().milder(0.0)), images)


def test_milder_spoils_less_often_and_moves_as_much() -> None:
    half = augment.Augment(jpeg=0.3, rotate=12.0).milder(0.5)
    assert (half.jpeg, half.rotate) == (0.15, 12.0)


def test_boxes_off_the_face_see_no_whole_face() -> None:
    torch.manual_seed(1)
    boxes = torch.tensor([[100.0, 100.0, 80.0, 0.0]]).expand(500, 4)
    off = augment.off_face(boxes)
    away = (off[:, :2] - 100).norm(dim=1) / 80
    small = off[:, 2] / 80 < 0.4
    assert bool(((away > 0.69) | small).all())
