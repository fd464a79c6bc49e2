"""Training, read top to bottom: recipe, faces, net, the loop, what is kept.

    livemarks train RECIPE --data DIR --out OUT

OUT gets last.pt (everything needed to go on), best.pt (the averaged weights that did best on held-out people),
log.csv, loss.png and, at the end, NAME.onnx with its card, and scores.json. Same seed, device and libraries: same
numbers, but for nets with dropout, whose dice and those of the next batch, made meanwhile, come from one cup.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from livemarks import plugins
from livemarks.models._net import LandmarkNet
from livemarks.train import batches, teach
from livemarks.train._files import whole
from livemarks.train.batches import FaceTensors
from livemarks.train.export import export
from livemarks.train.learner import BEST, LAST, Learner, check_start
from livemarks.train.log import Log
from livemarks.train.recipe import Recipe, Stage, card
from livemarks.train.validate import align, calibrate, validate
from livemarks.types import LivemarksError, Scheme

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
    if recipe.start:
        check_start()
    if not resume and (out / LAST).exists():
        raise LivemarksError(
            f"{out} holds an earlier training: go on with it (--resume), or name another folder (--out)"
        )
    if resume and not (out / LAST).is_file():
        raise LivemarksError(f"nothing to resume: {out / LAST} is not there")
    train, held = batches.load(recipe, scheme, data, where)
    out.mkdir(parents=True, exist_ok=True)
    learner = Learner(recipe, scheme, where, out, people=sorted(set(held.persons)))
    if resume:
        if not learner.restore():
            log.warning("%s is missing, damaged or another net's; the best is sought anew", out / BEST)
        torch.manual_seed(recipe.seed + learner.step)  # not the same batches once more
    table = Log(out / "log.csv", keep_until=learner.step)
    total = sum(stage.steps for stage in recipe.stages)
    show = show or (lambda _: None)
    show(learner.step)

    with ThreadPoolExecutor(1) as worker, _at_ctrl_c(learner.save):
        current: Stage | None = None
        while learner.step < total:
            stage, done = recipe.stage_at(learner.step)
            if stage is not current:
                current, now = stage, stage.of(recipe)
                learner.resize(now.size_hw)
                labels = batches.labels_for(train, stage, now, learner.judged, out, scheme)
                stream = batches.Batches(train, labels, stage, now, worker)
            lr = _lr(stage, done)
            parts = learner.learn(*stream.take(), lr)

            step, over = learner.step, bool(limit_minutes) and time.monotonic() - started > limit_minutes * 60
            due = step % recipe.validate_every == 0 or step == total or over
            if not due and step % _REPORT_EVERY:
                continue
            sums = {name: value.item() for name, value in parts.items()}
            if not math.isfinite(sums["loss"]):
                raise LivemarksError(f"{recipe.name}: the loss became {sums['loss']} at step {step}; lower lr")
            show(step)
            scores = learner.judge(held) if due else {}
            table.write(step=step, lr=lr, **sums, **scores)
            if not due:
                continue
            nme, best = scores["val_nme"], learner.best
            log.info("batch %d: loss %.4f, held-out NME %.3f %%, best %.3f %%", step, sums["loss"], nme, best)
            learner.save()
            stale = recipe.patience and learner.stale >= recipe.patience and now.size_hw == recipe.size_hw
            if over or stale:
                break
    table.plot(out / "loss.png", recipe.name)
    if learner.step < total:  # within small crops, say: all that it can be judged by, and is good for
        recipe = replace(recipe, size_hw=learner.net.size_hw)
    return finish(recipe, scheme, learner.finished(recipe.size_hw), held, out)


def finish(recipe: Recipe, scheme: Scheme, net: LandmarkNet, held: FaceTensors, out: Path) -> dict[str, float]:
    """Calibrates points and sigma on the held-out faces, and writes OUT/NAME.onnx with its card."""
    if recipe.augment.flip and not recipe.holdout_persons:  # people that a recipe names are those it is scored on
        align(net, held, recipe)
    calibrate(net, held, recipe, scheme)
    scores = validate(net, held, recipe.size_hw, recipe.margin)
    told = {"held-out NME %": round(scores["val_nme"], 2), "held-out RMSE px": round(scores["val_rmse_px"], 2)}
    export(net.cpu(), card(recipe, told), out / f"{recipe.name}.onnx")
    with whole(out / "scores.json") as file:
        file.write(json.dumps(scores, indent=1).encode())
    return scores


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


def _lr(stage: Stage, done: int) -> float:
    if stage.schedule == "constant":
        return stage.lr
    warm = max(1, stage.steps // 20)
    if done < warm:
        return stage.lr * (done + 1) / warm
    if stage.schedule == "held":
        return stage.lr
    return stage.lr * (0.5 + 0.5 * math.cos(math.pi * (done - warm) / max(1, stage.steps - warm))) + 1e-7
