"""The window's keys and pictures, on a made-up screen; then a real window, where there is a display or Xvfb."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import FakeSource, FakeTime, FakeTracker
from fakes import picture as noise

from livemarks.pipeline import Idler, run
from livemarks.sinks.window import Sink, no_display
from livemarks.types import U8, Frame, LivemarksError, Result, Stop, Tally


def picture(seed: int) -> U8:
    """Noise that leaves room for a line of text."""
    return noise(seed, (160, 120))


RESULT = Result(Frame(picture(0), 0, 0.0), (), {})


class FakeScreen:
    """Stands for cv2's windows. `keys` are pressed one a call of pollKey; `shown` lists the pictures."""

    def __init__(self, keys: str = "") -> None:
        self.shown: list[U8] = []
        self.keys = list(keys)
        self.visible = 0.0
        self.size_wh = (0, 0)
        self.opened = 0
        self.like_qt = False

    def namedWindow(self, _title: str, flags: int) -> None:
        assert flags & cv2.WINDOW_GUI_NORMAL
        self.visible = 1.0
        self.opened += 1

    def resizeWindow(self, _title: str, width: int, height: int) -> None:
        self.size_wh = (width, height)

    def imshow(self, _title: str, image: U8) -> None:
        assert self.visible
        self.shown.append(image.copy())

    def pollKey(self) -> int:
        key = self.keys.pop(0) if self.keys else ""
        return ord(key) if key.strip("-") else -1

    def getWindowProperty(self, _title: str, _prop: int) -> float:
        if not self.visible and self.like_qt:
            raise cv2.error("NULL guiReceiver")
        return self.visible

    def destroyWindow(self, _title: str) -> None:
        assert self.visible
        self.visible = 0.0


def count(image: U8, tally: Tally) -> U8:
    """A head-up display: the number of frames in the first pixel."""
    image = image.copy()
    image[0, 0] = tally.processed
    return image


def sink_on(screen: FakeScreen, **options: object) -> Sink:
    return Sink("title", hud=count, gui=screen, **options)  # type: ignore[arg-type]


def show(sink: Sink, seeds: range) -> None:
    for seed in seeds:
        sink.write(RESULT, picture(seed) if sink.wants_pixels else None, Tally(processed=seed))


@pytest.mark.parametrize("key", ["q", "Q", "\x1b"])
def test_quits_by_key_and_closes_its_window(key: str) -> None:
    screen = FakeScreen(f"--{key}")
    sink = sink_on(screen)
    with pytest.raises(Stop):
        show(sink, range(10))
    assert len(screen.shown) == 3
    assert screen.visible == 1.0
    sink.close()
    assert screen.visible == 0.0


@pytest.mark.parametrize("like_qt", [False, True])
def test_closing_the_window_quits_and_does_not_open_it_again(like_qt: bool) -> None:
    screen = FakeScreen()
    screen.like_qt = like_qt
    sink = sink_on(screen)
    show(sink, range(2))
    screen.visible = 0.0
    with pytest.raises(Stop):
        show(sink, range(2))
    sink.close()
    assert (screen.opened, len(screen.shown)) == (1, 2)


def test_opens_nothing_without_a_frame() -> None:
    screen = FakeScreen()
    sink = sink_on(screen)
    sink.idle(Tally())
    sink.close()
    assert screen.opened == 0


def test_a_big_picture_starts_in_a_window_that_fits() -> None:
    screen = FakeScreen()
    sink_on(screen).write(RESULT, np.zeros((2160, 3840, 3), np.uint8), Tally())
    assert screen.size_wh == (1280, 720)
    sink_on(screen).write(RESULT, np.zeros((1280, 720, 3), np.uint8), Tally())
    assert screen.size_wh == (405, 720)


def test_mirrors_the_picture_but_not_the_display() -> None:
    screen = FakeScreen("-h")
    sink = sink_on(screen, mirror=True)
    show(sink, range(7, 10))
    assert screen.shown[0][0, 0].tolist() == [7, 7, 7]  # top left, where people read
    assert (screen.shown[0][1:] == picture(7)[1:, ::-1]).all()
    assert (screen.shown[2] == picture(9)[:, ::-1]).all()  # h hides the display


def test_freeze_keeps_the_picture_says_so_and_goes_on() -> None:
    screen = FakeScreen("- -- -")
    sink = sink_on(screen)
    show(sink, range(1, 6))  # frozen by the second picture's key, and let go by the fifth's
    frozen = screen.shown[2]
    assert (frozen[1:60] == picture(2)[1:60]).all()
    assert (frozen != count(picture(2), Tally(processed=3))).any()  # FROZEN is written on it
    assert [shown[0, 0, 0] for shown in screen.shown] == [1, 2, 3, 4, 5]  # the display lives on
    assert sink.wants_pixels
    show(sink, range(6, 7))
    assert (screen.shown[5] == count(picture(6), Tally(processed=6))).all()


