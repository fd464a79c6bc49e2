"""Points from nets that are already trained, as labels for training smaller ones (distillation).

Every teacher sees each face as it stands and mirrored, in three crops of different size and place; the mean of all it
says, in canvas px, becomes the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from livemarks import plugins
from livemarks.models._net import LandmarkNet
from livemarks.train import augment
from livemarks.train import recipe as recipes
from livemarks.types import LivemarksError, Scheme

# Sets whose labels a model made: trained on, never validated on.
LOOSE = ("ytfaces", "lfw-pseudo")
# Each view: scale of the box, then shift of its centre right and down, in box sides.
_VIEWS = ((1.0, 0.0, 0.0), (0.93, 0.02, -0.02), (1.08, -0.02, 0.02))


@dataclass(frozen=True, slots=True)
class Teacher:
    """A net and the crops it wants."""

    net: LandmarkNet
    size_hw: tuple[int, int]
    margin: float


def trained(folder: Path, scheme: Scheme) -> Teacher:
    """The net of an earlier training's output folder, which bears its recipe's name.

    Raises LivemarksError if the folder lacks its best.pt.
    """
    if not (folder / "best.pt").is_file():
        raise LivemarksError(f"the teacher {folder} has no best.pt: train it first")
    recipe = recipes.load(folder.name)
    net = plugins.load("models", recipe.architecture)(scheme, size_hw=recipe.size_hw, **recipe.options)
    net.load_state_dict(torch.load(folder / "best.pt", map_location="cpu", weights_only=True)["net"])
    return Teacher(net, recipe.size_hw, recipe.margin)


@torch.no_grad()
def relabel(teachers: Sequence[Teacher], canvases: Tensor, boxes: Tensor, scheme: Scheme) -> Tensor:
    """(n, N, 2) canvas px: what the teachers, averaged, say of every face. canvases (n, 3, C, C), boxes (n, 2, 4)."""
    device = boxes.device
    total = torch.zeros(len(canvases), len(scheme), 2, device=device)
    mirror = list(scheme.mirror)
    for teacher in teachers:
        size_hw = teacher.size_hw
        was_training = teacher.net.training
        net = teacher.net.to(device).eval()
        for scale, right, down in _VIEWS:
            for start in range(0, len(canvases), 128):
                part = slice(start, start + 128)
                box = boxes[part, 0].clone()
                box[:, :2] += box[:, 2:3] * torch.tensor([right, down], device=device)
                box[:, 2] *= scale
                affines = augment.crop_affines(box, size_hw, teacher.margin)
                crops = augment.sample(canvases[part].float(), affines, size_hw)
                for flipped in (False, True):
                    seen = crops.flip(3) if flipped else crops
                    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                        found = net.raw(net.pixels(seen.permute(0, 2, 3, 1))).xy.float()
                    if flipped:
                        found = found[:, mirror]
                        found[:, :, 0] = size_hw[1] - 1 - found[:, :, 0]
                    total[part] += found @ affines[:, :, :2].transpose(1, 2) + affines[:, None, :, 2]
        net.train(was_training)
    return total / (2 * len(_VIEWS) * len(teachers))
