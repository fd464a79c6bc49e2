"""What training minimises, by the name a recipe uses. All take Raw and target points (B, N, 2) in crop px."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from livemarks.models._net import Raw

Loss = Callable[[Raw, Tensor, tuple[int, int]], Tensor]


def mse(out: Raw, target: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(B,) mean squared error of coordinates scaled to [-1, 1] over the crop's longer side; missing points don't count.

    NaN is missing. The scale of Kaggle's tutorials, in which the KTH paper gives its 0.00088.
    """
    known = ~torch.isnan(target)
    error = (out.xy - torch.nan_to_num(target)) * (2 / _side(size_hw))
    return (error**2 * known).sum(dim=(1, 2)) / known.sum(dim=(1, 2)).clamp(min=1)


def wing(out: Raw, target: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(B,) Wing loss (Feng et al., 2018): logarithmic near zero, so that small errors still count; w = 10, eps = 2.

    Both in px of a 256-px crop, as in the paper; other crops are scaled to that. Divided by w.
    """
    w, epsilon = 10.0, 2.0
    error = (out.xy - torch.nan_to_num(target)).abs() * (256 / _side(size_hw))
    offset = w - w * math.log(1 + w / epsilon)
    loss = torch.where(error < w, w * torch.log(1 + error / epsilon), error - offset)
    known = ~torch.isnan(target)
    return (loss * known).sum(dim=(1, 2)) / known.sum(dim=(1, 2)).clamp(min=1) / w


def heatmap(out: Raw, target: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(B,) cross-entropy of each map's softmax with a Gaussian of 1.2 cells around the target, plus Wing loss.

    The Gaussian is sampled at the cells' centres around the exact target, so that nothing is rounded. Points outside
    the crop have no cell, and count in the Wing loss alone; missing points (NaN) don't count.
    """
    assert out.heat is not None
    height, width = out.heat.shape[2:]
    cells_wh = torch.tensor([width, height], device=target.device)
    per_px = cells_wh / torch.tensor([size_hw[1], size_hw[0]], device=target.device)
    cell = torch.nan_to_num(target) * per_px + (0.5 * per_px - 0.5)  # where decoding finds it: models._net.soft_argmax
    chance_x, chance_y = _gauss(cell[:, :, 0], width, 1.2), _gauss(cell[:, :, 1], height, 1.2)
    inside = ((cell > -0.5) & (cell < cells_wh - 0.5)).all(dim=2)
    known = ~torch.isnan(target).any(dim=2)
    log_chance = torch.log_softmax(out.heat.float().flatten(2), dim=2).view(out.heat.shape)
    # E over the separable target: rows first, then columns.
    entropy = -torch.einsum("bnh,bnhw,bnw->bn", chance_y, log_chance, chance_x)
    return 0.1 * (entropy * (inside & known)).sum(dim=1) / known.sum(dim=1).clamp(min=1) + wing(out, target, size_hw)


def gaussian(out: Raw, target: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(B,) the FCN write-up's: full-size maps against Gaussians of height 1, sigma 5 px at 224 px and in proportion.

    Binary cross-entropy a pixel, summed over a map and divided by the Gaussian's area, so that maps that are nearly
    all background still learn. Missing points (NaN) don't count.
    """
    assert out.heat is not None
    height, width = out.heat.shape[2:]
    x = torch.arange(width, device=target.device, dtype=torch.float32)
    y = torch.arange(height, device=target.device, dtype=torch.float32)
    known, at = ~torch.isnan(target).any(dim=2), torch.nan_to_num(target)
    variance = (_side(size_hw) * 5 / 224) ** 2
    near_x = torch.exp(-((x - at[:, :, 0:1]) ** 2) / (2 * variance))  # (B, N, W)
    near_y = torch.exp(-((y - at[:, :, 1:2]) ** 2) / (2 * variance))
    want = near_y[:, :, :, None] * near_x[:, :, None, :]
    loss = F.binary_cross_entropy_with_logits(out.heat, want, reduction="none").sum(dim=(2, 3))
    loss = loss / (2 * math.pi * variance)
    return (loss * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)


def sigma(out: Raw, target: Tensor) -> Tensor:
    """(B,) negative log-likelihood of the errors under each point's own sigma; the points themselves are held still.

    Laplacian rather than Gaussian: labels of a few faces are far off, and must not widen everybody's sigma.
    """
    error = (out.xy.detach() - torch.nan_to_num(target)).abs().mean(dim=2)  # (B, N), mean over the two axes
    log_scale = out.log_sigma - 0.5 * math.log(2)  # a Laplacian's b is its standard deviation / sqrt 2
    loss = log_scale + error * torch.exp(-log_scale)
    return (loss * ~torch.isnan(target).any(dim=2)).mean(dim=1)


def presence(out: Raw, is_face: Tensor) -> Tensor:
    """(B,) binary cross-entropy of the presence logit."""
    return F.binary_cross_entropy_with_logits(out.presence.float(), is_face.float(), reduction="none")


BY_NAME: dict[str, Loss] = {"mse": mse, "wing": wing, "heatmap": heatmap, "gaussian": gaussian}


def _side(size_hw: tuple[int, int]) -> float:
    return float(max(size_hw))


def _gauss(center: Tensor, cells: int, width: float) -> Tensor:
    """(B, N) -> (B, N, cells), normalised Gaussians."""
    at = torch.arange(cells, device=center.device, dtype=torch.float32)
    density = torch.exp(-((at - center[:, :, None]) ** 2) / (2 * width * width))
    return density / density.sum(dim=2, keepdim=True).clamp(min=1e-6)
