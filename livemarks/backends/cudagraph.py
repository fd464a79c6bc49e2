"""PyTorch captured as a CUDA graph: one launch a frame instead of a hundred.

Not yet run on hardware: no CUDA device was at hand when this was written. `pytest -m gpu` is what to run on one.
"""

from __future__ import annotations

from pathlib import Path

from livemarks.backends._common import choose, require, scheme_of
from livemarks.types import Card, Runner


def load(
    path: Path,
    card: Card,
    *,
    device: str = "auto",
    threads: int | None = None,  # noqa: ARG001 - the CPU has nothing to do
    precision: str = "auto",
) -> Runner:
    """A net as CUDA graphs of 1, 2, 4 and 8 crops. device: auto or cuda. precision: fp16 (auto) or fp32."""
    precision = choose("precision", precision, ("fp16", "fp32"), "cudagraph")
    require("train", "torch", "onnx")
    from livemarks.backends._cuda import Batched, Staged, require_cuda
    from livemarks.backends._torch_net import halve, on, open_net

    require_cuda(device)
    net = on("cuda", open_net(path, card))
    net = halve(net) if precision == "fp16" else net
    points = len(scheme_of(card))
    return Batched(f"cudagraph (cuda, {precision})", card, lambda n: Staged(net, n, card, points, capture=True))
