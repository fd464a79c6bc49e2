"""Hours of use, as fast as the machine goes: do memory, handles, threads and Python's blocks stay flat?

    python bench/soak.py [--hours 1] [--model NAME] [--json FILE]

Three parts, in one process. A camera: the real capture code on a scripted device of 30 pictures a second, followed,
drawn and recorded; each minute people come and go, and the camera freezes, is unplugged, tears pictures, and the clock
jumps as that of a laptop that slept. A film: the first quarter of that recording, drawn and recorded again.
Opened and closed: short runs, for each of which everything is opened and closed.

A row is flat if its last quarter is no higher than its second, but for a slack. Ends with 1 if a row isn't, or if
frames were lost that weren't meant to be.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from _options import to_write

from livemarks import api, draw, pipeline, plugins
from livemarks.commands.demo import PORTRAIT
from livemarks.numbers import positive
from livemarks.sources import camera, synthetic
from livemarks.types import U8, Frame, LivemarksError, Sink, Source, Tally

SIZE_WH = (320, 240)
FPS = 30
MINUTE = 60 * FPS  # frames

# What the device does in each minute, by the second from which on.
SCRIPT = {0: "one", 15: "nobody", 20: "two", 35: "frozen", 42: "torn", 43: "one", 50: "gone", 52: "one", 56: "slept"}
_TORN = 3  # each third picture of that second can't be decoded
_ABSENT = 2  # openings that fail after it was unplugged
_SLEPT_S = 7 * 3600.0

# Pictures wait until the pipeline is through with the one before, so that none is late; at most this long.
_PATIENCE_S = 10.0

_SAMPLES = 200  # of each part
_LINE_EVERY = 10  # samples, on stderr

# What a row may gain from its second quarter to its last. Memory: the allocators' whims, and the mp4's index, which is
# kept until the end: 11 MB an hour. Blocks, of Python's own allocator, 100 bytes or so each: caches.
SLACK = {"memory, MB": 16.0, "handles": 0.0, "threads": 0.0, "Python blocks": 1000.0}


class Device:
    """A camera that does as SCRIPT says, minute by minute, and the clock it lives by. `open` is a camera.Opener."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.torn = self.faults = 0
        self._grabs = 0
        self._state = ""
        self._absent = 0
        portrait = np.asarray(cv2.imread(str(PORTRAIT)), np.uint8)
        self._portraits = iter(synthetic.Source(portrait, seconds=1e6, fps=FPS, size_wh=SIZE_WH))
        self._room = np.random.default_rng(0).integers(90, 110, (SIZE_WH[1], SIZE_WH[0], 3), np.uint8)
        self._picture = self._room

    def open(self, device: int | str, api: int) -> Device:
        del device, api
        self._absent -= 1
        return self

    def isOpened(self) -> bool:
        return self._absent < 0

    def grab(self) -> bool:
        second, within = divmod(self._grabs % MINUTE, FPS)
        if within == 0 and second in SCRIPT:
            self._state = SCRIPT[second]
            self.now_s += _SLEPT_S if self._state == "slept" else 0.0
            self._absent = _ABSENT + 1 if self._state == "gone" else 0
            self.faults += self._state in ("frozen", "gone")
        self._grabs += 1
        self.now_s += 1 / FPS
        if self._state == "nobody":
            self._picture = np.roll(self._room, self._grabs % SIZE_WH[0], axis=1)
        elif self._state == "two":
            half = self._portrait()[:, SIZE_WH[0] // 4 : SIZE_WH[0] * 3 // 4]
            self._picture = np.hstack([half, half[:, ::-1]])
        elif self._state != "frozen":
            self._picture = self._portrait()
        return self._state != "gone"

    def retrieve(self) -> tuple[bool, Any]:
        torn = self._state == "torn" and self._grabs % _TORN == 0
        self.torn += torn
        return not torn, self._picture

    def get(self, prop: int, /) -> float:
        del prop
        return 0.0

    def set(self, prop: int, value: float, /) -> bool:
        del prop, value
        return False

    def release(self) -> None:
        """It works again when it is opened again."""
        self._state = "one"

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def _portrait(self) -> U8:
        return next(self._portraits).image


class Paced:
    """The first `frames` of a source; of a live one, each as soon as the pipeline is ready for it."""

    def __init__(self, source: Source, frames: int) -> None:
        self.info, self.notices, self.close = source.info, source.notices, source.close
        self._frames = islice(source, frames)
        self._ahead = 0
        self._changed = threading.Condition()

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._frames:
            with self._changed:
                if self.info.live and not self._changed.wait_for(lambda: self._ahead == 0, _PATIENCE_S):
                    self._ahead = 0  # it was dropped
                self._ahead += 1
            yield frame

    def shown(self) -> None:
        with self._changed:
            self._ahead -= 1
            self._changed.notify()


@dataclass(frozen=True, slots=True)
class Part:
    """What a part did, in numbers, and what was measured while it went on."""

    name: str
    did: dict[str, float] = field(default_factory=dict)
    samples: array[float] = field(default_factory=lambda: array("d"))  # all rows of SLACK, again and again

    def quarters(self, quantity: str) -> list[float]:
        """The median of each."""
        row = self.samples[list(SLACK).index(quantity) :: len(SLACK)]
        return [statistics.median(row[len(row) * i // 4 : len(row) * (i + 1) // 4]) for i in range(4)]

    def flat(self, quantity: str) -> bool:
        _, second, _, last = self.quarters(quantity)
        return last - second <= SLACK[quantity]

    def measure(self) -> None:
        gc.collect()
        process = psutil.Process()
        handles = process.num_handles() if sys.platform == "win32" else process.num_fds()
        # Not gc.get_objects(), which breaks tuples that another thread is building.
        self.samples.extend((process.memory_info().rss / 1e6, handles, process.num_threads(), sys.getallocatedblocks()))


def follow(source: Paced, model: str, out: Path, on_tally: Callable[[Tally], None]) -> Tally:
    """What `livemarks video` does: opens what a run needs, lets it run, and closes everything."""
    net = api.open_net(model)
    with closing(api.open_tracker(net, faces=2)) as tracker:
        film: Sink = plugins.load("sinks", "video")(str(out), source.info)
        points = api.open_landmarks(out.with_suffix(".jsonl"), source, net)

        def shown(tally: Tally) -> None:
            source.shown()
            on_tally(tally)

        return pipeline.run(source, tracker, [film, points], draw=draw.overlay, on_tally=shown)


def long_run(name: str, source: Source, frames: int, model: str, out: Path) -> Part:
    """One run, measured as it goes."""
    part = Part(name)
    step = max(1, frames // _SAMPLES)
    start_s = time.monotonic()

    def on_tally(tally: Tally) -> None:
        if tally.processed % step > 0:
            return
        part.measure()
        if len(part.samples) % (_LINE_EVERY * len(SLACK)) == 0:
            last = ", ".join(
                f"{row} {value:.0f}" for row, value in zip(SLACK, part.samples[-len(SLACK) :], strict=True)
            )
            print(f"{name}: {tally.processed} of {frames} frames; {last}", file=sys.stderr)

    tally = follow(Paced(source, frames), model, out, on_tally)
    part.did.update({"frames": tally.processed, "dropped": tally.dropped, "with a face": tally.faces})
    part.did.update({"seconds": round(time.monotonic() - start_s, 1)})
    return part


def soak(hours: float, model: str, folder: Path) -> tuple[list[Part], list[str]]:
    """All three parts, and what was wrong with them."""
    minutes = max(1, round(60 * hours))
    device = Device()
    seen = camera.Source(0, opener=device.open, clock=device.clock, sleep=device.sleep)
    live = long_run("camera", seen, minutes * MINUTE, model, folder / "seen.mp4")
    live.did.update({"opened again": seen.reopened})
    film = plugins.load("sources", "video")(str(folder / "seen.mp4"))
    offline = long_run("film", film, minutes * MINUTE // 4, model, folder / "film.mp4")

    short = Part("opened and closed", {"rounds": max(4, 2 * minutes), "frames": 0})
    for _ in range(int(short.did["rounds"])):
        film = plugins.load("sources", "video")(str(folder / "seen.mp4"))
        short.did["frames"] += follow(Paced(film, FPS), model, folder / "short.mp4", lambda _: None).processed
        short.measure()

    parts = [live, offline, short]
    wrong = [f"{part.name}: {row} grew" for part in parts for row in SLACK if not part.flat(row)]
    for part, what, want in (
        (live, "dropped", device.torn),
        (live, "opened again", device.faults),
        (offline, "frames", minutes * MINUTE // 4),
        (offline, "dropped", 0),
        (short, "frames", FPS * short.did["rounds"]),
    ):
        if part.did[what] != want:
            wrong.append(f"{part.name}: {what} {part.did[what]:g}, should be {want:g}")
    return parts, wrong


def as_json(part: Part) -> dict[str, Any]:
    rows = {row: part.samples[i :: len(SLACK)].tolist() for i, row in enumerate(SLACK)}
    return {"name": part.name, **part.did, "samples": rows}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite-68", help="a net's name, or an .onnx file")
    parser.add_argument("--hours", type=positive, default=1.0, help="how long the camera is watched (default: 1)")
    parser.add_argument("--json", type=to_write, metavar="FILE", help="everything that was measured")
    args = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            parts, wrong = soak(args.hours, args.model, Path(folder))
    except LivemarksError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("| part | measured | 1st quarter | 2nd | 3rd | 4th | |\n|---|---|---|---|---|---|---|")
    for part in parts:
        for row in SLACK:
            cells = " | ".join(f"{value:.0f}" for value in part.quarters(row))
            print(f"| {part.name} | {row} | {cells} | {'flat' if part.flat(row) else 'GROWS'} |")
    print()
    for part in parts:
        print(f"{part.name}: {', '.join(f'{what} {number:g}' for what, number in part.did.items())}")
    print(f"wrong: {'; '.join(wrong) or 'nothing'}")
    if args.json:
        args.json.write_text(json.dumps({"parts": list(map(as_json, parts)), "wrong": wrong}, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
