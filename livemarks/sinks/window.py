"""A window with the drawn picture, a head-up display and keys: q or Esc quit, space freeze, h display, s snapshot."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from livemarks.types import U8, LivemarksError, Result, Stop, Tally

# The window is at most this big at first, which leaves room on a laptop's screen; people may resize it.
_FIRST_WH = (1280, 720)

# How long a message stays on the picture.
_MESSAGE_S = 2.0

# Qt ends the whole process when it can't reach its display, so another process tries first; it needs 0.3 s here.
_TRIAL = "import cv2; cv2.namedWindow('livemarks'); cv2.destroyAllWindows()"
_TRIAL_S = 20.0


@cache
def no_display() -> str:
    """Why no window can be opened on this machine, in a few words; empty if one can be. Asks the system only once."""
    if not cv2.currentUIFramework():
        return "this OpenCV is built without windows (a -headless package)"
    if sys.platform != "linux":
        return ""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not display:
        return "no display is set in DISPLAY"
    loaded = list(sys.modules)
    if "av" in loaded and loaded.index("av") < loaded.index("cv2"):
        # Both wheels bring an xcb library, and OpenCV's windows hang on PyAV's (github.com/PyAV-Org/PyAV/issues/1050).
        return "PyAV was imported before OpenCV, whose windows hang then: import cv2 first"
    _silence_qt()
    try:
        trial = subprocess.run([sys.executable, "-c", _TRIAL], capture_output=True, timeout=_TRIAL_S)
    except subprocess.TimeoutExpired:
        return f"the display {display} does not answer"
    return "" if trial.returncode == 0 else f"the display {display} can't be opened"


class Sink:
    """Shows every frame. All calls from the main thread; the window opens with the first frame.

    hud: gives a copy of a picture with the head-up display on it; called with what is displayed, after mirroring.
    snapshot_dir: where `s` saves the picture as displayed, without the head-up display, as PNG.
    mirror: show people as in a mirror. gui and clock stand for OpenCV's windows and for time.

    Quitting, by key or by closing the window, raises Stop. While frozen, the picture stays and the run goes on. Raises
    LivemarksError if no window can be opened.
    """

    stage = "show"

    def __init__(
        self,
        title: str,
        *,
        hud: Callable[[U8, Tally], U8],
        snapshot_dir: str = ".",
        mirror: bool = False,
        gui: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if gui is None and (reason := no_display()):
            raise LivemarksError(f"no window can be opened: {reason}; --headless does without")
        _silence_qt()
        self.wants_pixels = True
        self._title = title
        self._hud = hud
        self._snapshot_dir = Path(snapshot_dir)
        self._mirror = mirror
        self._gui = cv2 if gui is None else gui
        self._clock = clock
        self._picture: U8 | None = None
        self._opened = False
        self._hud_on = True
        self._message, self._message_until_s = "", 0.0

    def write(self, result: Result, image: U8 | None, tally: Tally) -> None:  # noqa: ARG002 - the picture says it all
        if image is not None and self.wants_pixels:
            self._picture = np.asarray(cv2.flip(image, 1), np.uint8) if self._mirror else image
        self._show(tally)

    def idle(self, tally: Tally) -> None:
        """Keeps the window alive while no frame comes."""
        self._show(tally)

    def close(self) -> None:
        if self._opened and self._is_visible():
            self._gui.destroyWindow(self._title)
            self._gui.pollKey()  # some window systems take it off the screen only then

    def _show(self, tally: Tally) -> None:
        if self._picture is None:
            return
        if not self._opened:
            self._open(self._picture)
        elif not self._is_visible():  # closed by its X; showing a picture would open it again
            raise Stop
        shown = self._hud(self._picture, tally) if self._hud_on else self._picture
        self._gui.imshow(self._title, _with_text(shown, self._text()))
        self._obey(self._gui.pollKey(), self._picture)

    def _open(self, picture: U8) -> None:
        height, width = picture.shape[:2]
        scale = min(1.0, _FIRST_WH[0] / width, _FIRST_WH[1] / height)
        # GUI_NORMAL: without Qt's tool bar
        self._gui.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        self._gui.resizeWindow(self._title, round(width * scale), round(height * scale))
        self._opened = True

    def _is_visible(self) -> bool:
        try:
            return bool(self._gui.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1)
        except cv2.error:  # Qt's answer once its last window is gone
            return False

    def _obey(self, key: int, picture: U8) -> None:
        pressed = chr(key & 0xFF).lower() if key >= 0 else ""
        if pressed in ("q", "\x1b"):
            raise Stop
        if pressed == " ":
            self.wants_pixels = not self.wants_pixels
        elif pressed == "h":
            self._hud_on = not self._hud_on
        elif pressed == "s":
            self._message, self._message_until_s = self._save(picture), self._clock() + _MESSAGE_S

    def _text(self) -> str:
        if self._clock() < self._message_until_s:
            return self._message
        return "" if self.wants_pixels else "FROZEN"

    def _save(self, picture: U8) -> str:
        """Saves a snapshot and says so, or why not: a full disk must not end a live run."""
        name = time.strftime("livemarks-%Y%m%d-%H%M%S")
        path = self._snapshot_dir / f"{name}.png"
        number = 1
        while path.exists():
            number += 1
            path = self._snapshot_dir / f"{name}-{number}.png"
        data = cv2.imencode(".png", picture)[1].tobytes()  # cv2.imwrite hides errors and stumbles over some names
        try:
            path.write_bytes(data)
        except OSError as error:
            return f"not saved: {error.strerror}"
        return f"saved {path.name}"


def _with_text(picture: U8, text: str) -> U8:
    """A copy with a line of text on a dark strip in the bottom left corner; the picture itself if there is no text."""
    if not text:
        return picture
    picture = picture.copy()
    height = picture.shape[0]
    scale = max(0.4, height / 1080 * 1.2)
    (width, rise), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 2)
    cv2.rectangle(picture, (0, height - 2 * rise), (width + 2 * rise, height), (0, 0, 0), cv2.FILLED)
    origin = (rise, height - rise // 2)
    cv2.putText(picture, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 2, cv2.LINE_AA)
    return picture


def _silence_qt() -> None:
    """OpenCV's wheel brings Qt without fonts, which Qt reports for every window; nothing here needs Qt's fonts."""
    os.environ.setdefault("QT_LOGGING_RULES", "*=false")
