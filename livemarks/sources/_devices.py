"""Cameras, streams and files, as OpenCV opens them: what a name stands for, how to try it, why it may have failed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import cv2

from livemarks.types import LivemarksError

APIS = {
    "auto": cv2.CAP_ANY,
    "v4l2": cv2.CAP_V4L2,
    "msmf": cv2.CAP_MSMF,
    "dshow": cv2.CAP_DSHOW,
    "avfoundation": cv2.CAP_AVFOUNDATION,
    "gstreamer": cv2.CAP_GSTREAMER,
    "ffmpeg": cv2.CAP_FFMPEG,
}

# What "auto" tries for a camera. CAP_ANY would go on to FFmpeg and to depth cameras, which take time and find nothing.
_NATIVE = {
    "linux": (cv2.CAP_V4L2,),
    "darwin": (cv2.CAP_AVFOUNDATION,),
    "win32": (cv2.CAP_MSMF, cv2.CAP_DSHOW),
}

# A network stream may take this long to answer, and be silent for this long.
_OPEN_S = 10.0
_READ_S = 5.0


class Device(Protocol):
    """The part of cv2.VideoCapture that is used here."""

    def isOpened(self) -> bool: ...
    def grab(self) -> bool: ...
    def retrieve(self) -> tuple[bool, Any]: ...
    def get(self, prop: int, /) -> float: ...
    def set(self, prop: int, value: float, /) -> bool: ...
    def release(self) -> None: ...


Opener = Callable[[int | str, int], Device]  # called with the device and one of APIS' values


def hush() -> None:
    """What OpenCV would print about what it can't open or read is for us to say."""
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def open_device(device: int | str, api: int) -> Device:
    """OpenCV's own device; neither it nor FFmpeg prints anything."""
    hush()
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET; read when FFmpeg is first used
    params: list[int] = []
    if api == cv2.CAP_FFMPEG and is_address(device):
        params += [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(_OPEN_S * 1000)]
        params += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(_READ_S * 1000)]
    return cv2.VideoCapture(device, api, params)


def target(device: int | str, api: str) -> int | str:
    """What to hand to OpenCV: a camera's number, or a path or address that may exist."""
    text = str(device)
    try:
        text.encode()
    except UnicodeEncodeError:  # OpenCV would take the process down
        raise LivemarksError(f"{text!r} can't be opened: its name is no valid UTF-8; give it another one") from None
    if text.isdecimal() and len(text) < 5:  # /dev/video255 is the last one on Linux
        return int(text)
    if is_address(text) or text.startswith("/dev/") or api == "gstreamer" or os.path.exists(text):
        return text
    raise LivemarksError(f"no camera, file or address is called {text!r}; cameras have numbers, the first is 0")


def apis(target: int | str, api: str) -> tuple[int, ...]:
    if api != "auto":
        return (APIS[api],)
    return (cv2.CAP_FFMPEG,) if is_media(target) else _NATIVE.get(sys.platform, (cv2.CAP_ANY,))


def is_address(target: int | str) -> bool:
    return isinstance(target, str) and "://" in target


def file(target: int | str) -> str | None:
    """The file on this machine that is played, if it is one."""
    path = str(target).removeprefix("file:")  # which FFmpeg takes off an address, and no more
    return path if isinstance(target, str) and os.path.isfile(path) else None


def is_media(target: int | str) -> bool:
    """True for a stream or file, False for a camera."""
    return isinstance(target, str) and (is_address(target) or os.path.isfile(target))


def name(target: int | str) -> str:
    """What to call it, without the password that an address may hold."""
    if isinstance(target, int):
        return f"camera {target}"
    scheme, address, rest = target.partition("://")
    if not address:
        return target
    shown, _, query = rest.partition("?")
    # People don't encode the signs in their passwords. An "@" behind a "?" may end one, or may be part of the query.
    return scheme + address + ("..." if "@" in query else shown.rpartition("@")[2])


def why(target: int | str, name: str, platform: str) -> str:
    """One line on what may keep a device from giving pictures, and what to do."""
    if is_address(target):
        return f"{name} could not be opened: a wrong address, no answer within {_OPEN_S:.0f} s, or no video behind it"
    if is_media(target):
        return f"{name} could not be played: it holds no video that can be read"
    if platform == "darwin":
        return (
            f"{name} gives no picture: allow this terminal in System Settings > Privacy & Security > Camera and start "
            "it again, or close the program that uses the camera"
        )
    if platform == "win32":
        return (
            f"{name} gives no picture: close the program that uses it, allow desktop apps in Settings > Privacy & "
            "security > Camera, or try another --camera-api (dshow)"
        )
    path = Path(f"/dev/video{target}" if isinstance(target, int) else target)
    if not path.exists():
        there = ", ".join(str(p) for p in sorted(Path("/dev").glob("video[0-9]*"))) or "no camera"
        return f"{name} is not there ({path} does not exist); this machine has {there}"
    if not os.access(path, os.R_OK | os.W_OK):
        return f"{name} may not be used by you ({path}): run `sudo usermod -aG video $USER` and log in again"
    return f"{name} gives no picture: another program may be using it, or {path} is no camera"
