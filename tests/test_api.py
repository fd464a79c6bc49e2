"""Plain words in, the right plug-ins out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import livemarks
from livemarks import api, cli, plugins
from livemarks.types import F32, U8, LivemarksError, SourceInfo


@pytest.mark.parametrize(
    ("spec", "plugin"),
    [
        (0, "camera"),
        ("1", "camera"),
        ("rtsp://somewhere/stream", "camera"),
        ("/dev/video2", "camera"),
        ("/dev/v4l/by-id/usb-cam-video-index0", "camera"),
        ("x" * 300 + ".mp4", "video"),
        ("clip.mp4", "video"),
        (Path("clip.MOV"), "video"),
        ("-", "video"),
        ("photo.JPG", "images"),
        ("frames/*.png", "images"),
        (Path(__file__).parent, "images"),
    ],
)
def test_open_source_knows_what_is_meant(spec: Any, plugin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(plugins, "load", lambda kind, name: lambda *_, **__: opened.append(f"{kind} {name}"))
    api.open_source(spec)
    assert opened == [f"sources {plugin}"]


@pytest.mark.parametrize(
    ("spec", "live", "plugin", "name"),
    [
        ("2024", False, "images", "./2024"),
        (Path("2024"), False, "images", "./2024"),
        (Path("7"), False, "video", "./7"),
        (Path("7"), True, "camera", "./7"),
        ("7", False, "video", "./7"),
        ("7", True, "camera", "7"),  # or `livemarks webcam` would not find camera 0 beside a file "0"
        (2024, False, "camera", "2024"),
        ("8", False, "camera", "8"),
    ],
)
def test_what_exists_is_no_camera_number(
    spec: Any, live: bool, plugin: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("2024").mkdir()
    Path("7").touch()
    opened: list[tuple[str, Any]] = []
    monkeypatch.setattr(plugins, "load", lambda _, name: lambda spec, **__: opened.append((name, spec)))
    api.open_source(spec, live=live)
    name = name.replace("/", os.sep)
    assert opened == [(plugin, [name] if plugin == "images" else name)]


NAN, INF = float("nan"), float("inf")


def refuse_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(kind: str, name: str) -> Any:
        raise AssertionError(f"{kind} {name} was asked for")

    monkeypatch.setattr(plugins, "load", load)


@pytest.mark.parametrize(
    ("opens", "option", "values"),
    [
        (partial(api.open_source, 0), "size_wh", ((0, 480), (640, -1), (NAN, 480), (640.5, 480), (640,), 640)),
        (partial(api.open_source, 0), "fps", (0, -30, NAN, INF, "30")),
        (api.open_net, "threads", (0, -1, 257, 10**30, 1.5, NAN, "2")),
        (api.open_tracker, "threads", (0, -1, 257, 10**30, 1.5, NAN, "2")),
        (api.open_tracker, "faces", (1.5, NAN, "1", None)),
        (api.open_tracker, "extrapolate_s", (-0.1, 1.01, 50.0, NAN, INF, None, "0.1")),
        (api.open_tracker, "rest_s", (-0.1, NAN, INF, None, "x")),
        (api.open_tracker, "model", (None, 68)),
        (api.open_net, "model", (None, 68)),
    ],
)
def test_impossible_wishes_are_refused_before_anything_is_opened(
    opens: Callable[..., Any], option: str, values: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_load(monkeypatch)
    for value in values:
        with pytest.raises(LivemarksError, match=f"^{option} must be .*, not .*$"):
            opens(**{option: value})


def test_looking_ahead_needs_smoothing(
    monkeypatch: pytest.MonkeyPatch, still_model: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--smooth", "off", "--extrapolate", "50", "--headless", "--backend", "onnx"]
    assert cli.main(["webcam", "--camera", "/nowhere", "--model", str(still_model()), *arguments]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "extrapolation needs smoothing" in err
    refuse_to_load(monkeypatch)
    with pytest.raises(LivemarksError, match=r"^extrapolation needs smoothing"):
        api.open_tracker(smooth="off", extrapolate_s=0.05)


def test_open_source_plays_a_file_live_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[Any, ...]] = []
    monkeypatch.setattr(plugins, "load", lambda _, name: lambda spec, **options: opened.append((name, spec, options)))
    wishes: dict[str, Any] = {"size_wh": [np.int32(640), 480], "fps": Fraction(60)}
    api.open_source("clip.mp4", live=True, camera_api="v4l2", **wishes)
    assert opened == [("camera", "clip.mp4", {"size_wh": (640, 480), "fps": 60, "api": "v4l2"})]
    assert type(opened[0][2]["fps"]) is float
    assert [type(side) for side in opened[0][2]["size_wh"]] == [int, int]


class FakeRunner:
    def __init__(self, label: str) -> None:
        self.label = label

    def __call__(self, crops: U8) -> tuple[F32, F32, F32]:
        n = len(crops)
        return np.zeros((n, 68, 2), np.float32), np.ones((n, 68), np.float32), np.ones(n, np.float32)

    def close(self) -> None: ...


def backends(monkeypatch: pytest.MonkeyPatch, **answers: str | Exception | None) -> None:
    """Replaces the backends: each answers with a runner, or fails with a reason."""
    real = plugins.load

    def load(kind: str, name: str) -> Any:
        if kind != "backends":
            return real(kind, name)

        def answer(*_: Any, **__: Any) -> FakeRunner:
            reason = answers[name]
            if isinstance(reason, Exception):
                raise reason
            if reason is not None:
                raise LivemarksError(reason)
            return FakeRunner(name)

        return answer

    monkeypatch.setattr(plugins, "load", load)


def test_auto_falls_back_and_says_why(
    monkeypatch: pytest.MonkeyPatch, still_model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    backends(monkeypatch, tensorrt="not installed", cudagraph="no CUDA device", onnx=None)
    monkeypatch.setattr(api, "_has_nvidia_driver", lambda: True)
    with caplog.at_level("INFO"):
        label = api.open_net(still_model()).runner.label
    assert label == "onnx (tensorrt: not installed; cudagraph: no CUDA device)"
    assert len(caplog.records) == 1


def test_auto_falls_back_from_a_broken_library_and_a_gpu_that_fails(
    monkeypatch: pytest.MonkeyPatch, still_model: Any
) -> None:
    backends(
        monkeypatch,
        tensorrt=OSError("libcudnn.so.9: cannot open shared object file"),
        cudagraph=RuntimeError("CUDA error: no kernel image is available\nCUDA kernel errors might be"),
        onnx=None,
    )
    monkeypatch.setattr(api, "_has_nvidia_driver", lambda: True)
    label = api.open_net(still_model()).runner.label
    assert label.startswith("onnx (tensorrt: backend tensorrt can't be used: libcudnn.so.9: cannot open")
    assert label.endswith("CUDA error: no kernel image is available)")
    with pytest.raises(LivemarksError, match=r"^backend cudagraph can't be used: CUDA error: .* available$"):
        api.open_net(still_model(), backend="cudagraph")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may look everywhere")
def test_a_folder_that_may_not_be_looked_into_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    for opens, name in (
        (api.open_source, "locked"),
        (api.open_source, "locked/x.mp4"),
        (api.open_net, "locked/x.onnx"),
    ):
        with pytest.raises(LivemarksError):
            opens(str(tmp_path / name))


def test_names_too_long_for_a_file_are_one_line() -> None:
    with pytest.raises(LivemarksError, match="no model is called"):
        api.open_net("x" * 300 + ".onnx")
    with pytest.raises(LivemarksError):
        api.open_source("x" * 300 + ".mp4")


def test_auto_without_an_nvidia_gpu_is_onnx_without_a_word(
    monkeypatch: pytest.MonkeyPatch, still_model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    backends(monkeypatch, tensorrt="must not be asked", cudagraph="must not be asked", onnx=None)
    monkeypatch.setattr(api, "_has_nvidia_driver", lambda: False)
    assert api.open_net(still_model()).runner.label == "onnx"
    monkeypatch.setattr(api, "_has_nvidia_driver", lambda: True)
    assert api.open_net(still_model(), device="cpu").runner.label == "onnx"
    assert not caplog.records


def test_a_backend_asked_for_by_name_is_not_replaced(monkeypatch: pytest.MonkeyPatch, still_model: Any) -> None:
    backends(monkeypatch, tensorrt="not installed", onnx=None)
    with pytest.raises(LivemarksError, match=r"^not installed$"):
        api.open_net(still_model(), backend="tensorrt")


def test_when_nothing_works_every_reason_is_told(monkeypatch: pytest.MonkeyPatch, still_model: Any) -> None:
    backends(monkeypatch, tensorrt="reason 1", cudagraph="reason 2", onnx="reason 3")
    monkeypatch.setattr(api, "_has_nvidia_driver", lambda: True)
    with pytest.raises(LivemarksError, match="tensorrt: reason 1; cudagraph: reason 2; onnx: reason 3"):
        api.open_net(still_model())


@pytest.mark.parametrize("refused", [{"faces": 99}, {"range": "nonsense"}, {"detector": "nobody"}])
def test_a_tracker_that_is_refused_leaves_no_net_of_its_own_open(
    refused: dict[str, Any], still_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = api.open_net(still_model())
    closed: list[str] = []
    monkeypatch.setattr(net.runner, "close", lambda: closed.append("closed"))
    with pytest.raises(LivemarksError):
        api.open_tracker(net, **refused)
    assert not closed, "its owner may go on with it"
    monkeypatch.setattr(api, "open_net", lambda *_, **__: net)
    with pytest.raises(LivemarksError):
        api.open_tracker("lite-68", **refused)
    assert closed == ["closed"]


@pytest.mark.parametrize("name", ["points.txt", "points", "points.json"])
def test_landmarks_need_a_known_suffix(name: str) -> None:
    nothing: Any = SimpleNamespace()
    with pytest.raises(LivemarksError, match=r"\.jsonl or \.csv"):
        api.open_landmarks(name, nothing, nothing)


def test_landmarks_need_a_path() -> None:
    nothing: Any = SimpleNamespace()
    with pytest.raises(LivemarksError, match="not None"):
        api.open_landmarks(None, nothing, nothing)  # type: ignore[arg-type]


def test_a_name_that_no_file_can_have_is_one_line(still_model: Any) -> None:
    source: Any = SimpleNamespace(info=SourceInfo("fake", None, None, None, live=False))
    for name in ("a\0b.csv", "a\0b.jsonl"):
        with pytest.raises(LivemarksError, match="embedded null"):
            api.open_landmarks(name, source, api.open_net(still_model()))


def test_landmarks_need_a_net_and_no_tracker(still_model: Any) -> None:
    source: Any = SimpleNamespace()
    with closing(api.open_tracker(still_model())) as tracker, pytest.raises(LivemarksError, match=r"^net must be what"):
        api.open_landmarks("points.csv", source, tracker)  # type: ignore[arg-type]


def test_public_names_are_all_there() -> None:
    for name in livemarks.__all__:
        assert name in dir(livemarks)
        assert getattr(livemarks, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        livemarks.nonsense  # noqa: B018


def names_in_readme() -> set[str]:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    names = set(re.findall(r"\blivemarks\.((?:[a-z_]+\.)*\w+)", text))
    return names | set(re.findall(r"^from livemarks import (\w+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", sorted(names_in_readme()))
def test_what_readme_names_is_there_after_the_import(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = name.partition(".")[0]
    monkeypatch.delitem(vars(livemarks), first, raising=False)  # as if nothing had been imported before
    assert first in livemarks.__all__
    assert attrgetter(name)(livemarks).__doc__