def test_no_drawing_for_a_frozen_window() -> None:
    drawn: list[int] = []

    def draw(result: Result) -> U8:
        drawn.append(result.frame.index)
        return result.frame.image

    screen = FakeScreen("- ")
    run(FakeSource(10), FakeTracker(), [sink_on(screen)], draw=draw)
    assert drawn == [0, 1]
    assert len(screen.shown) == 10


def test_the_given_picture_is_never_drawn_on() -> None:
    screen = FakeScreen(" h-")
    image = picture(1)
    image.flags.writeable = False
    sink = sink_on(screen)
    for _ in range(3):
        sink.write(RESULT, image, Tally())
    assert (screen.shown[-1] != image).any()


def test_snapshots_are_what_is_seen_without_the_display_and_never_overwrite(tmp_path: Path) -> None:
    now = FakeTime()
    screen = FakeScreen("ss-")
    sink = sink_on(screen, snapshot_dir=str(tmp_path), mirror=True, clock=now.clock)
    show(sink, range(3))
    saved = [cv2.imread(str(path)) for path in sorted(tmp_path.glob("livemarks-*.png"), key=os.path.getmtime)]
    assert len(saved) == 2
    for image, seed in zip(saved, (0, 1), strict=True):
        assert image is not None
        assert (image == picture(seed)[:, ::-1]).all()
    assert (screen.shown[2] != count(picture(2)[:, ::-1], Tally(processed=2))).any()  # says what it saved
    now.now_s += 3
    show(sink, range(3, 4))
    assert (screen.shown[3] == count(picture(3)[:, ::-1], Tally(processed=3))).all()


def test_a_snapshot_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    screen = FakeScreen("s--")
    sink = sink_on(screen, snapshot_dir=str(tmp_path / "no" / "folder"))
    show(sink, range(3))
    assert sink._message == "not saved: No such file or directory"


def test_keys_work_while_the_camera_hangs() -> None:
    source = FakeSource(5, live=True)
    source._before = lambda index: source.closed.wait(30) if index == 2 else None
    screen = FakeScreen("------q")
    sink = sink_on(screen)
    assert isinstance(sink, Idler)
    tally = run(source, FakeTracker(), [sink])
    assert tally.processed <= 2
    assert len(screen.shown) == 7


# --- real windows ----------------------------------------------------------------------------------------------------


@pytest.fixture
def ask_again() -> Iterator[None]:
    no_display.cache_clear()
    yield
    no_display.cache_clear()


@pytest.mark.usefixtures("ask_again")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system has one display and OpenCV finds it")
@pytest.mark.parametrize(("display", "reason"), [("", "no display is set"), (":4321", "display :4321 can't be opened")])
def test_without_a_display_it_says_why_and_nothing_dies(
    display: str, reason: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "modules", {name: sys.modules[name] for name in sys.modules if name != "av"})
    if not cv2.currentUIFramework():
        reason = "without windows"
    assert reason in no_display()
    with pytest.raises(LivemarksError, match=reason):
        Sink("title", hud=count)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("ask_again")
@pytest.mark.skipif(sys.platform != "linux", reason="a quarrel of two wheels for Linux")
def test_pyav_before_opencv_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "QT")
    monkeypatch.setattr(sys, "modules", {"av": os, "cv2": cv2})
    assert "import cv2 first" in no_display()


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """A display to open windows on: Xvfb's, so that no window disturbs whoever runs the tests."""
    server = shutil.which("Xvfb")
    if server is None or not cv2.currentUIFramework():
        pytest.skip("no Xvfb here, or an OpenCV without windows")
    read, write = os.pipe()
    command = [server, "-displayfd", str(write), "-screen", "0", "800x600x24", "-nolisten", "tcp"]
    process = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as pipe:
        number = pipe.readline().strip()
    yield f":{number}"
    process.terminate()
    process.wait()


CHILD = """
import sys, time
import numpy as np
from livemarks.sinks.window import Sink, no_display
from livemarks.types import Stop, Tally
import av  # after cv2, as in a run that records
assert no_display() == ""
image = np.full((240, 320, 3), (0, 0, 255), np.uint8)
sink = Sink("window of a test", hud=lambda image, tally: image)
print("started", flush=True)
try:
    for _ in range(200):
        sink.write(None, image, Tally())
        time.sleep(0.05)
except Stop:
    print("stopped")
sink.close()
print("closed")
"""


def test_a_real_window_opens_obeys_and_closes_in_silence(display: str) -> None:
    xdotool = shutil.which("xdotool")
    if xdotool is None:
        pytest.skip("no xdotool here, which presses keys")
    env = os.environ | {"DISPLAY": display}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        find = [xdotool, "search", "--sync", "--onlyvisible", "--name", "window of a test"]
        number = subprocess.run(find, env=env, capture_output=True, text=True, timeout=20).stdout.split()[0]
        while child.poll() is None:  # a window that has only just appeared may miss a key
            subprocess.run([xdotool, "windowfocus", number, "key", "q"], env=env, timeout=10, capture_output=True)
            time.sleep(0.2)
        assert child.communicate() == ("started\nstopped\nclosed\n", "")
    finally:
        child.kill()  # a window that hangs does so in C, for ever
        child.wait()
