"""How far a run has come, on stderr: a bar on a terminal, a plain line every few seconds anywhere else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from livemarks.commands._terminal import one_line
from livemarks.numbers import counted
from livemarks.types import SourceInfo, Tally

log = logging.getLogger(__name__)

_LINE_EVERY_S = 5.0
_BAR_EVERY_S = 0.1
_NAME_LETTERS = 24  # leaves most of an 80 column line to the bar


@contextmanager
def progress(
    info: SourceInfo, quiet: bool, noun: str = "frame", clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[Tally], None]]:
    """Gives the function to call with each tally. noun: what is counted."""
    console = Console(stderr=True)
    if quiet:
        yield lambda _: None
    elif console.is_terminal and not console.is_dumb_terminal:
        with _bar(info, console, noun, clock) as show:
            yield show
    else:
        yield _Lines(info, noun, clock)


@contextmanager
def _bar(
    info: SourceInfo, console: Console, noun: str, clock: Callable[[], float]
) -> Iterator[Callable[[Tally], None]]:
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[done]}"),
        TextColumn("{task.fields[fps]:.0f}/s"),
        TimeRemainingColumn(),
    ]
    if info.frames is None:  # nothing to say of the end
        columns = [columns[0], *columns[3:5]]
    # No refresh thread: the bar is drawn when there is something new to draw.
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        name = one_line(Path(info.name).name)
        task = bar.add_task(
            name if len(name) <= _NAME_LETTERS else f"{name[:_NAME_LETTERS]}…",
            total=info.frames,
            done="",
            fps=0.0,
        )
        due_s = 0.0

        def show(tally: Tally) -> None:
            nonlocal due_s
            now_s = clock()
            if now_s >= due_s:
                due_s = now_s + _BAR_EVERY_S
                bar.update(
                    task, completed=tally.processed, done=_done(tally.processed, info.frames, noun), fps=tally.fps
                )
                bar.refresh()

        yield show


class _Lines:
    """A line every few seconds, for log files and pipes."""

    def __init__(self, info: SourceInfo, noun: str, clock: Callable[[], float]) -> None:
        self._info, self._noun, self._clock = info, noun, clock
        self._due_s = clock() + _LINE_EVERY_S

    def __call__(self, tally: Tally) -> None:
        now_s = self._clock()
        if now_s < self._due_s:
            return
        self._due_s = now_s + _LINE_EVERY_S
        left = ""
        if self._info.frames is not None and tally.fps > 0:
            left = f", {max(0, self._info.frames - tally.processed) / tally.fps:.0f} s left"
        dropped = f", {tally.dropped} dropped" if self._info.live else ""
        done = _done(tally.processed, self._info.frames, self._noun)
        log.info("%s: %s, %.1f a second%s%s", self._info.name, done, tally.fps, left, dropped)


def _done(number: int, total: int | None, noun: str) -> str:
    return counted(number, noun) if total is None else f"{number} of {counted(total, noun)}"
