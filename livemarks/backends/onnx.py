"""ONNX Runtime: the default, on the CPU, and the only backend that a plain install needs."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

# Newer ones send reports to Microsoft otherwise, and keep a number for this machine in the user's cache folder.
# Docs: Privacy.md, in the wheel.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when it is loaded

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from livemarks.backends._common import check_answer, check_size, choose
from livemarks.types import F32, U8, Card, LivemarksError, Runner

_OUTPUTS = ["xy", "sigma", "presence"]

# ONNX Runtime's exceptions have no common base of their own. UnicodeDecodeError: a damaged file's names aren't text.
_ERRORS: tuple[type[Exception], ...] = (
    *(e for e in vars(_state).values() if isinstance(e, type) and issubclass(e, Exception)),
    UnicodeDecodeError,
)

# Device -> execution provider. `auto` takes the first that this build of ONNX Runtime has; a CUDA or DirectML build is
# something one installs on purpose. CoreML is in every build for macOS, and is used when asked for by name: with a free
# batch size it hands most of a small net back to the CPU.
_PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "directml": "DmlExecutionProvider",
    "cpu": "CPUExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}


def load(
    path: Path, card: Card, *, device: str = "auto", threads: int | None = None, precision: str = "auto"
) -> Runner:
    """A net on ONNX Runtime.

    device: auto, cpu, cuda, directml or coreml, as far as this build of ONNX Runtime has them. threads: None takes
    default_threads(card), and a second one for half of the faces if there are several and the net is small. precision:
    fp32 alone, as the graph has it.
    """
    available = onnxruntime.get_available_providers()
    device = choose("device", device, tuple(d for d, provider in _PROVIDERS.items() if provider in available), "onnx")
    choose("precision", precision, ("fp32",), "onnx")
    halves = threads is None and device == "cpu" and _is_small(card) and _cores() > 1
    return _Session(path, card, device, threads or default_threads(card), halves)


# Nets of less arithmetic than this get one thread. Measured once by hand, on two cores, 10th percentiles, not spinning:
# an early lite-68 took 1.2 ms on one thread and 1.2 ms on two, since each of its layers is over before a second thread
# has woken up; but if another program kept a core busy, 1.8 ms on one and up to 6 ms on two, waiting for that thread.
# resnet18-68 (3.5 GFLOP) took 19 ms on one, 10.5 ms on two. A rule and no measurement at start, so that two runs do the
# same. Several faces are another matter: two threads that each run the small net on half of them wait for each other
# but once. Four faces took 4.2 ms on one thread, 3.8 ms on two of ONNX Runtime's, 2.6 as halves; two 2.2, 1.9 and 1.4.
_SMALL_GFLOP = 0.5


def default_threads(card: Card) -> int:
    """One for a small net, or of unknown arithmetic, two for a large one where there are two cores."""
    return 1 if _is_small(card) else min(2, _cores())


def _is_small(card: Card) -> bool:
    return card.gflop < _SMALL_GFLOP


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Session:
    def __init__(self, path: Path, card: Card, device: str, threads: int, halves: bool) -> None:
        check_size(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal alone: errors are raised as well
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A thread that waits for the next frame by spinning keeps a core from whoever decodes and draws.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if device == "directml":
            options.enable_mem_pattern = False  # DirectML's documentation demands it
        try:
            # The file's bytes, since it takes no name that isn't UTF-8. Its fallback would print on standard output,
            # where landmarks may go, and try the same once more.
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=[_PROVIDERS[device]], enable_fallback=0
            )
            _check_input(self._session, path, card)
        except _ERRORS as error:
            raise LivemarksError(f"ONNX Runtime cannot load {path}: {_one_line(error)}") from error
        if device == "cuda" and "CUDAExecutionProvider" not in self._session.get_providers():
            raise LivemarksError("ONNX Runtime cannot start CUDA: are its CUDA and cuDNN versions installed?")
        on = f"cpu, {threads} thread{'s' if threads > 1 else ''}" if device == "cpu" else device
        self.label = f"onnx ({on})"
        check_answer(self._run(np.zeros((2, *card.size_hw, 3), np.uint8)), 2, card)
        # Its thread starts with the first batch of several.
        self._helper = ThreadPoolExecutor(1, "livemarks-net") if halves else None

    def __call__(self, crops: U8) -> tuple[F32, F32, F32]:
        if self._helper is None or len(crops) == 1:
            return self._run(crops)
        half = (len(crops) + 1) // 2
        helped = self._helper.submit(self._run, crops[half:])  # a session may be run by several threads at once
        first = self._run(crops[:half])
        # On a busy machine the helper may not even have been woken by now.
        second = self._run(crops[half:]) if helped.cancel() else helped.result()
        xy, sigma, presence = map(np.concatenate, zip(first, second, strict=True))
        return xy, sigma, presence

    def _run(self, crops: U8) -> tuple[F32, F32, F32]:
        try:
            xy, sigma, presence = self._session.run(_OUTPUTS, {"crops": np.ascontiguousarray(crops)})
        except _ERRORS as error:
            raise LivemarksError(f"ONNX Runtime cannot run this net: {_one_line(error)}") from error
        return xy, sigma, presence

    def close(self) -> None:
        """Ends the helping thread; others that share the net go on without it. The last reference frees the session."""
        if self._helper is not None:
            self._helper.shutdown()
            self._helper = None


def _check_input(session: onnxruntime.InferenceSession, path: Path, card: Card) -> None:
    """Raises LivemarksError unless the graph takes crops of the size on its card, and gives what the contract names."""
    inputs = {value.name: (value.type, value.shape[1:]) for value in session.get_inputs()}
    want = {"crops": ("tensor(uint8)", [*card.size_hw, 3])}
    if inputs != want:
        raise LivemarksError(f"{path} takes {inputs}, but its card means {want}: no model of ours")
    if missing := set(_OUTPUTS) - {value.name for value in session.get_outputs()}:
        raise LivemarksError(f"{path} has no output {', '.join(sorted(missing))}: no model of ours")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
