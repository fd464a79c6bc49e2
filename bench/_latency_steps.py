"""Single calls for bench/latency.py: of the nets, beside the floor under them, and of `Tracker.step` as things grow."""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import _latency_film as film
import numpy as np
from _latency_report import Row, row

from livemarks import api, weights
from livemarks.types import U8, Frame, LivemarksError

# --- The net alone ----------------------------------------------------------------------------------------------------


def repeated(call: Callable[[], Any], seconds: float) -> list[float]:
    """How long each call took, over about so many seconds and at least 20 calls, after five that don't count."""
    for _ in range(5):
        call()
    took_s: list[float] = []
    while len(took_s) < 20 or (sum(took_s) < seconds and len(took_s) < 2000):
        start = time.perf_counter()
        call()
        took_s.append(time.perf_counter() - start)
    return took_s


def measure_net(options: argparse.Namespace) -> Iterator[Row]:
    """A row per model, backend and batch; one that says why for a backend that doesn't run here."""
    for model in options.model:
        for backend in options.backend:
            what = {"model": model, "backend": backend}
            try:
                net = api.open_net(model, backend=backend)
            except LivemarksError as error:
                yield {"part": "net", **what, "warning": str(error)}
                continue
            what = {"model": net.card.name, "backend": net.runner.label}
            on_cuda = "cuda" in net.runner.label
            for batch in (1, 2, 4, 8, 16, 32, 64) if on_cuda else (1, 2, 4, 8):
                shape = (batch, *net.card.size_hw, 3)
                crops = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
                took_s = repeated(lambda net=net, crops=crops: net.runner(crops), options.seconds / 10)  # type: ignore[misc]
                more: dict[str, Any] = {"crops_per_s": batch / float(np.median(took_s))}
                if batch == 1 and "onnx (cpu" in net.runner.label and importlib.util.find_spec("onnx"):
                    more |= floor(weights.find(model), options.seconds / 10)
                if on_cuda:
                    more["copies_ms"] = 1e3 * copies_s(crops, 3 * len(net.scheme) + 1)
                yield row("net", {**what, "batch": batch}, took_s, **more)
            net.runner.close()


def floor(path: Path, seconds: float) -> dict[str, float]:
    """What one crop can't take less than on one thread of this CPU, whatever runs it: by arithmetic, and by memory.

    The GFLOP on its card, over the rate at which ONNX Runtime multiplies 512 x 512 matrices; and its weights, as
    float32, over the rate at which a core copies memory (but mostly they stay in the cache).
    """
    import onnx
    from onnx import helper

    flops = 1e9 * weights.read_card(path).gflop
    numbers = sum(int(np.prod(tensor.dims)) for tensor in onnx.load(path).graph.initializer)

    side = 512
    a, b, c = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [side, side]) for name in "abc")
    product = helper.make_model(
        helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [a, b], [c]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    import onnxruntime

    one = onnxruntime.SessionOptions()
    one.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(product.SerializeToString(), one, providers=["CPUExecutionProvider"])
    square = np.ones((side, side), np.float32)
    flops_per_s = 2 * side**3 / min(repeated(lambda: session.run(None, {"a": square, "b": square}), seconds))
    source, copy = np.zeros((2, 8 << 20), np.float32)  # 32 MiB each: more than a core's share of the cache
    bytes_per_s = source.nbytes / min(repeated(lambda: np.copyto(copy, source), seconds))
    return {
        "gflop": flops / 1e9,
        "weights_mb": 4 * numbers / 1e6,
        "arithmetic_ms": 1e3 * flops / flops_per_s,
        "memory_ms": 1e3 * 4 * numbers / bytes_per_s,
    }


def copies_s(crops: U8, numbers: int) -> float:
    """Median time for the copies alone: crops to the CUDA device, so many numbers a crop back; synchronised."""
    import torch

    host = torch.from_numpy(crops).pin_memory()
    answer = torch.zeros((len(crops), numbers), device="cuda")

    def copy() -> None:
        host.to("cuda", non_blocking=True)
        answer.cpu()
        torch.cuda.synchronize()

    return float(np.median(repeated(copy, 0.2)))


# --- Growth -----------------------------------------------------------------------------------------------------------


class Walk:
    """A tracker led through frames, there and back; how long each step took, and all of it but detector and net."""

    def __init__(self, tracker: Any, images: U8) -> None:
        self.step_s: list[float] = []
        self.rest_s: list[float] = []
        self.found = 0  # the most faces followed
        self._tracker, self._images, self._count = tracker, images, 0

    def go(self, steps: int, *, counts: bool = True) -> None:
        for i in film.there_and_back(len(self._images), self._count, steps):
            frame = Frame(self._images[i], self._count, self._count / film.FPS)
            self._count += 1
            start = time.perf_counter()
            result = self._tracker.step(frame)
            seconds = time.perf_counter() - start
            if counts:
                self.step_s.append(seconds)
                self.rest_s.append(seconds - result.stage_s["detect"] - result.stage_s["infer"])
                self.found = max(self.found, len(result.faces))


def measure_growth(options: argparse.Namespace) -> Iterator[Row]:
    """Rows by number of faces at 720p, then by frame size with one face; by turns, in blocks of 30 frames.

    to_one: the time over that of one face at 720p, or of the smallest frame; frames are made beforehand.
    """
    by_faces = [(faces, film.SIZES_WH[1]) for faces in (1, 2, 4, 8)]
    by_size = [(1, size_wh) for size_wh in film.SIZES_WH if size_wh != film.SIZES_WH[1]]
    for model in options.model:
        for cases in (by_faces, by_size):
            with ExitStack() as stack:
                walks = []
                for faces, size_wh in cases:
                    net = api.open_net(model, backend=options.backend[0])
                    tracker = stack.enter_context(closing(api.open_tracker(net, faces=faces)))
                    # at most 300 MB for each case
                    count = min(film.FPS, 300_000_000 // (3 * size_wh[0] * size_wh[1]))
                    walks.append(Walk(tracker, film.crowd(faces, size_wh, count)))
                    walks[-1].go(film.WARM_FRAMES, counts=False)
                for _ in range(max(1, round(options.seconds))):
                    for walk in walks:
                        walk.go(film.FPS)
            for (faces, size_wh), walk in zip(cases, walks, strict=True):
                what = {"model": net.card.name, "backend": net.runner.label, "faces": faces}
                what["size"] = f"{size_wh[0]}x{size_wh[1]}"
                to_one = float(np.median(walk.step_s) / np.median(walks[0].step_s))
                rest_ms = 1e3 * float(np.median(walk.rest_s))
                yield row("growth", what, walk.step_s, rest_p50_ms=rest_ms, to_one=to_one, found=walk.found)
