"""What backends share: which options they take, and that a model file keeps the contract of types.Runner."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from livemarks import plugins
from livemarks.types import F32, Card, LivemarksError, Scheme

# A file beyond this is no landmark net: the largest here, fcn-resnet50-68, has some 35 MB. Bounds memory before it is
# taken.
_MAX_FILE_BYTES = 1 << 30


def check_size(path: Path) -> None:
    """Raises LivemarksError if the model file is too large to be one."""
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise LivemarksError(f"{path} has more than 1 GiB, too much for a landmark net; is it the right file?")


def scheme_of(card: Card) -> Scheme:
    """The card's scheme. Raises LivemarksError, naming the choices, if there is none of that name."""
    scheme: Scheme = plugins.load("schemes", card.scheme)
    return scheme


def check_answer(answer: tuple[F32, F32, F32], batch: int, card: Card) -> None:
    """Raises LivemarksError unless a net's answer to `batch` crops has the shapes and type of the contract."""
    n = len(scheme_of(card))
    got = [(array.dtype.name, *array.shape) for array in answer]
    want = [("float32", batch, n, 2), ("float32", batch, n), ("float32", batch)]
    if got != want:
        raise LivemarksError(f"the net {card.name} answers {batch} crops with {got}, not {want}: no model of ours")


def choose(what: str, wanted: str, choices: tuple[str, ...], backend: str) -> str:
    """`wanted`, or the first of `choices` for "auto". Raises LivemarksError, naming the choices, for anything else."""
    if wanted == "auto":
        return choices[0]
    if wanted not in choices:
        raise LivemarksError(f"backend {backend} has no {what} {wanted!r} here; it has: {', '.join(choices)}")
    return wanted


def require(extra: str, *modules: str) -> None:
    """Raises LivemarksError, naming the extra to install, if one of these modules is absent."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise LivemarksError(f"{module} is not installed: pip install 'livemarks[{extra}]'")
