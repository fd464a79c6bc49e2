"""What a run gives away: it calls nobody, keeps no picture that nobody asked for, and heeds the user's umask."""

from __future__ import annotations

import os
import platform
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from media import make_clip

from livemarks.sources import images
from livemarks.types import U8, LivemarksError

# Runs the command line in a process whose Python can't reach a network.
OFFLINE = """
import socket, sys

def refuse(*_, **__):
    raise AssertionError("something wants to reach the network")

socket.socket = socket.create_connection = socket.getaddrinfo = refuse

from livemarks.cli import main

sys.exit(main(sys.argv[1:]))
"""

# Follows a face by the Python API in a process that must not make a socket, and runs a statement.
SOCKETLESS = """
import ctypes, socket, sys, time

class Instruction(ctypes.Structure):  # sock_filter of linux/filter.h
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]

class Program(ctypes.Structure):  # sock_fprog
    _fields_ = [("len", ctypes.c_uint16), ("filter", ctypes.POINTER(Instruction))]

instructions = (Instruction * 4)(
    (0x20, 0, 0, 0),  # load the system call's number
    (0x15, 0, 1, 41),  # x86-64's socket(2)?
    (0x06, 0, 0, 0x80000000),  # SECCOMP_RET_KILL_PROCESS
    (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
)
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.byref(Program(4, instructions))) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER

clip, model, statement = sys.argv[1:]
exec(statement)

import livemarks

tracker = livemarks.open_tracker(model)
results = [tracker.step(frame) for frame in livemarks.open_source(clip)]
tracker.close()
time.sleep(1)  # for whoever would call later, from a thread of its own
print("a face in", sum(bool(result.faces) for result in results))
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, astronaut: U8) -> Path:
    """12 frames of a real face that slides to the right."""
    images = [np.ascontiguousarray(astronaut[:256, 120 - 4 * i : 376 - 4 * i]) for i in range(12)]
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", images)


@pytest.fixture
def run(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, still_model: Callable[..., Path]) -> Run:
    """run(*arguments, **environment): `livemarks`, at home in folders of tmp_path: cwd, home, temp and out."""
    for name in ("cwd", "home", "temp", "out"):
        (tmp_path / name).mkdir()
    model = str(still_model())

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", OFFLINE, *map(str, arguments)]
        if arguments[0] != "doctor":
            command += ["--model", model]
        home = {name: str(tmp_path / "home") for name in ("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_CACHE_HOME")}
        temp = {name: str(tmp_path / "temp") for name in ("TMPDIR", "TEMP", "TMP")}
        # MediaPipe imports matplotlib, which keeps a list of the system's fonts.
        fonts = {"MPLCONFIGDIR": str(tmp_path_factory.getbasetemp())}
        environment = {**os.environ, **home, **temp, **fonts, **environment}
        return subprocess.run(command, cwd=tmp_path / "cwd", env=environment, capture_output=True, text=True)

    return run


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@contextmanager
def listener() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy's address, and the first bytes of everybody who called there."""
    calls: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                caller, _ = server.accept()
                with caller:
                    calls.append(caller.recv(200))
                if calls[-1] == b"":  # ours, the last one
                    return

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", calls
        finally:
            socket.create_connection(server.getsockname()).close()
            thread.join()
            calls.pop()


@pytest.mark.parametrize("detector", ["blazeface", "mediapipe"])
def test_a_run_calls_nobody(run: Run, clip: Path, tmp_path: Path, detector: str) -> None:
    """Neither by Python, nor by the compiled libraries: MediaPipe's and ONNX Runtime's would ask a proxy their way."""
    with listener() as (address, calls):
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), address)
        done = run("video", clip, "--out", tmp_path / "out" / "o.mp4", "--detector", detector, **proxies)
    assert done.returncode == 0, done.stderr
    assert "a face in 12 (100.0 %)" in done.stderr
    assert calls == []


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="its own way to deny sockets")
@pytest.mark.parametrize(
    ("statement", "dies"),
    [("", False), ("socket.socket()", True), ("socket.create_connection(('127.0.0.1', 9))", True)],
)
def test_the_python_api_makes_no_socket(
    clip: Path, still_model: Callable[..., Path], statement: str, dies: bool
) -> None:
    """In a process that the kernel ends as soon as anybody, compiled libraries' threads too, asks it for a socket."""
    program = [sys.executable, "-c", SOCKETLESS, str(clip), str(still_model()), statement]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == (-signal.SIGSYS if dies else 0), done.stderr
    assert done.stdout == ("" if dies else "a face in 12\n")


@pytest.mark.skipif(sys.platform != "linux", reason="its own way to deny sockets")
def test_an_image_that_is_a_list_of_media_leads_nowhere(tmp_path: Path) -> None:
    """An SDP file makes FFmpeg listen for ten seconds, if it may."""
    sdp = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=x", "c=IN IP4 127.0.0.1", "t=0 0", "m=video 45678 RTP/AVP 96"]
    (tmp_path / "x.jpg").write_text("\n".join([*sdp, "a=rtpmap:96 H264/90000", ""]))
    start_s = time.monotonic()
    with pytest.raises(LivemarksError, match="can't be read as an image"):
        list(images.Source([str(tmp_path / "x.jpg")]))
    assert time.monotonic() - start_s < 5


def test_only_what_was_asked_for_is_kept(run: Run, clip: Path, tmp_path: Path) -> None:
    done = run("webcam", "--camera", clip, "--headless")
    assert done.returncode == 0, done.stderr
    assert "12" in done.stderr
    assert files(tmp_path) == []
    done = run("video", clip, "--landmarks", tmp_path / "out" / "p.csv")
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == ["out/p.csv"]


def test_doctor_keeps_nothing(run: Run, tmp_path: Path) -> None:
    """It loads every library by itself."""
    assert "detector" in run("doctor", "--no-cameras").stdout
    assert files(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
def test_files_get_the_rights_that_the_umask_leaves(run: Run, clip: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        done = run("video", clip, "--out", tmp_path / "out" / "o.mp4", "--landmarks", tmp_path / "out" / "p.jsonl")
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    rights = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert rights == {"o.mp4": 0o640, "p.jsonl": 0o640}
