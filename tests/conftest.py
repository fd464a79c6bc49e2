"""What every test gets: a watch on threads, real face pixels, and nets that need no training."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from livemarks.types import F32, U8, Card

# How long a thread that was told to end may take before it counts as left behind.
_GRACE_S = 2.0

# The face of data.astronaut() (512x512): the tight box of its 68 landmarks, read off by eye.
ASTRONAUT_XYXY = (180.0, 85.0, 265.0, 185.0)


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fails a test that leaves a Python thread behind."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + _GRACE_S
    for thread in set(threading.enumerate()) - before:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    assert not left, f"threads left behind: {left}"


@pytest.fixture(autouse=True)
def gpu_or_reason(request: pytest.FixtureRequest) -> None:
    """Skips `gpu` tests where there is no CUDA device, and fails them where one was promised."""
    if request.node.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        assert os.environ.get("LIVEMARKS_REQUIRE_CUDA") != "1", (
            "LIVEMARKS_REQUIRE_CUDA=1, but torch sees no CUDA device"
        )
        pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def astronaut() -> U8:
    """(512, 512, 3) BGR: NASA's portrait of Eileen Collins, public domain. Its face spans ASTRONAUT_XYXY."""
    import skimage.data

    photo: Any = skimage.data
    image: U8 = np.ascontiguousarray(photo.astronaut()[:, :, ::-1])
    image.flags.writeable = False
    return image


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the labelled data sets. A `data` test without it fails: it was asked for by name."""
    folder = os.environ.get("LIVEMARKS_DATA", "")
    assert folder, "set LIVEMARKS_DATA to the folder of the data sets"
    return Path(folder)


def still_points() -> F32:
    """(68, 2) in fractions of an upright crop: a plain face that spans its middle, in the iBUG order."""

    def arc(cx: float, cy: float, rx: float, ry: float, first_deg: float, last_deg: float, n: int) -> F32:
        angle = np.radians(np.linspace(first_deg, last_deg, n))
        return np.column_stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)]).astype(np.float32)

    def ring(cx: float, cy: float, rx: float, ry: float, n: int) -> F32:
        return arc(cx, cy, rx, ry, 180, 540 - 360 / n, n)

    points = np.concatenate(
        [
            arc(0.5, 0.4, 0.27, 0.36, 180, 0, 17),  # jaw
            arc(0.37, 0.36, 0.09, 0.06, 190, 350, 5),  # the subject's right brow, on the left
            arc(0.63, 0.36, 0.09, 0.06, 190, 350, 5),
            np.column_stack([np.full(4, 0.5), np.linspace(0.4, 0.54, 4)]).astype(np.float32),  # bridge
            arc(0.5, 0.56, 0.05, 0.02, 180, 0, 5),  # nostrils
            ring(0.38, 0.42, 0.05, 0.02, 6),
            ring(0.62, 0.42, 0.05, 0.02, 6),
            ring(0.5, 0.66, 0.09, 0.045, 12),
            ring(0.5, 0.66, 0.07, 0.015, 8),
        ]
    )
    return np.asarray(points + 0.5 - (points.min(axis=0) + points.max(axis=0)) / 2, np.float32)


@pytest.fixture(scope="session")
def still_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes model files whose net answers with the same points for every crop, so that tests need no training.

    They span just what the card's margin says, so a face that is followed by them keeps its box.

    still_model(name="still-68", size_hw=(64, 64), presence=1.0) -> path of an ONNX file with its card.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def make(name: str = "still-68", size_hw: tuple[int, int] = (64, 64), presence: float = 1.0) -> Path:
        height, width = size_hw
        points = still_points()
        xy = points * np.array([width, height], np.float32) - np.float32(0.5)
        constants = {
            "xy1": xy[None],
            "sigma1": np.full((1, 68), 0.5, np.float32),
            "presence1": np.full((1,), presence, np.float32),
            "tail_xy": np.array([1, 1], np.int64),
            "tail_sigma": np.array([1], np.int64),
        }
        nodes = [
            helper.make_node("Shape", ["crops"], ["batch"], start=0, end=1),  # (1,), B
            helper.make_node("Concat", ["batch", "tail_xy"], ["times_xy"], axis=0),
            helper.make_node("Concat", ["batch", "tail_sigma"], ["times_sigma"], axis=0),
            helper.make_node("Tile", ["xy1", "times_xy"], ["xy"]),
            helper.make_node("Tile", ["sigma1", "times_sigma"], ["sigma"]),
            helper.make_node("Tile", ["presence1", "batch"], ["presence"]),
        ]
        graph = helper.make_graph(
            nodes,
            "still",
            [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["B", height, width, 3])],
            [
                helper.make_tensor_value_info("xy", TensorProto.FLOAT, ["B", 68, 2]),
                helper.make_tensor_value_info("sigma", TensorProto.FLOAT, ["B", 68]),
                helper.make_tensor_value_info("presence", TensorProto.FLOAT, ["B"]),
            ],
            [numpy_helper.from_array(value, key) for key, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        card = Card(name, "still", "ibug68", size_hw, margin=float(1 / np.ptp(points, axis=0).max()), terms="none")
        entry = model.metadata_props.add()
        entry.key, entry.value = "livemarks.card", json.dumps(asdict(card))
        onnx.checker.check_model(model)
        path = tmp_path_factory.mktemp("weights") / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return make
