"""MediaPipe's face detector nets as ONNX files: `python -m livemarks.train.blazeface IN.tflite OUT.onnx`.

Needs the dev extra. The weights are copied as they are, float16; sparse ones are filled up with their zeros. The new
graph takes `images` (1, S, S, 3) uint8 BGR, where the old one took RGB in [-1, 1], and gives `scores` (1, N), before
the sigmoid, and `boxes` (1, N, 16).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from livemarks.train._files import whole
from livemarks.types import LivemarksError

_OPSET = 18
_DTYPES = {"FLOAT16": np.float16, "FLOAT32": np.float32, "INT32": np.int32}


def _names(enum: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}


class _Converter:
    """Walks a TFLite graph from its first operator to its last and writes the same in ONNX, channels first."""

    def __init__(self, buffer: bytes) -> None:
        import tflite  # type: ignore[import-untyped]  # only the dev extra has it: once a release of the nets will do

        self._tflite = tflite
        self._model = tflite.Model.GetRootAs(buffer, 0)
        self._graph = self._model.Subgraphs(0)
        self._operators, self._types = _names(tflite.BuiltinOperator), _names(tflite.TensorType)
        self._constants: dict[int, NDArray[Any]] = {}  # tensor -> value, in TFLite's order of axes
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def run(self) -> onnx.ModelProto:
        for i in range(self._graph.TensorsLength()):
            value = self._stored(i)
            if value is not None:
                self._constants[i] = value
        (image,) = self._graph.InputsAsNumpy().tolist()
        side = self._shape(image)[1]
        self._normalise(image)
        for i in range(self._graph.OperatorsLength()):
            operator = self._graph.Operators(i)
            code = self._model.OperatorCodes(operator.OpcodeIndex())
            name = self._operators[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            if not hasattr(self, f"_{name.lower()}"):
                raise LivemarksError(f"this converter has no {name}; it knows what BlazeFace is made of")
            getattr(self, f"_{name.lower()}")(operator)
        outputs = []
        for tensor in self._graph.OutputsAsNumpy().tolist():
            _, count, width = self._shape(tensor)
            name, shape = ("scores", [1, count]) if width == 1 else ("boxes", [1, count, width])
            self._node("Reshape", [f"t{tensor}", self._initial(np.array(shape, np.int64), name + ".shape")], name)
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        images = helper.make_tensor_value_info("images", TensorProto.UINT8, [1, side, side, 3])
        graph = helper.make_graph(self._nodes, "blazeface", [images], outputs, list(self._initializers.values()))
        opsets = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, producer_name="livemarks", opset_imports=opsets, ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model

    # --- Reading ------------------------------------------------------------------------------------------------------

    def _shape(self, tensor: int) -> list[int]:
        return [int(length) for length in self._graph.Tensors(tensor).ShapeAsNumpy()]

    def _stored(self, tensor: int) -> NDArray[Any] | None:
        """What the file holds for a tensor, or None if it is computed."""
        about = self._graph.Tensors(tensor)
        buffer = self._model.Buffers(about.Buffer())
        if not buffer.DataLength():
            return None
        values = np.frombuffer(buffer.DataAsNumpy().tobytes(), _DTYPES[self._types[about.Type()]])
        shape = self._shape(tensor)
        if about.Sparsity() is None:
            return values.reshape(shape)
        # Of the formats that TFLite knows, these files have one: rows (output channels) of compressed columns (input
        # channels), with a list of where each row starts, and the column of each value.
        rows, columns = shape[0], shape[-1]
        compressed = about.Sparsity().DimMetadata(about.Sparsity().DimMetadataLength() - 1)
        starts = self._vector(compressed.ArraySegments(), compressed.ArraySegmentsType())
        at = self._vector(compressed.ArrayIndices(), compressed.ArrayIndicesType())
        if shape != [rows, 1, 1, columns] or len(starts) != rows + 1 or not len(at) == starts[-1] == len(values):
            raise LivemarksError(f"the sparse weights of tensor {tensor} are not stored as BlazeFace's are")
        dense = np.zeros((rows, columns), values.dtype)
        dense[np.repeat(np.arange(rows), np.diff(starts)), at] = values
        return dense.reshape(shape)

    def _vector(self, table: Any, kind: int) -> NDArray[np.int64]:
        vector_of = {1: "Int32Vector", 2: "Uint16Vector", 3: "Uint8Vector"}  # SparseIndexVector
        vector = getattr(self._tflite, vector_of[kind])()
        vector.Init(table.Bytes, table.Pos)
        return np.asarray(vector.ValuesAsNumpy(), np.int64)

    def _options(self, operator: Any, kind: str) -> Any:
        options, table = getattr(self._tflite, kind)(), operator.BuiltinOptions()
        options.Init(table.Bytes, table.Pos)
        return options

    # --- Writing ------------------------------------------------------------------------------------------------------

    def _initial(self, value: NDArray[Any], name: str) -> str:
        """The name of a constant in the graph; float16 ones are cast, once."""
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(value, name)
            if value.dtype == np.float16:
                self._node("Cast", [name], f"{name}.float32", to=TensorProto.FLOAT)
        return f"{name}.float32" if value.dtype == np.float16 else name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))

    def _activated(self, kind: str, inputs: list[str], tensor: int, activation: int, **attributes: Any) -> None:
        """A node, and the ReLU that TFLite writes into it."""
        if activation == self._tflite.ActivationFunctionType.NONE:
            self._node(kind, inputs, f"t{tensor}", **attributes)
        elif activation == self._tflite.ActivationFunctionType.RELU:
            self._node(kind, inputs, f"t{tensor}.linear", **attributes)
            self._node("Relu", [f"t{tensor}.linear"], f"t{tensor}")
        else:
            raise LivemarksError(f"this converter has no activation {activation}")

    def _pads(self, options: Any, source: int, result: int, kernel_hw: tuple[int, int]) -> list[int]:
        """Top, left, bottom, right. TensorFlow's SAME puts an odd row or column at the end."""
        if options.Padding() == self._tflite.Padding.VALID:
            return [0, 0, 0, 0]
        strides = (options.StrideH(), options.StrideW())
        sizes = zip(self._shape(source)[1:3], self._shape(result)[1:3], kernel_hw, strides, strict=True)
        total = [max((after - 1) * stride + kernel - before, 0) for before, after, kernel, stride in sizes]
        return [length // 2 for length in total] + [length - length // 2 for length in total]

    def _normalise(self, image: int) -> None:
        scale, one = (np.array(value, np.float32) for value in (1 / 127.5, 1))
        self._node("Cast", ["images"], "images.float32", to=TensorProto.FLOAT)
        self._node("Transpose", ["images.float32"], "images.chw", perm=[0, 3, 1, 2])
        rgb = self._initial(np.array([2, 1, 0], np.int64), "rgb")
        self._node("Gather", ["images.chw", rgb], "images.rgb", axis=1)
        self._node("Mul", ["images.rgb", self._initial(scale, "scale")], "images.scaled")
        self._node("Sub", ["images.scaled", self._initial(one, "one")], f"t{image}")

    # --- One method an operator ---------------------------------------------------------------------------------------

    def _densify(self, operator: Any) -> None:
        self._constants[operator.Outputs(0)] = self._constants[operator.Inputs(0)]

    _dequantize = _densify  # to float32, which _initial does

    def _convolve(self, operator: Any, options: Any, *, depthwise: bool) -> None:
        source, kernel, bias = operator.InputsAsNumpy().tolist()
        result = operator.Outputs(0)
        # TFLite's (out, h, w, in), or depthwise (1, h, w, out), to ONNX's (out, in of its group, h, w)
        value = self._constants[kernel].transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
        inputs = [f"t{source}", self._initial(value, f"k{kernel}"), self._initial(self._constants[bias], f"b{bias}")]
        self._activated(
            "Conv",
            inputs,
            result,
            options.FusedActivationFunction(),
            strides=[options.StrideH(), options.StrideW()],
            pads=self._pads(options, source, result, value.shape[2:]),
            group=len(value) if depthwise else 1,
        )

    def _conv_2d(self, operator: Any) -> None:
        self._convolve(operator, self._options(operator, "Conv2DOptions"), depthwise=False)

    def _depthwise_conv_2d(self, operator: Any) -> None:
        self._convolve(operator, self._options(operator, "DepthwiseConv2DOptions"), depthwise=True)

    def _max_pool_2d(self, operator: Any) -> None:
        options = self._options(operator, "Pool2DOptions")
        kernel_hw = options.FilterHeight(), options.FilterWidth()
        source, result = operator.Inputs(0), operator.Outputs(0)
        strides, pads = [options.StrideH(), options.StrideW()], self._pads(options, source, result, kernel_hw)
        self._node("MaxPool", [f"t{source}"], f"t{result}", kernel_shape=kernel_hw, strides=strides, pads=pads)

    def _add(self, operator: Any) -> None:
        activation = self._options(operator, "AddOptions").FusedActivationFunction()
        self._activated("Add", [f"t{i}" for i in operator.InputsAsNumpy().tolist()], operator.Outputs(0), activation)

    def _relu(self, operator: Any) -> None:
        self._node("Relu", [f"t{operator.Inputs(0)}"], f"t{operator.Outputs(0)}")

    def _pad(self, operator: Any) -> None:
        source, pads = operator.InputsAsNumpy().tolist()
        lengths = self._constants[pads][[0, 3, 1, 2]].T.ravel().astype(np.int64)
        self._node("Pad", [f"t{source}", self._initial(lengths, f"p{pads}")], f"t{operator.Outputs(0)}")

    def _resize_bilinear(self, operator: Any) -> None:
        options = self._options(operator, "ResizeBilinearOptions")
        mode = "half_pixel" if options.HalfPixelCenters() else "asymmetric"
        mode = "align_corners" if options.AlignCorners() else mode
        _, height, width, channels = self._shape(operator.Outputs(0))
        size = self._initial(np.array([1, channels, height, width], np.int64), f"s{operator.Outputs(0)}")
        inputs = [f"t{operator.Inputs(0)}", "", "", size]
        self._node("Resize", inputs, f"t{operator.Outputs(0)}", mode="linear", coordinate_transformation_mode=mode)

    def _depth_to_space(self, operator: Any) -> None:
        size = self._options(operator, "DepthToSpaceOptions").BlockSize()
        self._node("DepthToSpace", [f"t{operator.Inputs(0)}"], f"t{operator.Outputs(0)}", blocksize=size, mode="DCR")

    def _reshape(self, operator: Any) -> None:
        """From maps to rows of numbers, an anchor each: here channels become the last axis again."""
        source, result = operator.Inputs(0), operator.Outputs(0)
        self._node("Transpose", [f"t{source}"], f"t{source}.hwc", perm=[0, 2, 3, 1])
        shape = self._initial(np.array(self._shape(result), np.int64), f"s{result}")
        self._node("Reshape", [f"t{source}.hwc", shape], f"t{result}")

    def _concatenation(self, operator: Any) -> None:
        """Of rows, so the axes are TFLite's."""
        axis = self._options(operator, "ConcatenationOptions").Axis()
        self._node("Concat", [f"t{i}" for i in operator.InputsAsNumpy().tolist()], f"t{operator.Outputs(0)}", axis=axis)


def convert(source: Path, result: Path) -> None:
    """Writes the net of a .tflite file as an .onnx file.

    Raises LivemarksError, and leaves an earlier result as it was, if either can't be.
    """
    try:
        model = _Converter(source.read_bytes()).run()
    except (LivemarksError, OSError, ImportError):
        raise
    except Exception as error:  # tflite lets through whatever it meets in a file
        raise LivemarksError(f"{source}: not a .tflite file such as BlazeFace's, or damaged") from error
    with whole(result) as file:
        file.write(model.SerializeToString(deterministic=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Converts what the arguments name; 2, and one line, if that can't be."""
    parser = argparse.ArgumentParser(
        prog="python -m livemarks.train.blazeface", description="MediaPipe's face detector nets as ONNX files"
    )
    parser.add_argument("source", type=Path, help=".tflite file")
    parser.add_argument("result", type=Path, help=".onnx file to write")
    options = parser.parse_args(arguments)
    try:
        convert(options.source, options.result)
    except (LivemarksError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
