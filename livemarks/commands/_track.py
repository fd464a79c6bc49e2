"""What the commands that track faces share: options, checks before any work, the run, the closing words."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from livemarks.numbers import count, counted

if TYPE_CHECKING:
    from livemarks.api import Net
    from livemarks.pipeline import Tracker
    from livemarks.types import U8, Result, Sink, Source, SourceInfo, Tally

log = logging.getLogger(__name__)


def landmarks_option(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--landmarks", metavar="FILE", help="the points: JSON lines (.jsonl; - is standard output), or a table (.csv)"
    )


def model_options(parser: argparse.ArgumentParser, *, faces: int, smooth: bool = True) -> None:
    """Adds the options that choose the net, what it looks for, and what it runs on. faces: the default of --faces."""
    group = parser.add_argument_group("tracking")
    group.add_argument(
        "--model", default="lite-68", metavar="NAME", help="a net of `livemarks models`, or an .onnx file"
    )
    group.add_argument(
        "--faces", type=count, default=faces, metavar="N", help=f"find at most N faces (default: {faces})"
    )
    group.add_argument("--range", default="auto", help="how far faces may be: short, full, or auto (default), both")
    group.add_argument(
        "--detector",
        default="blazeface",
        metavar="NAME",
        help="blazeface (default), or mediapipe: the same nets run by MediaPipe",
    )
    if smooth:
        group.add_argument("--smooth", default="light", help="off, light (default), medium or strong: quick or steady")
    group = parser.add_argument_group("speed")
    group.add_argument("--backend", default="auto", help="auto (default), onnx, torch, cudagraph or tensorrt")
    group.add_argument("--device", default="auto", help="auto (default), cpu, cuda, mps, ...")
    group.add_argument("--precision", default="auto", help="auto (default), fp32 or fp16")
    group.add_argument("--threads", type=count, metavar="N", help="CPU threads of the net (default: chosen by itself)")


def open_net(args: argparse.Namespace) -> Net:
    from livemarks import api

    return api.open_net(
        args.model, backend=args.backend, device=args.device, precision=args.precision, threads=args.threads
    )


def open_window(source: Source, net: Net, *, mirror: bool = False) -> Sink:
    """The window, with a HUD of how the run goes."""
    from livemarks import draw, plugins

    def hud(image: U8, tally: Tally) -> U8:
        lines = [
            f"{tally.fps:.1f} fps   {1e3 * tally.age_s:.0f} ms old",
            f"{tally.dropped} of {tally.captured} frames dropped",
            f"{net.card.name} on {net.runner.label}",
        ]
        status: str = getattr(source, "status", "")  # of a camera: what is wrong with it at the moment
        return draw.hud(image, [*lines, status] if status else lines)

    window: Sink = plugins.load("sinks", "window")(f"livemarks: {source.info.name}", hud=hud, mirror=mirror)
    return window


def outputs(out: str | None, landmarks: str | None) -> list[str]:
    """What a command writes, as messages call it."""
    from livemarks.sinks._output import shown

    return [name for name in (out, landmarks and shown(landmarks)) if name]


def open_landmarks(path: str, source: Source, net: Net, *, beside: str | None) -> Sink:
    """The sink of --landmarks. beside: the file that is written as well, also when standard output is read no more."""
    from livemarks import api

    sink = api.open_landmarks(path, source, net)
    return _BesideFile(sink) if beside and path == "-" else sink


def follow(
    source: Source,
    tracker: Tracker,
    open_sinks: Sequence[Callable[[], Sink]],
    *,
    net: Net,
    wrote: Sequence[str] = (),
    quiet: bool = False,
    seconds: float | None = None,
    mirrored: bool = False,
    noun: str = "frame",
) -> int:
    """Runs a source to its end, or for so many seconds, and says how it went, also after Ctrl-C and errors.

    wrote: what the sinks write, for the closing words. mirrored: what is drawn will be seen in a mirror. noun: what the
    source gives. Returns the exit status: 2 if the source was damaged, so that something of it is missing. Raises
    LivemarksError if a camera is in trouble that never gave a frame.
    """
    from livemarks.types import LivemarksError

    sinks: list[Sink] = [] if seconds is None else [_Deadline(seconds)]
    with ExitStack() as failing:
        for open_sink in open_sinks:
            sinks.append(open_sink())
            failing.callback(sinks[-1].close)
        failing.pop_all()  # from here on pipeline.run closes them
    end = _run(source, tracker, sinks, quiet=quiet, mirrored=mirrored, noun=noun)
    # A source that doesn't tell damage from other notices is taken to mean damage.
    damaged: bool = not source.info.live and getattr(source, "damaged", bool(source.notices))
    _tell(source.info, net, end, wrote, noun)
    _tell_notices(source, sinks, damaged, end.error)
    if end.error is not None:
        raise end.error
    trouble: str = getattr(source, "status", "")  # of a camera: what was wrong with it when it was closed
    if trouble and not end.tally.processed:
        raise LivemarksError(trouble)
    return 2 if damaged else 0


@dataclass(frozen=True, slots=True)
class _End:
    """Of a run. tally: the last one. error: what broke it off, to be raised once all is told."""

    tally: Tally
    elapsed_s: float
    error: BaseException | None

    @property
    def failed(self) -> bool:
        """By an error, which Ctrl-C isn't."""
        return isinstance(self.error, Exception)


