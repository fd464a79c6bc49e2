"""backends: every one answers as eager PyTorch does, keeps the contract, and refuses in one line what it can't run."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import ASTRONAUT_XYXY
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from livemarks import plugins, weights
from livemarks.backends import _common, _cuda, _engines, _torch_net
from livemarks.backends import onnx as onnx_backend
from livemarks.geometry import face_crop
from livemarks.train import recipe
from livemarks.train.export import export
from livemarks.types import F32, U8, Card, FaceBox, LivemarksError, Runner

SIZE_HW = (32, 24)
CARD = Card("tiny-68", "tiny", "ibug68", SIZE_HW, 1.5, options={"width": 4}, terms="none: made in a test")
RECIPES = Path(recipe.__file__).parent / "recipes"
ON_CPU = ("onnx", "torch")  # backends that any developer's machine runs; the others need a CUDA device


class Tiny(nn.Module):
    """The smallest net with a convolution, several parameters and the contract's outputs."""

    def __init__(self, points: int, width: int) -> None:
        super().__init__()
        self.points = points
        self.conv = nn.Conv2d(3, width, 3)
        self.fc = nn.Linear(width, 3 * points + 1)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.relu(self.conv(crops.float().permute(0, 3, 1, 2))).mean(dim=(2, 3))
        out = self.fc(x).float()
        n = self.points
        return out[:, : 2 * n].unflatten(1, (n, 2)), out[:, 2 * n : 3 * n].exp(), out[:, 3 * n].sigmoid()


def build(scheme: Any, size_hw: tuple[int, int], **options: int) -> nn.Module:
    assert size_hw == SIZE_HW
    return Tiny(len(scheme), **options)


