"""A net in PyTorch, made from a model file: the architecture its card names, the parameters its graph carries.

Where the graph has a convolution and its batch normalisation folded into one, so has the net made from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from livemarks import plugins
from livemarks.backends._common import check_size, choose, scheme_of
from livemarks.types import F32, U8, Card, LivemarksError
from livemarks.weights import INT8_SCALE

# A counter that PyTorch's batch normalisation keeps while training, and a graph for inference doesn't.
_TRAINING_ONLY = "num_batches_tracked"


def open_net(path: Path, card: Card) -> nn.Module:
    """The net of a model file, in float32 on the CPU. Raises LivemarksError if the file isn't what its card says."""
    check_size(path)
    try:
        values = _values(onnx.load(path, load_external_data=False).graph)
    except (DecodeError, ValueError, TypeError, LookupError, StopIteration) as error:
        raise LivemarksError(f"{path} is no ONNX model, or a damaged one") from error
    build = plugins.load("models", card.architecture)
    try:
        with torch.device("meta"):  # shapes without memory, until the file proves that it holds what its card claims
            net: nn.Module = build(scheme_of(card), size_hw=card.size_hw, **card.options).eval()
            _fold(net, [name for name, _ in net.named_parameters() if name not in values], card)
    except (TypeError, ValueError, RuntimeError, IndexError, ZeroDivisionError) as error:
        raise LivemarksError(f"{path}: its card's options build no {card.architecture} net: {error}") from error
    state = {}
    for name, claimed in net.state_dict().items():
        value = np.zeros((), np.int64) if name.endswith(_TRAINING_ONLY) else values.get(name)
        real = value is not None and issubclass(value.dtype.type, (np.integer, np.floating))
        if value is None or not real or value.shape != tuple(claimed.shape):
            raise LivemarksError(f"{path} holds no {tuple(claimed.shape)} parameter {name}; export the net again")
        state[name] = torch.from_numpy(value).to(claimed.dtype)
    net.load_state_dict(state, assign=True)
    return net.requires_grad_(False)


def on(device: torch.device | str, net: nn.Module) -> nn.Module:
    """Moves a net to a device, its weights laid out as convolutions like them."""
    moved: nn.Module = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _values(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    """The graph's numbers by their PyTorch names."""
    # copies, since PyTorch wants to be able to write
    values = {tensor.name: np.array(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    for whole in [name.removesuffix(INT8_SCALE) for name in values if name.endswith(INT8_SCALE)]:  # see train/export.py
        if whole in values:
            full = np.empty(values[whole].shape, np.float32)  # no more, whatever shape a damaged file's scale has
            values[whole] = np.multiply(values[whole], values[whole + INT8_SCALE], out=full)
    # The exporter folds, and so renames, a convolution's bias with the normalisation after it, and the factor of sigma.
    # That vanishes if it is 1, and the points' offset if it is 0.
    values.setdefault("sigma_scale", np.ones((), np.float32))
    values.setdefault("offset", np.zeros(2, np.float32))
    for node in graph.node:
        inputs = [name.removesuffix(".float32") for name in node.input]
        if node.op_type == "Conv" and len(inputs) == 3 and inputs[2] in values:
            values.setdefault(inputs[1].removesuffix("weight") + "bias", values[inputs[2]])
        elif node.op_type == "Mul" and "sigma" in node.output:
            values["sigma_scale"] = next(values[name] for name in inputs if name in values)
    return values


def _fold(net: nn.Module, missing: list[str], card: Card) -> None:
    """Replaces each batch normalisation whose parameters are missing by a bias of the convolution before it."""
    folded = {name.rpartition(".")[0] for name in missing}
    made: list[tuple[Tensor, nn.Conv2d]] = []  # what each convolution gave
    handles = []
    for path, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(lambda conv, _, out: made.append((out, conv))))
        elif isinstance(module, nn.BatchNorm2d) and path in folded:

            def give_bias(_: nn.Module, inputs: tuple[Tensor]) -> None:
                conv = next(conv for out, conv in made if out is inputs[0])
                conv.bias = nn.Parameter(torch.empty(conv.out_channels))

            handles.append(module.register_forward_pre_hook(give_bias))
    net(torch.zeros((1, *card.size_hw, 3), dtype=torch.uint8))
    for handle in handles:
        handle.remove()
    for path in folded:
        if isinstance(net.get_submodule(path), nn.BatchNorm2d):
            parent, _, name = path.rpartition(".")
            setattr(net.get_submodule(parent), name, nn.Identity())


def halve(net: nn.Module) -> nn.Module:
    """Makes convolutions and linear layers compute in float16, and so what lies between them; decoding stays exact.

    Explicit types rather than autocast, which would also halve the matrix products of the soft-argmax: x up to 255 px,
    and its square, with 11 bits.
    """

    def to_half(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].half(),)

    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.half().register_forward_pre_hook(to_half)
    return net


class Eager:
    """The runner of backend `torch`."""

    def __init__(self, path: Path, card: Card, device: str, threads: int | None, precision: str) -> None:
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        device = choose("device", device, tuple(name for name, works in there.items() if works), "torch")
        precision = choose("precision", precision, ("fp32", "fp16") if device == "cuda" else ("fp32",), "torch")
        if threads is not None:
            torch.set_num_threads(threads)
        self._device = torch.device(device)
        net = on(self._device, open_net(path, card))
        self._net = halve(net) if precision == "fp16" else net
        self.label = f"torch ({device}, {precision})"

    def __call__(self, crops: U8) -> tuple[F32, F32, F32]:
        # TensorFloat-32, CUDA's default in convolutions, keeps 10 bits: not the float32 that a yardstick promises.
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            xy, sigma, presence = self._net(torch.tensor(crops, device=self._device))
        return xy.cpu().numpy(), sigma.cpu().numpy(), presence.cpu().numpy()

    def close(self) -> None:
        """Memory goes with the last reference."""