def _run(source: Source, tracker: Tracker, sinks: Sequence[Sink], *, quiet: bool, mirrored: bool, noun: str) -> _End:
    from livemarks import draw, pipeline
    from livemarks.commands._progress import progress
    from livemarks.types import Tally

    last = Tally()
    broken_off: BaseException | None = None
    started_s = time.monotonic()
    try:
        with progress(source.info, quiet, noun) as show:

            def on_tally(tally: Tally) -> None:
                nonlocal last
                last = tally
                show(tally)

            overlay = partial(draw.overlay, style=replace(draw.DEFAULT, mirrored=mirrored))
            pipeline.run(source, tracker, sinks, draw=overlay, on_tally=on_tally)
    except BaseException as error:
        broken_off = error
    return _End(last, time.monotonic() - started_s, broken_off)


def _tell(info: SourceInfo, net: Net, end: _End, wrote: Sequence[str], noun: str) -> None:
    """What was done, and how quickly."""
    tally = end.tally
    if not tally.processed:
        if not end.failed:
            log.warning("%s: no %s came and nothing was written", info.name, noun)
        return
    pace = f"{end.elapsed_s:.1f} s ({tally.processed / max(end.elapsed_s, 1e-3):.1f} a second)"
    dropped = f", {tally.dropped} of {tally.captured} dropped" if info.live else ""
    faces = f"a face in {tally.faces} ({100 * tally.faces / tally.processed:.1f} %)"
    runs_on = f"{net.card.name} on {net.runner.label}"
    log.info("%s: %s in %s%s; %s; %s", info.name, counted(tally.processed, noun), pace, dropped, faces, runs_on)
    columns = [(stage, f"{1e3 * s:.2f}") for stage, s in tally.stage_s.items() if s > 0 and stage != _Deadline.stage]
    widths = [max(map(len, column)) for column in columns]
    for title, row in zip(("stage", f"ms per {noun}"), zip(*columns, strict=True), strict=False):
        log.info("%-12s  %s", title, "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    if wrote and not end.failed:
        log.info("wrote %s", ", ".join(wrote))


def _tell_notices(source: Source, sinks: Sequence[Sink], damaged: bool, error: BaseException | None) -> None:
    """What was lost: as an error where it makes the exit status 2, so that --quiet doesn't hide it."""
    still_to_come = "" if error is None else str(error)  # of images none of which can be read, it tells the first
    for notice in source.notices:
        if notice not in still_to_come:
            log.log(logging.ERROR if damaged else logging.WARNING, "%s", notice)
    for sink in sinks:
        for notice in getattr(sink, "notices", ()):
            log.warning("%s", notice)


class _BesideFile:
    """A sink to standard output; when its reader leaves, the sinks that write files go on without it."""

    wants_pixels = False
    stage = "jsonl"

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._read = True

    def write(self, result: Result, image: U8 | None, tally: Tally) -> None:
        from livemarks.types import Stop

        if self._read:
            try:
                self._sink.write(result, image, tally)
            except Stop:
                self._read = False

    def close(self) -> None:
        self._sink.close()


class _Deadline:
    """A sink that ends the run after so many seconds, whether frames come or not."""

    wants_pixels = False
    stage = "deadline"

    def __init__(self, seconds: float) -> None:
        self._end_s = time.monotonic() + seconds

    def write(self, result: Result, image: U8 | None, tally: Tally) -> None:
        del result, image
        self.idle(tally)

    def idle(self, tally: Tally) -> None:
        from livemarks.types import Stop

        del tally
        if time.monotonic() >= self._end_s:
            raise Stop

    def close(self) -> None: ...
