"""What the command does to its own process: signals, standard streams, and what libraries print there."""

from __future__ import annotations

import faulthandler
import io
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO

# timeout(1) and a closing terminal send their signal twice, and a second Ctrl-C would cut off what the first one lets
# finish. Later than this it is somebody's wish.
_TWINS_S = 1.0


def open_streams() -> None:
    """Leads streams that were closed, as by a shell's `>&-`, to nowhere; or the next file opened would be one.

    What the encoding of standard output lacks is shown as an escape, as Python has it on stderr.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
            setattr(sys, name, stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def signals_as_ctrl_c() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP become a Ctrl-C, which pipeline.run takes as a wish to end; gives a list of those that came.

    Those that are ignored stay so: nohup ignores SIGHUP. A Ctrl-C of which a library that was just being loaded made
    another error is one again.
    """
    came: list[int] = []
    deaf_until_s = 0.0

    def pass_on(signum: int, frame: FrameType | None) -> None:
        nonlocal deaf_until_s
        if time.monotonic() < deaf_until_s:
            return
        deaf_until_s = time.monotonic() + _TWINS_S
        came.append(signum)
        on_ctrl_c = signal.getsignal(signal.SIGINT)  # ignored, if a script started us with `&`
        (on_ctrl_c if callable(on_ctrl_c) else signal.default_int_handler)(signum, frame)

    known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    before = {n: signal.signal(n, pass_on) for n in known if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        yield came
    except Exception as error:
        cause: BaseException | None = error
        while not (cause is None or isinstance(cause, KeyboardInterrupt)):
            cause = cause.__cause__
        if cause is None:
            raise
        raise KeyboardInterrupt from error
    finally:
        for number, handler in before.items():  # what is left to do must not be cut off by a twin
            signal.signal(number, signal.SIG_IGN if came else handler)


def mute(stream: TextIO) -> None:
    """Python flushes once more at exit what couldn't be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def library_noise(trace: TextIO | None, verbose: bool) -> Iterator[None]:
    """Keeps what compiled libraries print on stderr from the user: it goes to `trace`, or nowhere.

    MediaPipe, ONNX Runtime, OpenCV, Qt and FFmpeg write straight to file descriptor 2, some of them before any switch
    of theirs can be set. So the descriptor is turned away, and Python's own stderr gets a copy of the old one.
    """
    sys.stderr.flush()
    copy = io.BufferedWriter(_Heedless(os.dup(2), "w"))
    own = io.TextIOWrapper(copy, sys.stderr.encoding, errors="backslashreplace", line_buffering=True)
    with own, _crash_report(own), warnings.catch_warnings():
        if not verbose:
            target = os.dup(trace.fileno()) if trace else os.open(os.devnull, os.O_WRONLY)
            os.dup2(target, 2)
            os.close(target)
            warnings.simplefilter("ignore")
        before = sys.stderr
        sys.stderr = own
        try:
            yield
        finally:
            sys.stderr = before
            os.dup2(own.fileno(), 2)


class _Heedless(io.FileIO):
    """Takes everything: that nobody reads stderr, its terminal is gone or its disk full, is no reason to end a run."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


@contextmanager
def _crash_report(to: TextIO) -> Iterator[None]:
    """A library that takes the whole process down shall at least leave the Python line that called it."""
    if faulthandler.is_enabled():
        yield
        return
    faulthandler.enable(to)
    try:
        yield
    finally:
        faulthandler.disable()
