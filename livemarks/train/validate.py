"""How good a net is on held-out faces, and what is set from them when a training ends: its offset and its sigmas."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from livemarks.models._net import LandmarkNet, PyramidHead
from livemarks.train import augment
from livemarks.train.batches import FaceTensors
from livemarks.train.recipe import Recipe
from livemarks.types import Scheme


def validate(net: LandmarkNet, held: FaceTensors, size_hw: tuple[int, int], margin: float) -> dict[str, float]:
    """Scores on held-out faces, each cut by its label's upright box and not spoilt.

    val_nme: mean point error in % of the labels' inter-ocular distance (of the box's side where they tell none).
    val_rmse_px: over all coordinates, crop px. val_mse: of coordinates in [-1, 1] over the longer side. sigma_ratio:
    what sigma must be multiplied with so that it is the errors' standard deviation per axis. val_presence: mean, on
    faces.
    """
    judged = _judge(net, held, size_hw, margin)
    known = ~torch.isnan(judged.off).any(dim=2)  # (n, N)
    off = torch.nan_to_num(judged.off)
    errors = (off.norm(dim=2) * known).sum(1) / known.sum(1) * judged.per_px
    square = (off**2)[known].mean().item()
    return {
        "val_nme": 100 * errors.mean().item(),
        "val_rmse_px": math.sqrt(square),
        "val_mse": square * (2 / max(size_hw)) ** 2,
        "sigma_ratio": _spread(judged.off / judged.sigma[:, :, None]).item(),
        "val_presence": judged.presence.mean().item(),
    }


class _Judged(NamedTuple):
    """What a net says of n faces: off (n, N, 2) from the labels, NaN without one, and sigma (n, N), crop px.

    per_px (n,): a crop's px in inter-ocular distances. presence (n,).
    """

    off: Tensor
    sigma: Tensor
    per_px: Tensor
    presence: Tensor


@torch.no_grad()
def _judge(net: LandmarkNet, held: FaceTensors, size_hw: tuple[int, int], margin: float) -> _Judged:
    net.eval()
    parts = []
    for index in torch.split(torch.arange(len(held.xy), device=held.xy.device), 64):
        affines = augment.crop_affines(held.boxes[index, 1], size_hw, margin)
        crops = augment.sample(held.canvases[index].float(), affines, size_hw).round()
        found, sigma, presence = net(crops.permute(0, 2, 3, 1))
        off = found - augment.into_crop(affines, held.xy[index])
        parts.append(_Judged(off, sigma, affines[:, :, :2].det().abs().sqrt() / held.norm[index], presence))
    return _Judged(*(torch.cat(values) for values in zip(*parts, strict=True)))


@torch.no_grad()
def align(net: LandmarkNet, held: FaceTensors, recipe: Recipe) -> None:
    """Moves all points sideways by what they are off on average.

    Labels may lie to one side of what they mark (300-W's do, by half a pixel), and of mirrored faces to the other: who
    learns from both can't know. Above and below, the net has learnt it.
    """
    net.offset.zero_()
    off = _judge(net, held, recipe.size_hw, recipe.margin).off  # (n, N, 2)
    net.offset[0] = -off[:, :, 0].nanmean()


@torch.no_grad()
def calibrate(net: LandmarkNet, held: FaceTensors, recipe: Recipe, scheme: Scheme) -> None:
    """Makes sigma the errors' standard deviation along an axis: each point's where there is a head, then all of them.

    The two points of a mirrored pair are alike and share a factor, which goes into the head's bias: what the net is
    made of stays the same. A historical net's sigma, a constant, has the one factor alone.
    """
    net.sigma_scale.fill_(1.0)
    for head in net.modules():
        if isinstance(head, PyramidHead):
            judged = _judge(net, held, recipe.size_hw, recipe.margin)
            off = judged.off / judged.sigma[:, :, None]  # (n, N, 2)
            both = torch.cat([off, off[:, list(scheme.mirror)]])  # (2 n, N, 2)
            head.sigma.bias.add_(torch.stack([_spread(both[:, i]) for i in range(len(scheme))]).log())
    net.sigma_scale.fill_(validate(net, held, recipe.size_hw, recipe.margin)["sigma_ratio"])


def _spread(off: Tensor) -> Tensor:
    """The standard deviation of a Gaussian that covers these errors, NaN left out, best where sigma is read.

    68.3 % of a Gaussian lie within one standard deviation, 95.4 % within two. Landmarks' errors have longer tails: the
    width that would make the first true is about 0.7 of that for the second. This is their geometric mean, which leaves
    some 74 and 93 %.
    """
    one, two = torch.nanquantile(off.abs().flatten(), torch.tensor([0.683, 0.954], device=off.device))
    width: Tensor = (one * two / 2).sqrt()
    return width
