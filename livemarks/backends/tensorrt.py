"""Engines that TensorRT builds for this very GPU, through Torch-TensorRT.

Not yet run on hardware: written by the documentation of Torch-TensorRT 2.13, for want of a device. `pytest -m gpu` is
what to run on one. Offers fp16 and fp32; int8 and fp8 need calibration, which isn't done here.
"""

from __future__ import annotations

from pathlib import Path

from livemarks.backends._common import choose, require
from livemarks.types import Card, LivemarksError, Runner


def load(
    path: Path,
    card: Card,
    *,
    device: str = "auto",
    threads: int | None = None,  # noqa: ARG001 - the CPU has nothing to do
    precision: str = "auto",
) -> Runner:
    """A net as TensorRT engines for 1, 2, 4 and 8 crops, built once and kept in the user's cache folder.

    device: auto or cuda. precision: fp16 (auto) or fp32.
    """
    precision = choose("precision", precision, ("fp16", "fp32"), "tensorrt")
    require("tensorrt", "torch", "onnx", "torch_tensorrt")
    from livemarks.backends._cuda import require_cuda

    require_cuda(device)
    try:
        from livemarks.backends import _tensorrt
    except (ImportError, OSError) as error:  # its libraries want their exact CUDA, TensorRT and PyTorch
        cure = "install the versions that belong together: pip install -U 'livemarks[tensorrt]'"
        raise LivemarksError(f"torch_tensorrt cannot be loaded ({error}); {cure}") from error
    return _tensorrt.open_runner(path, card, precision)
