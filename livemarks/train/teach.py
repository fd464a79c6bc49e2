"""Points from nets that are already trained, as labels for training others (distillation).

Every teacher sees each face as it stands and mirrored, in three crops of different size and place; the mean of all it
says, in canvas px, becomes the label. (Of a finished net's sideways offset, see validate.py, nothing is left in it.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from livemarks import plugins, weights
from livemarks.models._net import LandmarkNet
from livemarks.train import augment
from livemarks.train.samples import DERIVED
from livemarks.types import Card, LivemarksError, Scheme

# Sets whose labels a model made: trained on, never validated on.
LOOSE = ("ytfaces", "lfw-pseudo")
# Each view: scale of the box, then shift of its centre right and down, in box sides.
_VIEWS = ((1.0, 0.0, 0.0), (0.93, 0.02, -0.02), (1.08, -0.02, 0.02))


@dataclass(frozen=True, slots=True)
class Teacher:
    """A net, the crops it wants, and what its points are.

    points: crops (B, h, w, 3), 0..255, on the training device -> (B, N, 2) crop px.
    """

    points: Callable[[Tensor], Tensor]
    scheme: Scheme
    size_hw: tuple[int, int]
    margin: float


def itself(net: LandmarkNet, scheme: Scheme, size_hw: tuple[int, int], margin: float) -> Teacher:
    """The net in training, as it is now; it is left in evaluation mode."""
    net.eval()

    def points(crops: Tensor) -> Tensor:
        with torch.autocast(crops.device.type, torch.bfloat16, enabled=crops.device.type == "cuda"):
            return net.raw(net.pixels(crops)).xy.float()

    return Teacher(points, scheme, size_hw, margin)


def find(name: str, beside: Path, scheme: Scheme) -> tuple[Path, Card]:
    """The finished net NAME of an earlier training in the folder `beside`, or else the one that ships.

    Raises LivemarksError if there is neither, or if its points do not tell the scheme's.
    """
    own = beside / name / f"{name}.onnx"
    path = own if own.is_file() else weights.find(name)
    weights.verify(path)
    card = weights.read_card(path)
    if card.scheme != scheme.name and (card.scheme, scheme.name) not in DERIVED:
        raise LivemarksError(f"the teacher {name} tells {card.scheme} points, which do not tell those of {scheme.name}")
    return path, card


@contextmanager
def trained(path: Path, card: Card, device: torch.device) -> Iterator[Teacher]:
    """The net of a model file."""
    # ONNX Runtime is the quicker one on a CPU.
    backend, options = ("onnx", {}) if device.type == "cpu" else ("torch", {"device": device.type})
    with closing(plugins.load("backends", backend)(path, card, **options)) as runner:

        def points(crops: Tensor) -> Tensor:
            return torch.from_numpy(np.array(runner(crops.round().byte().cpu().numpy())[0])).to(crops.device)

        yield Teacher(points, plugins.load("schemes", card.scheme), card.size_hw, card.margin)


@torch.no_grad()
def relabel(teachers: Sequence[Teacher], canvases: Tensor, boxes: Tensor, scheme: Scheme) -> Tensor:
    """(n, N, 2) canvas px: what the teachers, averaged, say of every face. canvases (n, 3, C, C), boxes (n, 2, 4)."""
    device = boxes.device
    total = torch.zeros(len(canvases), len(scheme), 2, device=device)
    for teacher in teachers:
        derive = _derived(teacher.scheme, scheme)
        mirror, size_hw = list(teacher.scheme.mirror), teacher.size_hw
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
                    found = teacher.points(seen.permute(0, 2, 3, 1))
                    if flipped:
                        found = found[:, mirror]
                        found[:, :, 0] = size_hw[1] - 1 - found[:, :, 0]
                    total[part] += derive(found @ affines[:, :, :2].transpose(1, 2) + affines[:, None, :, 2])
    return total / (2 * len(_VIEWS) * len(teachers))


def _derived(known: Scheme, wanted: Scheme) -> Callable[[Tensor], Tensor]:
    """The function from one scheme's points to another's, (B, N, 2) -> (B, M, 2)."""
    if known.name == wanted.name:
        return lambda xy: xy
    derive = DERIVED[known.name, wanted.name]
    return lambda xy: torch.from_numpy(derive(xy.cpu().numpy())).to(xy.device)
