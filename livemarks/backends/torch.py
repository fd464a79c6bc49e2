"""Eager PyTorch: the yardstick that the other backends are measured against, on any device PyTorch knows."""

from __future__ import annotations

from pathlib import Path

from livemarks.backends._common import require
from livemarks.types import Card, Runner


def load(
    path: Path, card: Card, *, device: str = "auto", threads: int | None = None, precision: str = "auto"
) -> Runner:
    """A net in eager PyTorch.

    device: auto, cuda, mps or cpu. precision: fp32 (auto), or fp16 on cuda. threads: of PyTorch's own pool, which the
    whole process shares; None leaves it as it is.
    """
    require("train", "torch", "onnx")
    from livemarks.backends._torch_net import Eager

    return Eager(path, card, device, threads, precision)