def write_model(path: Path, net: Tiny, card: Card, *, height: int | str = SIZE_HW[0], drop: str = "") -> Path:
    """The same net as an ONNX file: PyTorch's names, float16 with a Cast behind. drop: what to leave out."""
    n = net.points
    state = {name: value.numpy() for name, value in net.state_dict().items() if name != drop}
    stored = [numpy_helper.from_array(value.astype(np.float16), name) for name, value in state.items()]
    cuts = {"0": 0, "2n": 2 * n, "3n": 3 * n, "end": 3 * n + 1, "axis": 1}
    stored += [numpy_helper.from_array(np.array([value], np.int64), name) for name, value in cuts.items()]
    stored.append(numpy_helper.from_array(np.array([0, n, 2], np.int64), "points_shape"))
    nodes = [
        *(helper.make_node("Cast", [name], [f"{name}.float32"], to=TensorProto.FLOAT) for name in state),
        helper.make_node("Cast", ["crops"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["pixels"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["pixels", "conv.weight.float32", "conv.bias.float32"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "fc.weight.float32", "fc.bias.float32"], ["e"], transB=1),
        helper.make_node("Slice", ["e", "0", "2n", "axis"], ["flat"]),
        helper.make_node("Reshape", ["flat", "points_shape"], ["xy"]),
        helper.make_node("Slice", ["e", "2n", "3n", "axis"], ["log_sigma"]),
        helper.make_node("Exp", ["log_sigma"], ["sigma"]),
        helper.make_node("Slice", ["e", "3n", "end", "axis"], ["logit"]),
        helper.make_node("Squeeze", ["logit", "axis"], ["flat_logit"]),
        helper.make_node("Sigmoid", ["flat_logit"], ["presence"]),
    ]
    crops = helper.make_tensor_value_info("crops", TensorProto.UINT8, ["B", height, SIZE_HW[1], 3])
    shapes: dict[str, list[str | int | None]] = {"xy": ["B", n, 2], "sigma": ["B", n], "presence": ["B"]}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "tiny", [crops], outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {weights.CARD_KEY: weights.card_to_json(card)})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def net() -> Tiny:
    torch.manual_seed(0)
    net = Tiny(68, 4)
    with torch.no_grad():
        net.conv.weight.mul_(0.1)
        net.fc.weight.mul_(0.2)
        for parameter in net.parameters():
            parameter.copy_(parameter.half().float())  # what the file will hold
    return net.eval().requires_grad_(False)


@pytest.fixture
def model(tmp_path: Path, net: Tiny, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny net's file, while there is an architecture of its name."""
    real = plugins.load
    monkeypatch.setattr(
        plugins, "load", lambda kind, name: build if (kind, name) == ("models", "tiny") else real(kind, name)
    )
    return write_model(tmp_path / "tiny-68.onnx", net, CARD)


def crops(batch: int, size_hw: tuple[int, int] = SIZE_HW) -> U8:
    return np.random.default_rng(batch).integers(0, 256, (batch, *size_hw, 3), np.uint8)


def load(name: str, path: Path, card: Card = CARD, /, **options: Any) -> Runner:
    runner: Runner = plugins.load("backends", name)(path, card, **options)
    return runner


def assert_same(got: tuple[F32, F32, F32], want: tuple[F32, F32, F32], within_px: float) -> None:
    for mine, others in zip(got, want, strict=True):
        assert mine.dtype == np.float32
        assert mine.shape == others.shape
        assert np.abs(mine - others).max() <= within_px


# --- The contract, on every backend that runs here --------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file systems know no such names")
@pytest.mark.parametrize("name", ON_CPU)
def test_a_file_may_be_called_anything(name: str, model: Path) -> None:
    runner = load(name, model.rename(model.with_name(os.fsdecode(b"\xff.onnx"))), threads=1)
    assert runner(crops(1))[0].shape == (1, 68, 2)


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("batch", [1, 3, 9])
def test_answers_as_the_net_itself(name: str, batch: int, model: Path, net: Tiny) -> None:
    runner = load(name, model, threads=1)
    assert isinstance(runner, Runner)
    assert runner.label.startswith(f"{name} (")
    want = tuple(value.numpy() for value in net(torch.from_numpy(crops(batch))))
    assert_same(runner(crops(batch)), want, 1e-3)
    assert_same(runner(crops(batch)), want, 1e-3)  # and again: nothing is left over from the first time
    runner.close()


@pytest.mark.parametrize("name", ON_CPU)
def test_pixels_may_lie_anyhow_and_be_read_only(name: str, model: Path) -> None:
    runner = load(name, model, threads=1)
    wide = np.repeat(crops(2), 2, axis=2)[:, :, ::2]
    wide.flags.writeable = False
    assert_same(runner(wide), runner(crops(2)), 0.0)


def real_crops(image: U8, card: Card, batch: int) -> U8:
    """A real face, cut a little differently each time."""
    rng = np.random.default_rng(0)
    boxes = (np.array(ASTRONAUT_XYXY) + rng.uniform(-8, 8, 4) for _ in range(batch))
    rolls = rng.uniform(-0.4, 0.4, batch)
    cut = (FaceBox(xyxy.astype(np.float32), 1.0, roll) for xyxy, roll in zip(boxes, rolls.tolist(), strict=True))
    return np.stack([face_crop(image, box, card.size_hw, card.margin).image for box in cut])


@pytest.mark.parametrize("name", weights.names())
def test_shipped_nets_are_the_same_in_pytorch(name: str, astronaut: U8) -> None:
    path = weights.find(name)
    card = weights.read_card(path)
    faces = real_crops(astronaut, card, 3)
    exact, other = load("torch", path, card, threads=1), load("onnx", path, card, threads=1)
    assert_same(other(faces), exact(faces), 0.05 * card.size_hw[0] / 128)


@pytest.mark.parametrize("name", weights.names())
def test_half_precision_costs_no_accuracy(name: str, astronaut: U8) -> None:
    """What CUDA backends compute in float16, here on the CPU, which can do it, if slowly."""
    path = weights.find(name)
    card = weights.read_card(path)
    faces = real_crops(astronaut, card, 3)
    net = _torch_net.halve(_torch_net.open_net(path, card))
    xy, sigma, presence = (value.numpy() for value in net(torch.from_numpy(faces)))
    want = load("torch", path, card, threads=1)(faces)
    assert_same((xy, *want[1:]), want, 0.25 * card.size_hw[0] / 128)
    assert_same((want[0], sigma, presence), want, 0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", sorted(set(plugins.names("backends")) - {"onnx"}))
@pytest.mark.parametrize("model_name", weights.names())
def test_parity_on_cuda(name: str, precision: str, model_name: str, astronaut: U8) -> None:
    if name == "tensorrt" and importlib.util.find_spec("torch_tensorrt") is None:
        assert os.environ.get("LIVEMARKS_REQUIRE_CUDA") != "1"
        pytest.skip("torch_tensorrt is not installed")
    path = weights.find(model_name)
    card = weights.read_card(path)
    yardstick = load("torch", path, card, device="cpu")
    runner = load(name, path, card, device="cuda", precision=precision)
    within_px = {"fp32": 0.05, "fp16": 0.25}[precision] * card.size_hw[0] / 128
    for batch in (1, 2, 3, 8, 11):
        faces = real_crops(astronaut, card, batch)
        got, want = runner(faces), yardstick(faces)
        assert np.abs(got[0] - want[0]).max() <= within_px
        assert_same(got[1:], want[1:], 0.25)  # type: ignore[arg-type]
    runner.close()


# --- What can't be run is said in one line ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", plugins.names("backends"))
@pytest.mark.parametrize("option", ["device", "precision"])
def test_unknown_option_is_refused(name: str, option: str, model: Path) -> None:
    absent = (name, option) == ("tensorrt", "device") and importlib.util.find_spec("torch_tensorrt") is None
    with pytest.raises(LivemarksError, match="not installed" if absent else "abacus"):
        load(name, model, CARD, **{option: "abacus"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", ["cudagraph", "tensorrt"])
def test_without_cuda_the_reason_is_named(name: str, model: Path) -> None:
    with pytest.raises(LivemarksError, match=r"no CUDA device|not installed: pip install"):
        load(name, model)


@pytest.mark.parametrize("name", [*ON_CPU, "cudagraph"])
def test_without_pytorch_the_extra_is_named(name: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    if name == "onnx":
        load(name, model)
        return
    with pytest.raises(LivemarksError, match=r"pip install 'livemarks\[train\]'"):
        load(name, model)


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08\x08" + bytes(100)])
def test_garbage_is_refused_quietly(name: str, content: bytes, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model.write_bytes(content)
    with pytest.raises(LivemarksError, match="tiny-68"):
        load(name, model)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ON_CPU)
def test_card_of_another_scheme_is_refused(name: str, model: Path) -> None:
    with pytest.raises(LivemarksError):
        load(name, model, dataclasses.replace(CARD, scheme="kaggle15"))
    with pytest.raises(LivemarksError, match="there are: "):
        load(name, model, dataclasses.replace(CARD, scheme="none"))


def test_graph_of_another_size_is_refused(model: Path, net: Tiny) -> None:
    with pytest.raises(LivemarksError, match="its card means"):
        load("onnx", model, dataclasses.replace(CARD, size_hw=(64, 64)))
    with pytest.raises(LivemarksError, match="its card means"):
        load("onnx", write_model(model, net, CARD, height="H"))


def test_other_peoples_onnx_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "r.onnx")
    with pytest.raises(LivemarksError, match="no model of ours"):
        load("onnx", tmp_path / "r.onnx")


def test_absent_parameter_is_named(model: Path, net: Tiny) -> None:
    with pytest.raises(LivemarksError, match=r"fc\.bias"):
        load("torch", write_model(model, net, CARD, drop="fc.bias"))


@pytest.mark.parametrize("options", [{"width": 5}, {"width": 10**5}, {"width": -1}, {"depth": 3}, {"width": "wide"}])
def test_card_that_claims_another_net_is_refused(model: Path, options: dict[str, Any]) -> None:
    """Also one so large that building it would fill the memory: nothing is taken before the file shows it has it."""
    with pytest.raises(LivemarksError, match="tiny-68"):
        load("torch", model, dataclasses.replace(CARD, options=options))


def test_oversized_file_is_not_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_common, "_MAX_FILE_BYTES", 1000)
    for name in ON_CPU:
        with pytest.raises(LivemarksError, match="right file"):
            load(name, model)


def test_threads_are_asked_for_and_named(model: Path) -> None:
    assert load("onnx", model, threads=1).label == "onnx (cpu, 1 thread)"
    assert load("onnx", model, threads=2).label == "onnx (cpu, 2 threads)"


@pytest.mark.parametrize("cores", [1, 2])
def test_halves_of_a_batch_are_the_batch(cores: int, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_backend, "_cores", lambda: cores)
    runner, alone = load("onnx", model), load("onnx", model, threads=1)
    assert runner.label == "onnx (cpu, 1 thread)"
    for batch, helped in ((1, False), (2, cores == 2), (5, cores == 2)):
        assert_same(runner(crops(batch)), alone(crops(batch)), 1e-4)
        assert helped == any("livemarks-net" in thread.name for thread in threading.enumerate())
    runner.close()
    alone.close()


def test_a_net_goes_on_after_one_of_its_sharers_closed_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_backend, "_cores", lambda: 2)
    runner = load("onnx", model)
    before = runner(crops(5))
    runner.close()
    assert_same(runner(crops(5)), before, 1e-4)
    runner.close()


def test_a_helper_that_does_not_come_is_not_waited_for(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_backend, "_cores", lambda: 2)
    runner: Any = load("onnx", model)
    is_free = threading.Event()
    runner._helper.submit(is_free.wait)
    got = runner(crops(5))
    is_free.set()
    assert_same(got, runner(crops(5)), 1e-4)
    runner.close()


def test_nets_of_much_arithmetic_get_a_second_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = {name: weights.read_card(weights.find(name)) for name in weights.names()}
    assert all(card.gflop > 0 for card in cards.values())
    large = {"heatmap-68", "resnet18-68", "resnet18-68-modern"}
    for cores, want in ((1, 1), (2, 2), (64, 2)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        for name, card in cards.items():
            assert onnx_backend.default_threads(card) == (want if name in large else 1), name
    assert onnx_backend.default_threads(dataclasses.replace(cards["heatmap-68"], gflop=0.0)) == 1


# --- Fixed batch sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", range(1, 20))
def test_any_batch_is_split_and_padded(batch: int) -> None:
    made: list[int] = []
    asked: list[int] = []

    def make(size: int) -> Callable[[U8], F32]:
        made.append(size)

        def part(crops: U8) -> F32:
            assert crops.shape == (size, *SIZE_HW, 3)
            asked.append(size)
            first = crops[:, 0, 0, 0].astype(np.float32)
            return np.asarray(first[:, None] + np.arange(7), np.float32)  # two points: x y x y, sigma sigma, presence

        return part

    runner = _cuda.Batched("fake", CARD, make)
    faces = crops(batch)
    first = faces[:, 0, 0, 0].astype(np.float32)
    for _ in range(2):
        xy, sigma, presence = runner(faces)
        np.testing.assert_array_equal(xy, first[:, None, None] + np.array([[0, 1], [2, 3]], np.float32))
        np.testing.assert_array_equal(sigma, first[:, None] + np.array([4, 5], np.float32))
        np.testing.assert_array_equal(presence, first + 6)
    assert len(made) == len(set(made)) == len(set(asked))
    assert sum(asked) // 2 - batch < 4  # the padding of one part at most


def test_parts_are_made_by_the_thread_that_runs_them() -> None:
    threads: list[int] = []

    def make(size: int) -> Callable[[U8], F32]:
        threads.append(threading.get_ident())
        return lambda _: np.zeros((size, 4), np.float32)

    runner = _cuda.Batched("fake", CARD, make)
    thread = threading.Thread(target=lambda: runner(crops(1)))
    thread.start()
    thread.join()
    assert threads == [thread.ident]


# --- Engines on disk --------------------------------------------------------------------------------------------------


class Forge:
    """Builds and loads engines that are text, and counts."""

    def __init__(self) -> None:
        self.built = 0
        self.refuse = 0

    def build(self, to: Path) -> None:
        self.built += 1
        to.write_text(f"engine {self.built}")

    def load(self, file: Path) -> str:
        if self.refuse:
            self.refuse -= 1
            raise RuntimeError("made for another device")
        return file.read_text()


def test_engine_is_built_once(tmp_path: Path) -> None:
    forge, file = Forge(), tmp_path / "new" / "a.ep"
    assert [_engines.load_or_build(file, forge.load, forge.build) for _ in range(3)] == ["engine 1"] * 3
    assert sorted(path.name for path in file.parent.iterdir()) == ["a.ep", "a.ep.sha256"]


@pytest.mark.parametrize("harm", ["cut", "changed", "sum lost", "sum is no text", "refused"])
def test_broken_engine_is_built_again(tmp_path: Path, harm: str) -> None:
    forge, file = Forge(), tmp_path / "a.ep"
    _engines.load_or_build(file, forge.load, forge.build)
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:3])
    elif harm == "changed":
        file.write_text("engine 9")
    elif harm == "sum lost":
        (tmp_path / "a.ep.sha256").unlink()
    elif harm == "sum is no text":
        (tmp_path / "a.ep.sha256").write_bytes(b"\xff\xff")
    else:
        forge.refuse = 1
    assert _engines.load_or_build(file, forge.load, forge.build) == "engine 2"
    assert _engines.load_or_build(file, forge.load, forge.build) == "engine 2"


@pytest.mark.parametrize("when", ["before", "after"])
def test_two_programs_may_build_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """One works from beginning to end just before, or after, the other puts its engine in place."""
    forge, file, replace = Forge(), tmp_path / "a.ep", os.replace

    def meanwhile(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        if when == "after":
            replace(source, target)
        _engines.load_or_build(file, forge.load, forge.build)
        if when == "before":
            replace(source, target)

    monkeypatch.setattr(os, "replace", meanwhile)
    engine = _engines.load_or_build(file, forge.load, forge.build)
    assert _engines.load_or_build(file, forge.load, forge.build) == engine
    assert forge.built == (1 if when == "after" else 2), "an engine in its place was not whole"


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(to: Path) -> None:
        to.write_text("half")
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        _engines.load_or_build(tmp_path / "a.ep", Forge().load, fail)
    assert list(tmp_path.iterdir()) == []


def test_engine_key_tells_everything_apart() -> None:
    parts: tuple[object, ...] = ("sha", (1, 2), "fp16", ("2.13", "11.0"), ("H100", (9, 0)))
    keys = {_engines.key(*parts)} | {_engines.key(*parts[:i], "other", *parts[i + 1 :]) for i in range(len(parts))}
    assert len(keys) == len(parts) + 1
    assert _engines.key(*parts) == _engines.key(*parts)


def test_cache_folder_follows_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert _engines.folder() == tmp_path / "livemarks"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(LivemarksError, match="no home folder"):
        _engines.folder()


# --- Every architecture -----------------------------------------------------------------------------------------------


def test_very_many_numbers_are_stored_as_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"channels": [4], "kernels": [3], "pools": [True], "dense": [800]}
    net = plugins.load("models", "convnet")(plugins.load("schemes", "kaggle15"), size_hw=(24, 24), **options).eval()
    with torch.no_grad():
        net.classifier[0].weight[::2].mul_(100)  # a scale a channel: the small ones lose nothing by it
        net.classifier[0].weight[5] = 0
    card = Card("big", "convnet", "kaggle15", (24, 24), 1.2, options=options)
    path = tmp_path / "big.onnx"
    export(net, card, path)
    assert 800 * 484 < path.stat().st_size < 1.2 * 800 * 484
    faces = crops(2, (24, 24))
    exact, other = load("torch", path, card, threads=1), load("onnx", path, card, threads=1)
    assert_same(other(faces), exact(faces), 0.01)
    kept: Any = _torch_net.open_net(path, card)
    want, got = net.classifier[0].weight, kept.classifier[0].weight
    assert ((got - want).abs() <= want.abs().amax(dim=1, keepdim=True) / 127 * 0.501).all()


def test_a_sigma_whose_factor_is_lost_is_refused(model: Path) -> None:
    damaged = onnx.load(model)
    damaged.graph.node.append(helper.make_node("Mul", ["log_sigma", "log_sigma"], ["sigma"]))
    onnx.save(damaged, model)
    with pytest.raises(LivemarksError, match="damaged"):
        load("torch", model)


@pytest.mark.parametrize("data_type", [*range(30), 1000])  # those of ONNX, and some that are none
def test_a_parameter_of_another_type_loads_or_is_refused(model: Path, data_type: int) -> None:
    damaged = onnx.load(model)
    damaged.graph.initializer[0].data_type = data_type
    onnx.save(damaged, model)
    with contextlib.suppress(LivemarksError):
        load("torch", model)


def test_a_scale_of_another_shape_is_refused(model: Path) -> None:
    damaged = onnx.load(model)
    for name in ("fc.weight.int8_scale", "nobody.int8_scale"):
        damaged.graph.initializer.append(numpy_helper.from_array(np.ones((1000, 1, 1), np.float32), name))
    onnx.save(damaged, model)
    with pytest.raises(LivemarksError, match="damaged"):
        load("torch", model, CARD)


@pytest.mark.slow
@pytest.mark.parametrize("recipe_name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_every_net_survives_the_way_through_its_file(recipe_name: str, tmp_path: Path) -> None:
    """Trained or not: normalisations that do something, and what was calibrated, come back out of the file."""
    made = recipe.load(recipe_name)
    torch.manual_seed(0)
    scheme = plugins.load("schemes", made.scheme)
    net = plugins.load("models", made.architecture)(scheme, size_hw=made.size_hw, **made.options).eval()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.dtype == torch.float32:  # no two alike: the exporter keeps one of two that are
                value.add_(torch.empty_like(value).uniform_(-0.01, 0.01))
        net.sigma_scale.fill_(1.3)
        net.offset.copy_(torch.tensor([0.7, -0.4]))
    card = Card(recipe_name, made.architecture, made.scheme, made.size_hw, made.margin, options=dict(made.options))
    path = tmp_path / f"{recipe_name}.onnx"
    export(net, card, path)
    card = weights.read_card(path)
    faces = crops(2, card.size_hw)
    exact, other = load("torch", path, card, threads=1), load("onnx", path, card, threads=1)
    tolerance_px = 0.05 * card.size_hw[0] / 128
    if card.architecture == "fcn-resnet50":  # which 25 cells are highest is a toss-up in a net that knows nothing
        off = np.abs(other(faces)[0] - exact(faces)[0])
        assert np.median(off) <= tolerance_px
        return
    assert_same(other(faces), exact(faces), tolerance_px)
    with torch.inference_mode():
        unrounded = tuple(value.numpy() for value in net(torch.from_numpy(faces)))
    assert_same(exact(faces), unrounded, 0.5)  # weights were rounded to float16
