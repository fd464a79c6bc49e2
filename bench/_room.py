"""A place for one fault: a folder, the installed program in it, and what became of them."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
from av.error import FFmpegError

FRAMES = 100  # of the clip that rooms are given
PATIENCE_S = 300
_TABLE = ("stage ", "ms per ", "wrote ")  # lines of the closing words that say nothing of a fault
_BEGUN_BYTES = 500_000

# Linux: prctl.h, seccomp.h, filter.h; and the number of socket(2).
_NO_NEW_PRIVS, _SECCOMP, _FILTER, _KILL, _ALLOW = 38, 22, 2, 0x8000_0000, 0x7FFF_0000
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_SOCKET = {"x86_64": 41, "aarch64": 198}


@dataclass(frozen=True, slots=True)
class End:
    """status: of the process, None if there was none. said: the line that tells most. frames: which were kept.

    crashed: with a traceback, whatever the status.
    """

    status: int | None
    said: str
    frames: str = "-"
    crashed: bool = False


class Room:
    """A folder for one fault, and the program in it."""

    def __init__(self, folder: Path, clip: Path, model: str) -> None:
        self.folder, self.clip, self.model = folder, clip, model
        self.folder.mkdir(parents=True)

    def start(
        self, *arguments: object, model: str = "", home: str = "", before: Callable[[], object] | None = None
    ) -> subprocess.Popen[str]:
        """before: called in the process, before the program."""
        command = [sys.executable, "-m", "livemarks", *map(str, arguments), "--model", model or self.model]
        environment = {**os.environ, "DISPLAY": "", "WAYLAND_DISPLAY": "", "HOME": home or str(Path.home())}
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            text=True,
            stdin=nothing,
            stdout=pipe,
            stderr=pipe,
            preexec_fn=before,
        )

    def end(self, process: subprocess.Popen[str], out: Path | None = None, of: int | None = FRAMES) -> End:
        """Waits for the process; its line is the last one that isn't of the table of times."""
        try:
            _, err = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        lines = [line.removeprefix("livemarks: ") for line in err.splitlines()]
        told = [line for line in lines if not line.startswith(_TABLE)] or [""]
        kept = count(out) if out else None
        frames = "-" if kept is None else f"{kept}" if of is None else f"{kept} of {of}"
        status = process.returncode if process.returncode >= 0 else 128 - process.returncode  # as shells say it
        crashed = "Traceback" in err
        return End(status, f"TRACEBACK: {lines[-1]}" if crashed else told[-1], frames, crashed)

    def run(self, *arguments: object) -> End:
        return self.end(self.start(*arguments))

    def video(self, path: Path | str, model: str = "", home: str = "") -> End:
        process = self.start("video", path, "--out", "o.mp4", model=model, home=home)
        return self.end(process, self.folder / "o.mp4")

    def under(self, before: Callable[[], object], *options: object) -> End:
        """The clip, by a process that has done something to itself before."""
        process = self.start("video", self.clip, "--out", "o.mp4", *options, before=before)
        return self.end(process, self.folder / "o.mp4")

    def started(self, out: Path, *arguments: object) -> subprocess.Popen[str]:
        """A process that has begun to write frames."""
        process = self.start(*arguments, "--out", out)
        deadline_s = time.monotonic() + PATIENCE_S
        while not any(part.stat().st_size > _BEGUN_BYTES for part in out.parent.glob("*.part.mp4")):
            if process.poll() is not None or time.monotonic() > deadline_s:
                break
            time.sleep(0.02)
        return process


def count(path: Path) -> int:
    """Frames that a player would show; 0 if there is no such file."""
    frames = 0
    if path.exists():
        with av.open(str(path)) as container:
            for packet in container.demux(video=0):
                with suppress(FFmpegError):  # the last one of a full disk may be cut off
                    frames += len(packet.decode())
    return frames


def die_by_socket() -> None:
    """From now on Linux kills this process, with SIGSYS, the moment that it asks for a socket of any kind."""
    number = _SOCKET[platform.machine()]
    steps = [(_LOAD, 0, 0, 0), (_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _KILL), (_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HP", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((_NO_NEW_PRIVS, 1, 0, 0, 0), (_SECCOMP, _FILTER, program, 0, 0)):
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), "prctl")
