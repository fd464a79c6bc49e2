"""The `livemarks` command: parses, runs one module of commands/, and turns every end into a line and an exit status.

0: done. 1: livemarks itself failed, or `doctor` found something broken. 2: the input, an option or the machine is at
fault, and a line says what to do. 129, 130 and 143: stopped by SIGHUP (its terminal was closed), Ctrl-C or SIGTERM;
what was done so far is kept.
"""

from __future__ import annotations

import argparse
import errno
import glob
import logging
import mimetypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import NoReturn, TextIO

from livemarks import __version__
from livemarks.commands._process import library_noise, mute, open_streams, signals_as_ctrl_c
from livemarks.commands._terminal import one_line

log = logging.getLogger("livemarks")

COMMANDS = {
    "webcam": "track faces live, from a camera, a stream or a file played like one",
    "video": "track faces through a video file, every frame of it",
    "image": "find the landmarks in images, each by itself",
    "demo": "see it work, on a clip made from a portrait that ships with livemarks",
    "models": "list the landmark nets, what they score and on which terms they may be used",
    "doctor": "check this machine: versions, weights, backends, cameras",
    "train": "train a net from a recipe",
    "completion": "print a script that completes these commands and options in your shell",
}

# MediaPipe, which --detector mediapipe loads, reports its use to play.googleapis.com by libcurl, and has no switch for
# that (github.com/google-ai-edge/mediapipe/issues/6291). A proxy that refuses keeps it home. OpenCV's FFmpeg doesn't
# ask this variable for its streams.
_NOWHERE = "http://127.0.0.1:9"  # RFC 863's discard port

# Python's own words, in a plain RuntimeError, where the system or a container's limit has no thread left.
_NO_THREAD = "can't start new thread"

# The arguments, of whichever command, that name what it reads and writes.
_FILES = ("input", "camera", "model", "recipe", "out", "record", "landmarks")

