"""Losses are zero, or least, at the truth, ignore missing labels, and see a twentieth of a pixel."""

import math

import pytest

torch = pytest.importorskip("torch", reason="training needs the train extra")

from torch import Tensor  # noqa: E402

from livemarks import plugins  # noqa: E402
from livemarks.models._net import Raw, soft_argmax  # noqa: E402
from livemarks.train import losses  # noqa: E402

SIZE = (128, 128)


def _raw(xy: Tensor, heat: Tensor | None = None) -> Raw:
    return Raw(xy, torch.zeros(xy.shape[:2]), torch.zeros(len(xy)), heat)


def _peak(xy: Tensor, map_hw: tuple[int, int], size_hw: tuple[int, int], width: float = 1.2) -> Tensor:
    """Logits whose softmax is a Gaussian around each point, so many cells wide."""
    squares = []
    for axis, cells, size in ((0, map_hw[1], size_hw[1]), (1, map_hw[0], size_hw[0])):
        at = (torch.arange(cells) + 0.5) * (size / cells) - 0.5
        squares.append(((at - xy[:, :, axis, None]) / (width * size / cells)) ** 2)
    logits: Tensor = -(squares[0][:, :, None, :] + squares[1][:, :, :, None]) / 2
    return logits


@pytest.mark.parametrize("name", ["mse", "wing"])
def test_point_losses_are_zero_at_the_truth_and_skip_missing_labels(name: str) -> None:
    xy = torch.rand(2, 5, 2) * 100
    loss = losses.BY_NAME[name]
    assert loss(_raw(xy), xy, SIZE).tolist() == pytest.approx([0, 0], abs=1e-6)
    target = xy.clone()
    target[0, 2] = math.nan
    moved = xy.clone()
    moved[0, 2] += 50
    assert loss(_raw(moved), target, SIZE)[0].item() == pytest.approx(0, abs=1e-6)
    moved[0, 3] += 1
    assert loss(_raw(moved), target, SIZE)[0].item() > 1e-5


@pytest.mark.parametrize("name", losses.BY_NAME)
def test_a_missing_label_is_as_if_its_point_were_not_there(name: str) -> None:
    torch.manual_seed(0)
    xy, heat = torch.rand(2, 5, 2) * 100, torch.randn(2, 5, 32, 32, requires_grad=True)
    target = xy + torch.randn(2, 5, 2)
    target[:, 2] = math.nan
    there = [0, 1, 3, 4]
    loss = losses.BY_NAME[name](_raw(xy, heat), target, SIZE)
    without = losses.BY_NAME[name](_raw(xy[:, there], heat[:, there]), target[:, there], SIZE)
    torch.testing.assert_close(loss, without)
    if name in ("heatmap", "gaussian"):
        torch.autograd.backward(loss.sum())
        assert heat.grad is not None
        assert heat.grad[:, there].abs().amax() > 0
        assert heat.grad[:, 2].abs().amax() == 0


def test_mse_is_on_minus_one_to_one() -> None:
    xy = torch.zeros(1, 4, 2)
    assert losses.mse(_raw(xy + 96 / 2), xy, (96, 96)).item() == pytest.approx(1.0)


# Maps of a square crop, of one whose height four doesn't divide, and of another shape than their crop.
_MAPS = [((32, 32), SIZE), ((23, 28), (90, 112)), ((28, 20), (56, 120))]


@pytest.mark.parametrize("shift", [0.0, 0.05, 1.3, 2.0])
@pytest.mark.parametrize(("map_hw", "size_hw"), _MAPS)
def test_soft_argmax_finds_sub_pixel_peaks(map_hw: tuple[int, int], size_hw: tuple[int, int], shift: float) -> None:
    xy = torch.tensor([[[50.0 + shift, 34.0 - shift], [70.5, 25.25]]])
    found, spread = soft_argmax(_peak(xy, map_hw, size_hw), size_hw)
    torch.testing.assert_close(found, xy, atol=0.01, rtol=0)
    strides = [size / cells for size, cells in zip(size_hw, map_hw, strict=True)]
    wanted = 1.2 * math.hypot(*strides) / math.sqrt(2)
    torch.testing.assert_close(spread, torch.full((1, 2), wanted), atol=0.05, rtol=0)


@pytest.mark.parametrize(("map_hw", "size_hw"), _MAPS)
def test_heatmap_loss_is_least_at_the_truth(map_hw: tuple[int, int], size_hw: tuple[int, int]) -> None:
    truth = torch.tensor([[[50.0, 34.0], [70.5, 25.25]]])
    for axis in (0, 1):
        values = []
        for shift in (-0.5, -0.1, 0.0, 0.1, 0.5):
            moved = truth.clone()
            moved[:, :, axis] += shift
            heat = _peak(moved, map_hw, size_hw)
            values.append(losses.heatmap(_raw(soft_argmax(heat, size_hw)[0], heat), truth, size_hw).item())
        assert min(values) == values[2]
        assert values[1] - values[2] > 1e-3


def test_sigma_loss_is_least_at_the_errors_own_size() -> None:
    torch.manual_seed(0)
    truth = torch.full((400, 5, 2), 60.0)
    off = torch.distributions.Laplace(0.0, 3.0 / math.sqrt(2)).sample(truth.shape)  # standard deviation 3
    values = {}
    for sigma in (1.5, 3.0, 6.0):
        raw = Raw(truth + off, torch.full((400, 5), math.log(sigma)), torch.zeros(400), None)
        values[sigma] = losses.sigma(raw, truth).mean().item()
    assert min(values, key=lambda s: values[s]) == 3.0


def test_a_net_that_looks_twice_says_of_a_mirrored_face_the_mirror_image() -> None:
    torch.manual_seed(0)
    scheme = plugins.load("schemes", "ibug68")
    once, twice = (
        plugins.load("models", "efficient")(scheme, size_hw=(64, 64), head=16, twice=b).eval() for b in (False, True)
    )
    twice.load_state_dict(once.state_dict())
    crops = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        xy, sigma, presence = twice(crops)
        mirrored_xy, mirrored_sigma, mirrored_presence = twice(crops.flip(2))
        one, other = once(crops)[0], once(crops.flip(2))[0]
    order, middle = list(scheme.mirror), torch.tensor([63.0, 0.0])
    flip = torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(mirrored_xy[:, order] * flip + middle, xy)
    torch.testing.assert_close(mirrored_sigma[:, order], sigma)
    torch.testing.assert_close(mirrored_presence, presence)
    torch.testing.assert_close((one + other[:, order] * flip + middle) / 2, xy)
    assert (one - xy).abs().max() > 1e-3
