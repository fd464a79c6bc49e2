"""A net on a CUDA device, with no waiting between its steps: memory the device itself copies, and one stream."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from livemarks.types import F32, U8, Card, LivemarksError

# Each batch size is its own graph, or engine; a batch between two of them is padded, a larger one split.
BATCHES = (1, 2, 4, 8)


def require_cuda(device: str) -> None:
    """Raises LivemarksError unless `device` may be, and there is, a CUDA device; RuntimeError if it can't compute."""
    if device not in ("auto", "cuda"):
        raise LivemarksError(f"it runs on device cuda alone, not on {device}")
    if not torch.cuda.is_available():
        raise LivemarksError("PyTorch finds no CUDA device")
    torch.ones(1, device="cuda").add(1).cpu()  # a GPU that this PyTorch wasn't built for is found at the first kernel


class Batched:
    """A runner for any number of crops, of parts for fixed ones.

    make(batch) -> part, which maps (batch, H, W, 3) crops to (batch, 3 N + 1) numbers: x and y of each point, sigmas,
    presence. Parts are made when first needed, on the thread that will run them.
    """

    def __init__(self, label: str, card: Card, make: Callable[[int], Callable[[U8], F32]]) -> None:
        self.label = label
        self._size_hw = card.size_hw
        self._make = make
        self._parts: dict[int, Callable[[U8], F32]] = {}

    def __call__(self, crops: U8) -> tuple[F32, F32, F32]:
        most = BATCHES[-1]
        packed = np.concatenate([self._run(crops[i : i + most]) for i in range(0, len(crops), most)])
        n = packed.shape[1] // 3
        return packed[:, : 2 * n].reshape(-1, n, 2), packed[:, 2 * n : 3 * n], packed[:, 3 * n]

    def _run(self, crops: U8) -> F32:
        batch = next(size for size in BATCHES if size >= len(crops))
        if batch not in self._parts:
            self._parts[batch] = self._make(batch)
        if len(crops) < batch:
            padding = np.zeros((batch - len(crops), *self._size_hw, 3), np.uint8)
            return self._parts[batch](np.concatenate([crops, padding]))[: len(crops)]
        return self._parts[batch](crops)

    def close(self) -> None:
        """Gives the device's memory back."""
        self._parts.clear()


class Staged:
    """A net for one batch size, with pinned memory at both ends; `capture` makes the way between one CUDA graph."""

    def __init__(self, net: nn.Module, batch: int, card: Card, points: int, *, capture: bool) -> None:
        shape = (batch, *card.size_hw, 3)
        self._net = net
        self._host_crops = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
        self._crops = torch.zeros(shape, dtype=torch.uint8, device="cuda")
        self._answer = torch.zeros((batch, 3 * points + 1), pin_memory=True)
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream())
        self._go: Callable[[], None] = self._walk
        with (
            torch.inference_mode(),
            torch.cuda.stream(self._stream),
            torch.backends.cudnn.flags(benchmark=True, allow_tf32=False),
        ):
            for _ in range(3):  # PyTorch asks for warm-up before a capture: libraries choose kernels, memory is taken
                self._walk()
            self._stream.synchronize()
            if capture:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=self._stream):
                    self._walk()
                self._go = graph.replay

    def _walk(self) -> None:
        self._crops.copy_(self._host_crops, non_blocking=True)
        xy, sigma, presence = self._net(self._crops)
        packed = torch.cat([xy.flatten(1), sigma, presence[:, None]], dim=1)  # one copy back instead of three
        self._answer.copy_(packed, non_blocking=True)

    def __call__(self, crops: U8) -> F32:
        self._host_crops.numpy()[:] = crops
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            self._go()
        self._stream.synchronize()
        return self._answer.numpy().copy()