_EPILOG = (
    "`livemarks COMMAND --help` lists a command's options. Exit status: 0 done; 1 livemarks itself failed, or doctor "
    "found something broken; 2 the input, an option or the machine is at fault; 129, 130 or 143 stopped by SIGHUP (the "
    "terminal was closed), Ctrl-C or SIGTERM, with what was done so far kept."
)


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"livemarks: {one_line(message)} (see `{self.prog} --help`)\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line. Loads no library, so that `--help` answers at once."""
    top = _Parser(prog="livemarks", description="Real-time facial landmarks.", epilog=_EPILOG)
    top.add_argument("--version", action="version", version=f"livemarks {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        about = f"{summary[0].upper()}{summary[1:]}."
        command = commands.add_parser(name, help=summary, description=about)
        import_module(f"livemarks.commands.{name}").options(command)
        messages = command.add_argument_group("messages")
        amount = messages.add_mutually_exclusive_group()
        amount.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
        amount.add_argument("-v", "--verbose", action="store_true", help="say everything, tracebacks included")
        messages.add_argument("--log-file", metavar="FILE", help="add everything, tracebacks included, to FILE")
    top.set_defaults(parser=top)  # for `completion`
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line (this process's own by default) and returns the exit status."""
    try:
        return _main(arguments)
    except KeyboardInterrupt:  # before there is a command to stop, or a second one
        print("livemarks: stopped by Ctrl-C", file=sys.stderr)
        return 128 + signal.SIGINT


def _main(arguments: Sequence[str] | None) -> int:
    open_streams()
    os.environ["https_proxy"] = _NOWHERE
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as in backends/onnx.py; but `doctor` loads ONNX Runtime by itself
    args = parser().parse_args(arguments)
    try:
        if args.log_file and _is_at_work(args.log_file, args):
            raise FileExistsError(errno.EEXIST, "it is an input or an output; give it another name")
        trace = open(args.log_file, "a", encoding="utf-8") if args.log_file else None  # noqa: SIM115 - closed below
    except OSError as error:
        print(one_line(f"livemarks: can't write the log file {args.log_file}: {error.strerror}"), file=sys.stderr)
        return 2
    with _closing(trace), library_noise(trace, args.verbose), _messages(args, trace):
        return _run(args)


def _is_at_work(file: str, args: argparse.Namespace) -> bool:
    """Whether the command itself reads or writes this file, which a log would spoil."""
    options = (vars(args).get(name) or [] for name in _FILES)
    named = [path for option in options for path in ([option] if isinstance(option, str) else option)]
    if os.path.realpath(file) in map(os.path.realpath, named):
        return True
    if not os.path.isfile(file):  # nothing to spoil
        return False
    used: list[str | int] = [0, 1] if "-" in named else []  # standard input and output
    for path in named:
        if os.path.isdir(path):  # whose images are read
            files = glob.glob(os.path.join(glob.escape(path), "*"))
            used += [file for file in files if (mimetypes.guess_type(file)[0] or "").startswith("image/")]
        else:
            used += [path] if os.path.exists(path) else glob.glob(path, recursive=True)
    return any(os.path.exists(path) and os.path.samefile(file, path) for path in used)


def _run(args: argparse.Namespace) -> int:
    """Runs the command. Whatever goes wrong becomes one line here, and its traceback goes to the log."""
    try:
        with signals_as_ctrl_c() as came:
            status: int = import_module(f"livemarks.commands.{args.command}").run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # as in `livemarks models | head -3`: whoever reads has read enough
        mute(sys.stdout)
        return 0
    except KeyboardInterrupt:
        log.warning("stopped by %s; what was done so far is kept", signal.Signals(came[0]).name if came else "Ctrl-C")
        return 128 + (came[0] if came else signal.SIGINT)
    except OSError as error:  # a full disk behind standard output, too many open files
        mute(sys.stdout)
        log.error("the system refused: %s", error)
        log.debug("traceback", exc_info=True)
        return 2
    except ImportError as error:  # of a compiled library, mostly: its message names the file that it misses
        log.error("a library can't be loaded: %s; `livemarks doctor` says what is missing", error)
        log.debug("traceback", exc_info=True)
        return 2
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        no_thread = isinstance(error, RuntimeError) and text == _NO_THREAD
        mendable = no_thread or _is_livemarks_error(error)
        if no_thread:
            log.error("the system refused: %s; close other programs, or raise the limit (ulimit -u)", text)
        elif mendable:
            log.error("%s", error)
        else:  # a fault of ours is a line as well, and never a wall of text
            log.error("a fault in livemarks: %s: %s; --verbose or --log-file shows where", type(error).__name__, text)
        log.debug("traceback", exc_info=True)
        return 2 if mendable else 1


def _is_livemarks_error(error: Exception) -> bool:
    """Imports nothing: whoever raised one has its module, and loading numpy for it may be what has just failed."""
    return isinstance(error, getattr(sys.modules.get("livemarks.types"), "LivemarksError", ()))


@contextmanager
def _closing(file: TextIO | None) -> Iterator[None]:
    """Closes it, or at least lets go of it where a full disk doesn't take what is left."""
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                file.close()


class _OneLine(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = one_line(record.message)
        return super().formatMessage(record)


class _Stderr(logging.Handler):
    """Writes to whatever sys.stderr is at that moment: a progress bar replaces it while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


class _Trace(logging.StreamHandler[TextIO]):
    """The log file; what a full disk doesn't take is lost."""

    def handleError(self, record: logging.LogRecord) -> None:
        del record


@contextmanager
def _messages(args: argparse.Namespace, trace: TextIO | None) -> Iterator[None]:
    """Sends livemarks' log to stderr, as much of it as was asked for, and all of it to `trace`."""
    level = logging.ERROR if args.quiet else logging.DEBUG if args.verbose else logging.INFO
    handlers: list[logging.Handler] = [_Stderr(level)]
    handlers[0].setFormatter(_OneLine("livemarks: %(message)s"))
    if trace:
        handlers.append(_Trace(trace))
        handlers[1].setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log.setLevel(logging.DEBUG)
    log.propagate = False
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        log.propagate = True
        for handler in handlers:
            log.removeHandler(handler)
