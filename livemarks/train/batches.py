"""From packed faces to random batches of crops on the training device, and who is held out of training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from livemarks import plugins
from livemarks.models._net import LandmarkNet
from livemarks.train import augment, teach
from livemarks.train.pack import Faces, is_pack, load_faces
from livemarks.train.recipe import Recipe, Stage
from livemarks.train.samples import DERIVED, scheme_of
from livemarks.types import LivemarksError, Scheme

log = logging.getLogger(__name__)


@dataclass(slots=True)
class FaceTensors:
    """Faces on the training device: canvases (n, 3, C, C) uint8, xy (n, N, 2), boxes (n, 2, 4), each one's set, who."""

    canvases: Tensor
    xy: Tensor
    boxes: Tensor
    norm: Tensor  # (n,) the distance that normalises each face's error, canvas px
    sets: tuple[str, ...]
    persons: tuple[str, ...] = ()

    def of(self, names: Sequence[str]) -> Tensor:
        """Indices of all faces of these sets, each as often as its set is named."""
        return torch.tensor([i for i, s in enumerate(self.sets) for _ in range(names.count(s))], device=self.xy.device)


def load(recipe: Recipe, scheme: Scheme, data: Path, device: torch.device) -> tuple[FaceTensors, FaceTensors]:
    """The recipe's faces for training and, of other people, for validation; problems are logged by file name.

    Packs in the data folder come first; sets that none of them holds are read from the folders beside them. Raises
    LivemarksError, naming the set, if one is missing, or labelled in another scheme than the recipe says.
    """
    sets = list(dict.fromkeys(name for stage in recipe.stages for name in stage.sets))
    labelled: Scheme = plugins.load("schemes", recipe.labels or recipe.scheme)
    packs = [path for path in sorted(data.glob("*.npz")) if is_pack(path)] if data.is_dir() else [data]
    parts: list[Faces] = []
    problems: list[str] = []
    for pack in packs:
        faces = load_faces(pack)[0]
        wanted = [i for i, name in enumerate(faces.sets) if name in sets]
        if twice := {name for part in parts for name in part.sets} & {faces.sets[i] for i in wanted}:
            raise LivemarksError(
                f"{data}: more than one pack holds {', '.join(sorted(twice))}; leave one of them there"
            )
        if wanted:
            parts.append(faces.select(wanted))
    known = {(name, part.scheme) for part in parts for name in part.sets}
    missing = [name for name in sets if name not in dict(known)]
    if missing and not data.is_dir():
        raise LivemarksError(f"no pack in {data.name} holds {', '.join(sorted(missing))}")
    for name, own in sorted(known | {(name, scheme_of(name)) for name in missing}):
        if own != labelled.name:
            raise LivemarksError(
                f"{recipe.name}: {name} is labelled in {own}, but the recipe says that its labels are {labelled.name}"
            )
    for name in missing:
        faces, found = load_faces(data, [name], recipe.canvas, recipe.canvas_margin)
        parts.append(faces)
        problems += found
    for line in problems:
        log.warning("left out: %s", line)
    train, held = split(parts, recipe)
    return _on_device(train, recipe, labelled, scheme, device), _on_device(held, recipe, labelled, scheme, device)


def split(parts: Sequence[Faces], recipe: Recipe) -> tuple[list[Faces], list[Faces]]:
    """Faces to train on, and faces of other people to validate on; sets labelled by a model never validate."""
    sure = {p for part in parts for p, s in zip(part.persons, part.sets, strict=True) if s not in teach.LOOSE}
    persons = sorted({p for part in parts for p in part.persons})
    if unknown := sorted(set(recipe.holdout_persons) - set(persons)):
        raise LivemarksError(f"{recipe.name}: holdout_persons names some not in the data: {', '.join(unknown)}")
    order = np.random.default_rng(recipe.seed).permutation(len(persons))
    chosen = [persons[i] for i in order if persons[i] in sure]
    some = set(chosen[: max(1, round(recipe.holdout * len(chosen)))])
    held_persons = set(recipe.holdout_persons) or some
    train, held = [], []
    for part in parts:
        is_held = [person in held_persons for person in part.persons]
        train.append(part.select([i for i, out in enumerate(is_held) if not out]))
        held.append(part.select([i for i, out in enumerate(is_held) if out and part.sets[i] not in teach.LOOSE]))
    train, held = [f for f in train if len(f)], [f for f in held if len(f)]
    if not train or not held:
        raise LivemarksError(f"{recipe.name}: the data hold no faces to train on besides those to validate on")
    return train, held


def _on_device(
    parts: list[Faces], recipe: Recipe, labelled: Scheme, scheme: Scheme, device: torch.device
) -> FaceTensors:
    """All faces on one canvas size, with their boxes (from the full labels) and the net's own points.

    The canvas of one of Kaggle's is the whole picture, and so is each crop of it, as `bench/_faces.py` measures: few
    of its points may be labelled, whose box would be too tight.
    """
    center = (recipe.canvas - 1) / 2
    whole = torch.tensor([center, center, recipe.canvas / recipe.margin, 0.0])
    canvases, xys, boxes, norms = [], [], [], []
    for part in parts:
        zoom = recipe.canvas / part.canvases.shape[2]
        shown = torch.from_numpy(part.canvases).to(device).permute(0, 3, 1, 2)
        if zoom != 1:
            shown = torch.cat([_resized(some, recipe.canvas) for some in torch.split(shown, 256)])
        canvases.append(shown)
        xy = part.xy * zoom + (zoom - 1) / 2
        boxes.append(augment.boxes_of(xy, labelled))
        boxes[-1][[name == "kaggle" for name in part.sets]] = whole
        side = boxes[-1][:, 0, 2].numpy()
        norms.append(_norm(xy, labelled, side))
        if labelled.name != scheme.name:
            xy = np.stack([DERIVED[labelled.name, scheme.name](points) for points in xy]).astype(np.float32)
        xys.append(torch.from_numpy(xy.astype(np.float32)))
    return FaceTensors(
        torch.cat(canvases),
        torch.cat(xys).to(device),
        torch.cat(boxes).to(device),
        torch.from_numpy(np.concatenate(norms).astype(np.float32)).to(device),
        tuple(name for part in parts for name in part.sets),
        tuple(person for part in parts for person in part.persons),
    )


