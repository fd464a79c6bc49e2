"""Points from nets that are already trained, as labels for training smaller ones (distillation).

Every teacher sees each face as it stands and mirrored, in three crops of different size and place; the mean of all it
says, in canvas px, becomes the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from livemarks import plugins
from livemarks.train import augment
from livemarks.types import LivemarksError, Scheme

# Sets whose labels a model made: trained on, never validated on.
LOOSE = ("ytfaces", "lfw-pseudo")
# Each view: scale of the box, then shift of its centre right and down, in box sides.
_VIEWS = ((1.0, 0.0, 0.0), (0.93, 0.02, -0.02), (1.08, -0.02, 0.02))


@torch.no_grad()
def relabel(
    folders: Sequence[str], beside: Path, canvases: Tensor, xy: Tensor, boxes: Tensor, scheme: Scheme
) -> Tensor:
    """(n, N, 2) canvas px: what the teachers, averaged, say of every face. canvases (n, 3, C, C), boxes (n, 2, 4).

    folders: outputs of earlier trainings, relative to the folder `beside` is in. Raises LivemarksError if one lacks
    its best.pt.
    """
    from livemarks.train import recipe as recipes

    total, views = torch.zeros_like(xy), 0
    for folder in folders:
        home = beside.parent / folder
        if not (home / "best.pt").is_file():
            raise LivemarksError(f"the teacher {home} has no best.pt: train it first")
        taught = recipes.load(folder)
        net = plugins.load("models", taught.architecture)(scheme, size_hw=taught.size_hw, **taught.options)
        net.load_state_dict(torch.load(home / "best.pt", map_location="cpu", weights_only=True)["net"])
        net = net.to(xy.device).eval()
        mirror = list(scheme.mirror)
        for scale, right, down in _VIEWS:
            for start in range(0, len(xy), 128):
                part = slice(start, start + 128)
                box = boxes[part, 0].clone()
                box[:, :2] += box[:, 2:3] * torch.tensor([right, down], device=xy.device)
                box[:, 2] *= scale
                affines = augment.crop_affines(box, taught.size_hw, taught.margin)
                crops = augment.sample(canvases[part].float(), affines, taught.size_hw)
                for flipped in (False, True):
                    seen = crops.flip(3) if flipped else crops
                    with torch.autocast(xy.device.type, torch.bfloat16, enabled=xy.device.type == "cuda"):
                        found = net.raw(net.pixels(seen.permute(0, 2, 3, 1))).xy.float()
                    if flipped:
                        found = found[:, mirror]
                        found[:, :, 0] = taught.size_hw[1] - 1 - found[:, :, 0]
                    total[part] += found @ affines[:, :, :2].transpose(1, 2) + affines[:, None, :, 2]
            views += 2
    return total / views
