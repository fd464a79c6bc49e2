"""What the commands that track faces share: options, checks before any work, the run, the closing words."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
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
    """Runs a source to its end, or for so many seconds, and says how it went.

    wrote: what the last sinks write, one each. mirrored: what is drawn will be seen in a mirror. noun: what the source
    gives. Returns the exit status: 2 if the source was damaged, so that something of it is missing. Raises
    LivemarksError if a camera is in trouble that never gave a frame.
    """
    from livemarks import draw, pipeline
    from livemarks.commands._progress import progress
    from livemarks.types import LivemarksError, Tally

    sinks: list[Sink] = [] if seconds is None else [_Deadline(seconds)]
    with ExitStack() as failing:
        for open_sink in open_sinks:
            sinks.append(open_sink())
            failing.callback(sinks[-1].close)
        failing.pop_all()  # from here on pipeline.run closes them
    if len(wrote) > 1 and wrote[-1] == "-":
        sinks[-1] = _BesideFile(sinks[-1])
    last = Tally()
    started_s = time.monotonic()
    try:
        with progress(source.info, quiet, noun) as show:

            def on_tally(tally: Tally) -> None:
                nonlocal last
                last = tally
                show(tally)

            overlay = partial(draw.overlay, style=replace(draw.DEFAULT, mirrored=mirrored))
            pipeline.run(source, tracker, sinks, draw=overlay, on_tally=on_tally)
    finally:  # also after Ctrl-C and errors: what was done is kept, and told
        error = sys.exc_info()[1]
        failed = isinstance(error, Exception)  # which KeyboardInterrupt isn't
        if last.processed:
            _tell(source.info, net, last, time.monotonic() - started_s, () if failed else wrote, noun)
        for reporter in (source, *sinks):
            for notice in getattr(reporter, "notices", ()):
                if notice not in str(error):  # some errors are the first of the notices
                    log.warning("%s", notice)
        if not (last.processed or failed):
            log.warning("%s: no %s came and nothing was written", source.info.name, noun)
    trouble: str = getattr(source, "status", "")  # of a camera: what was wrong with it when it was closed
    if trouble and not last.processed:
        raise LivemarksError(trouble)
    # A source that doesn't tell damage from other notices is taken to mean damage.
    damaged: bool = getattr(source, "damaged", bool(source.notices))
    return 2 if damaged and not source.info.live else 0


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


def _tell(info: SourceInfo, net: Net, tally: Tally, elapsed_s: float, wrote: Sequence[str], noun: str) -> None:
    dropped = f", {tally.dropped} of {tally.captured} dropped" if info.live else ""
    log.info(
        "%s: %s in %.1f s (%.1f a second)%s; a face in %d (%.1f %%); %s on %s",
        *(info.name, counted(tally.processed, noun), elapsed_s, tally.processed / max(elapsed_s, 1e-3), dropped),
        *(tally.faces, 100 * tally.faces / tally.processed, net.card.name, net.runner.label),
    )
    columns = [(stage, f"{1e3 * s:.2f}") for stage, s in tally.stage_s.items() if s > 0 and stage != _Deadline.stage]
    widths = [max(map(len, column)) for column in columns]
    for title, row in zip(("stage", f"ms per {noun}"), zip(*columns, strict=True), strict=False):
        log.info("%-12s  %s", title, "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    if wrote:
        log.info("wrote %s", ", ".join(wrote))
