"""A trained net and its card as one ONNX file: the only form in which weights ship.

Parameters keep their PyTorch names, but for biases that the exporter makes by folding batch normalisation into a
convolution; backends/_torch_net.py finds its way by the graph there. Those of more than a few numbers are stored as
float16 under that name, and those of very many as int8 with a scale an output channel, with nodes behind that make
float32 of them: a half or a quarter of the bytes, and the same float32 arithmetic in every backend.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from livemarks.models._net import LandmarkNet
from livemarks.train._files import whole
from livemarks.types import Card, LivemarksError
from livemarks.weights import CARD_KEY, INT8_SCALE, card_to_json, read_card

_OPSET = 18
_SMALL = 64  # numbers; shorter ones stay float32
_LARGE = 1 << 16  # longer ones become int8; a shape layer (models/_net.py) is not as long, and would lose too much


def export(net: LandmarkNet, card: Card, path: Path) -> None:
    """Writes `net` with `card`, and its gflop there, to `path` (through a temporary name). The batch size stays free.

    Raises LivemarksError if a weight doesn't fit float16.
    """
    net = net.eval()
    crops = torch.zeros((2, *net.size_hw, 3), dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every package that it does without
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            net,
            (crops,),
            input_names=["crops"],
            output_names=["xy", "sigma", "presence"],
            dynamic_shapes={"crops": {0: torch.export.Dim("batch", min=1, max=64)}},
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _shrink(model.graph, net.state_dict().keys())
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {CARD_KEY: card_to_json(replace(card, gflop=gflop(model)))})
    model.producer_name, model.doc_string = "livemarks", ""
    for node in model.graph.node:  # the exporter's stack traces name files of the machine it ran on
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    _write(model, path)


def add_scores(path: Path, scores: dict[str, float]) -> None:
    """Writes measured scores into the card of a model file, over those of the same name; its numbers stay as they are.

    Raises LivemarksError if the file is no model.
    """
    card = read_card(path)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {CARD_KEY: card_to_json(replace(card, scores={**card.scores, **scores}))})
    _write(model, path)


def gflop(model: onnx.ModelProto) -> float:
    """What a net's convolutions and matrix products do for one crop, in 10^9 multiplications and additions."""
    one = onnx.ModelProto()
    one.CopyFrom(model)
    one.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(one, data_prop=True).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.value_info, *graph.output)}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    flops = 0
    for node in graph.node:
        if node.op_type == "Conv":
            flops += 2 * math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("Gemm", "MatMul"):
            flops += 2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return round(flops / 1e9, 4)


def _write(model: onnx.ModelProto, path: Path) -> None:
    with whole(path) as file:
        file.write(model.SerializeToString(deterministic=True))


def _shrink(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Stores the larger float32 initializers of these names in fewer bytes, in place, and computes float32 from it."""
    nodes, scales, shrunk = [], [], set()
    for tensor in graph.initializer:
        if tensor.name not in names or tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < _SMALL:
            continue
        value = numpy_helper.to_array(tensor)
        name, full = tensor.name, f"{tensor.name}.float32"
        for node in graph.node:
            for i, used in enumerate(node.input):
                if used == name:
                    node.input[i] = full
        shrunk.add(name)
        if value.size >= _LARGE and value.ndim > 1:
            numbers, scale = _whole_numbers(value)
            tensor.CopyFrom(numpy_helper.from_array(numbers, name))
            scales.append(numpy_helper.from_array(scale, name + INT8_SCALE))
            cast = f"{name}.unscaled"
            nodes.append(onnx.helper.make_node("Mul", [cast, name + INT8_SCALE], [full], name=f"{name}.mul"))
        else:
            if np.abs(value).max() > np.finfo(np.float16).max:
                raise LivemarksError(f"{name} doesn't fit float16: its largest number is {np.abs(value).max():.3g}")
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), name))
            cast = full
        nodes.append(onnx.helper.make_node("Cast", [name], [cast], name=f"{name}.cast", to=onnx.TensorProto.FLOAT))
    graph.initializer.extend(scales)
    for node in nodes:  # each in front of those before it
        graph.node.insert(0, node)
    shapes = [value for value in graph.value_info if value.name not in shrunk]  # the others say float32
    del graph.value_info[:]
    graph.value_info.extend(shapes)


def _whole_numbers(value: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Whole numbers from -127 to 127, and what to multiply those of each output channel (first axis) with."""
    largest = np.abs(value).max(axis=tuple(range(1, value.ndim)), keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.round(value / scale).astype(np.int8), scale