def _resized(images: Tensor, side: int) -> Tensor:
    """(B, 3, C, C) uint8 -> (B, 3, side, side) uint8."""
    zoomed = nn.functional.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)
    return zoomed.round().clamp(0, 255).byte()


def _norm(xy: np.ndarray, scheme: Scheme, side: np.ndarray) -> np.ndarray:
    """(n,) inter-ocular distance of (n, N, 2) points; the box's side where it isn't labelled."""
    if scheme.norm is None:
        return side
    first, second = (xy[:, list(group)].mean(axis=1) for group in scheme.norm)
    distance = np.linalg.norm(first - second, axis=1)
    return np.where(np.isnan(distance), side, distance)


def labels_for(faces: FaceTensors, stage: Stage, recipe: Recipe, own: LandmarkNet, out: Path, scheme: Scheme) -> Tensor:
    """(n, N, 2) canvas px: the labels, the teacher's points, or a mean of the two, as the stage says.

    own: the net in training, which teaches itself where the stage names "self".
    """
    if not stage.teacher:
        return faces.xy
    with ExitStack() as opened:
        teachers = [
            teach.itself(own, scheme, recipe.size_hw, recipe.margin)
            if name == "self"
            else opened.enter_context(teach.trained(*teach.find(name, out.parent, scheme), faces.xy.device))
            for name in stage.teacher
        ]
        taught = teach.relabel(teachers, faces.canvases, faces.boxes, scheme)
    anew = torch.tensor([name in stage.relabel for name in faces.sets], device=taught.device)
    return torch.where(anew[:, None, None], taught, faces.xy + stage.trust * (taught - faces.xy))


class Batches:
    """Random batches; the next one is made by `worker` while the net learns from this one."""

    def __init__(
        self, faces: FaceTensors, labels: Tensor, stage: Stage, recipe: Recipe, worker: ThreadPoolExecutor
    ) -> None:
        """recipe: as the stage has it."""
        self.faces, self.labels, self.size = faces, labels, stage.batch
        self.recipe = recipe
        self.pool = faces.of(stage.sets)
        self.scheme: Scheme = plugins.load("schemes", recipe.scheme)
        self.worker = worker
        self.next = self.worker.submit(self.make)

    def make(self) -> tuple[Tensor, Tensor, Tensor]:
        """crops (B, h, w, 3), points (B, N, 2), is_face (B,)."""
        pick = self.pool[torch.randint(len(self.pool), (self.size,), device=self.pool.device)]
        faces = self.faces
        return _crops(faces.canvases[pick], self.labels[pick], faces.boxes[pick], self.recipe, self.scheme)

    def take(self) -> tuple[Tensor, Tensor, Tensor]:
        batch = self.next.result()
        self.next = self.worker.submit(self.make)
        return batch


@torch.no_grad()
def _crops(
    canvases: Tensor, xy: Tensor, boxes: Tensor, recipe: Recipe, scheme: Scheme
) -> tuple[Tensor, Tensor, Tensor]:
    """Random crops (B, h, w, 3) 0..255, their points (B, N, 2) in crop px, and which of them (B,) show a face."""
    by, size_hw = recipe.augment, recipe.size_hw
    device, batch = xy.device, len(xy)
    wanted = augment.jittered(boxes, by)
    is_face = torch.ones(batch, device=device)
    bad = torch.rand(batch, device=device) < (by.negatives if recipe.heads else 0.0)
    shuffle = bad & (torch.rand(batch, device=device) < 0.3)
    wanted = torch.where((bad & ~shuffle)[:, None], augment.off_face(wanted), wanted)
    is_face[bad] = 0
    affines = augment.crop_affines(wanted, size_hw, recipe.margin)
    source = canvases.float() / 255
    crops = augment.sample(source, affines, size_hw)
    # Beside a face the canvas soon ends; black there would tell the net what it should see for itself.
    crops[bad] = augment.sample(source[bad], affines[bad], size_hw, "reflection")
    crops[shuffle] = augment.shuffled(crops[shuffle])
    points = augment.into_crop(affines, xy)
    flip = torch.rand(batch, device=device) < by.flip
    mirrored = points[:, list(scheme.mirror)] * torch.tensor([-1.0, 1.0], device=device)
    mirrored = mirrored + torch.tensor([size_hw[1] - 1.0, 0.0], device=device)
    points = torch.where(flip.view(-1, 1, 1), mirrored, points)
    crops = torch.where(flip.view(-1, 1, 1, 1), crops.flip(3), crops)
    crops = (augment.spoil(crops, by) * 255).round()
    return crops.permute(0, 2, 3, 1), points, is_face
