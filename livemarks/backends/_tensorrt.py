"""The part of backend `tensorrt` that needs torch_tensorrt. Not yet run on hardware."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import tensorrt
import torch
import torch_tensorrt
from torch import nn

from livemarks import __version__
from livemarks.backends import _engines
from livemarks.backends._common import scheme_of
from livemarks.backends._cuda import BATCHES, Batched, Staged
from livemarks.backends._torch_net import halve, on, open_net
from livemarks.types import Card, LivemarksError, Runner


def open_runner(path: Path, card: Card, precision: str) -> Runner:
    """All engines of a net; those not in the cache are built here, not in the middle of a video."""
    net = on("cuda", open_net(path, card))
    net = halve(net) if precision == "fp16" else net
    points = len(scheme_of(card))
    model_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    engines = {batch: _engine(net, card, batch, model_sha256, precision) for batch in BATCHES}
    # Not captured as a CUDA graph: an engine is one launch already, and Torch-TensorRT has its own way of doing that.
    return Batched(f"tensorrt (cuda, {precision})", card, lambda n: Staged(engines[n], n, card, points, capture=False))


def _engine(net: nn.Module, card: Card, batch: int, model_sha256: str, precision: str) -> nn.Module:
    crops = torch.zeros((batch, *card.size_hw, 3), dtype=torch.uint8, device="cuda")
    versions = (__version__, torch.__version__, torch_tensorrt.__version__, tensorrt.__version__, _driver_version())
    gpu = (torch.cuda.get_device_name(), torch.cuda.get_device_capability())
    file = (
        _engines.folder()
        / f"{card.name}-{batch}-{_engines.key(model_sha256, crops.shape, precision, versions, gpu)}.ep"
    )

    def build(to: Path) -> None:
        at = BATCHES.index(batch) + 1
        print(f"building TensorRT engine {at} of {len(BATCHES)} for {card.name}, once …", file=sys.stderr, flush=True)
        exported = torch.export.export(net, (crops,))
        compiled = torch_tensorrt.dynamo.compile(exported, arg_inputs=[crops], disable_tf32=True)  # fp32 is fp32
        torch_tensorrt.save(compiled, str(to), arg_inputs=[crops])

    def load(from_: Path) -> nn.Module:
        module: nn.Module = torch_tensorrt.load(str(from_)).module()
        return module

    try:
        with torch.no_grad():
            return _engines.load_or_build(file, load, build)
    except RuntimeError as error:
        raise LivemarksError(
            f"TensorRT can't build an engine for {card.name}: {error}; try --backend cudagraph"
        ) from error


def _driver_version() -> str:
    """The NVIDIA driver's version, by the tool that comes with it."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        raise LivemarksError(f"nvidia-smi doesn't tell the driver's version ({error}); reinstall the driver") from error
