"""Milliseconds: of the pipeline and its stages, of the nets alone, as faces and pixels grow, and beside other trackers.

    python bench/latency.py [--part pipeline|live|net|growth|peers] [--source synthetic|CLIP] [--model NAME,…|all]
        [--backend NAME,…|all] [--peers mediapipe,dlib --peer-python mediapipe=PATH …] [--json OUT] [--compare OLD]
        [--plot OUT.png]

pipeline: a file from decoding to encoding; per stage, and frames per second (n - 1 frames over the time from first to
last). live: a paced source whose frames carry their number in their pixels, so that what is measured is the age of the
very picture shown, from frame in hand to frame composed; at leisure, and with a tracker that takes two frame times.
net: one call of the runner, crops in host memory to points in host memory; on CUDA the copies alone as well.
growth: `Tracker.step` for 1 to 8 faces and 360p to 4K; "rest" is all of it but detector and net.
peers: the time to follow one face, each side in its own process, by turns on the same frames in blocks of a second; on
two cores, on one, and on two with a second busy process. Ratios are of neighbouring blocks, so that a machine that
slows down slows both. Drawing, decoding and colour conversion are in no side's time.

Every row keeps its raw times in the JSON, with the machine and the versions. Times of one run can be compared; times of
two runs only if the machine was as quiet.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

import livemarks
from livemarks import api, draw, metrics, pipeline, plugins, weights
from livemarks.types import U8, Frame, LivemarksError, Result, SourceInfo, Tally

PARTS = ("pipeline", "live", "net", "growth", "peers")
STAGES = ("decode", "detect", "crop", "infer", "smooth", "draw", "encode")
SIZES_WH = ((640, 360), (1280, 720), (1920, 1080), (3840, 2160))
FPS = 30
WARM_FRAMES = 15  # the detector's first look, libraries that load late, buffers that grow
PORTRAIT = Path(livemarks.__file__).parent / "portrait.jpg"

Row = dict[str, Any]


def row(part: str, what: dict[str, Any], seconds: Sequence[float], **more: Any) -> Row:
    """One line of the report: what was measured, how often, and how it spread."""
    summary = metrics.latency(seconds)
    return {
        "part": part,
        **what,
        "n": summary.n,
        "p50_ms": summary.p50_ms,
        "p95_ms": summary.p95_ms,
        "p99_ms": summary.p99_ms,
        "warning": summary.warning,
        **more,
        "raw_us": [round(1e6 * s) for s in seconds],
    }


# --- Frames -----------------------------------------------------------------------------------------------------------


def portrait() -> U8:
    """The public-domain portrait that `livemarks demo` moves about."""
    image = cv2.imread(str(PORTRAIT))
    if image is None:
        raise LivemarksError(f"{PORTRAIT} is missing or damaged; install livemarks again")
    return np.asarray(image, np.uint8)


def open_source(spec: str, size_wh: tuple[int, int], seconds: float, *, live: bool = False, seed: int = 0) -> Any:
    """The portrait in motion, or a clip as it is."""
    if spec != "synthetic":
        return api.open_source(spec)
    make = plugins.load("sources", "synthetic")
    return make(portrait(), seconds=seconds, fps=FPS, size_wh=size_wh, seed=seed, live=live)


def frames_of(spec: str, size_wh: tuple[int, int], count: int, seed: int = 0) -> U8:
    """The first `count` frames of a source, (F, H, W, 3): scaled to cover the size, and cut to it."""
    width, height = size_wh
    frames = []
    with closing(open_source(spec, size_wh, count / FPS, seed=seed)) as source:
        for frame in source:
            scale = max(width / frame.size_wh[0], height / frame.size_wh[1])
            scaled_wh = (max(width, round(frame.size_wh[0] * scale)), max(height, round(frame.size_wh[1] * scale)))
            image = cv2.resize(frame.image, scaled_wh, interpolation=cv2.INTER_AREA)
            x, y = (scaled_wh[0] - width) // 2, (scaled_wh[1] - height) // 2
            frames.append(np.asarray(image[y : y + height, x : x + width], np.uint8))
            if len(frames) == count:
                break
    return np.stack(frames)


def crowd(faces: int, size_wh: tuple[int, int], count: int) -> U8:
    """As many portraits side by side, each moving in its own way: (F, H, W, 3)."""
    columns = math.ceil(math.sqrt(faces))
    width, height = size_wh[0] // columns, size_wh[1] // math.ceil(faces / columns)
    frames = np.zeros((count, size_wh[1], size_wh[0], 3), np.uint8)
    for i in range(faces):
        x, y = i % columns * width, i // columns * height
        frames[:, y : y + height, x : x + width] = frames_of("synthetic", (width, height), count, seed=i)
    return frames


def there_and_back(count: int, start: int, length: int) -> list[int]:
    """Indices into `count` frames, forwards and backwards by turns, so that nothing ever jumps."""
    period = max(1, 2 * (count - 1))
    return [min(i % period, period - i % period) for i in range(start, start + length)]


# --- A file, from decoding to encoding --------------------------------------------------------------------------------


class TimedSource:
    """A source, and how long each of its frames took."""

    def __init__(self, source: Any) -> None:
        self.info: SourceInfo = source.info
        self.notices: list[str] = source.notices
        self.took_s: list[float] = []
        self.close = source.close
        self._source = source

    def __iter__(self) -> Iterator[Frame]:
        start = time.perf_counter()
        for frame in self._source:
            self.took_s.append(time.perf_counter() - start)
            yield frame
            start = time.perf_counter()


class TimedSink:
    """A sink, how long each frame took it, when it came, and what the tracker's stages had taken."""

    wants_pixels = True

    def __init__(self, sink: Any) -> None:
        self.took_s: list[float] = []
        self.shown_s: list[float] = []
        self.stage_s: dict[str, list[float]] = {}
        self.close = sink.close
        self._sink = sink

    def write(self, result: Result, image: U8 | None, tally: Tally) -> None:
        for stage, seconds in result.stage_s.items():
            self.stage_s.setdefault(stage, []).append(seconds)
        start = time.perf_counter()
        self._sink.write(result, image, tally)
        self.took_s.append(time.perf_counter() - start)
        self.shown_s.append(time.perf_counter())


def measure_pipeline(options: argparse.Namespace) -> Iterator[Row]:
    """Rows per stage, and one of the whole."""
    model, backend = options.model[0], options.backend[0]
    drawn_s: list[float] = []

    def drawing(result: Result) -> U8:
        start = time.perf_counter()
        image = draw.overlay(result)
        drawn_s.append(time.perf_counter() - start)
        return image

    for size_wh in SIZES_WH[:2] if options.source == "synthetic" else (None,):
        with tempfile.TemporaryDirectory() as folder:
            source = TimedSource(open_source(options.source, size_wh or (0, 0), options.seconds))
            net = api.open_net(model, backend=backend)
            tracker = api.open_tracker(net)
            sink = TimedSink(plugins.load("sinks", "video")(str(Path(folder) / "out.mp4"), source.info))
            tally = pipeline.run(source, tracker, [sink], draw=drawing)
            tracker.close()
        wide, high = source.info.size_wh or (0, 0)
        what = {"size": f"{wide}x{high}", "model": net.card.name, "backend": net.runner.label}
        times = {"decode": source.took_s, **sink.stage_s, "draw": drawn_s, "encode": sink.took_s}
        for stage in STAGES:
            # The detector looks now and then: its row is of the frames in which it did.
            seconds = [s for s in times[stage] if stage != "detect" or s > 0]
            if seconds:
                yield row("pipeline", {**what, "stage": stage}, seconds)
        gaps_s = np.diff(sink.shown_s)
        counts = {"captured": tally.captured, "processed": tally.processed, "dropped": tally.dropped}
        fps = len(gaps_s) / float(gaps_s.sum())
        yield row("pipeline", {**what, "stage": "whole"}, gaps_s.tolist(), fps=fps, faces=tally.faces, **counts)
        drawn_s.clear()


# --- Live: how old is what is shown -----------------------------------------------------------------------------------

_BITS, _BIT_PX = 16, 4


def stamp(image: U8, number: int) -> None:
    """Writes a number into the lower left corner, as 16 black or white squares."""
    for bit in range(_BITS):
        image[-_BIT_PX:, bit * _BIT_PX : (bit + 1) * _BIT_PX] = 255 * (number >> bit & 1)


def read_stamp(image: U8) -> int:
    """The number that `stamp` wrote."""
    middles = image[-_BIT_PX // 2, _BIT_PX // 2 : _BITS * _BIT_PX : _BIT_PX, 0] > 127
    return int(sum(1 << bit for bit, is_set in enumerate(middles.tolist()) if is_set))


class StampedSource:
    """Stamps each frame with its index, and notes when it was handed over."""

    def __init__(self, source: Any) -> None:
        self.info: SourceInfo = source.info
        self.notices: list[str] = source.notices
        self.handed_s: dict[int, float] = {}
        self.close = source.close
        self._source = source

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            image = frame.image.copy()
            stamp(image, frame.index)
            self.handed_s[frame.index] = time.perf_counter()
            yield Frame(image, frame.index, frame.t_s)


class AgeSink:
    """Reads the number off the composed picture, and notes how old it is."""

    wants_pixels = True

    def __init__(self, source: StampedSource) -> None:
        self.age_s: list[float] = []
        self._source = source

    def write(self, result: Result, image: U8 | None, _: Tally) -> None:
        assert image is not None
        shown = read_stamp(image)
        assert shown == result.frame.index, f"picture {shown} was shown as frame {result.frame.index}"
        self.age_s.append(time.perf_counter() - self._source.handed_s[shown])

    def close(self) -> None: ...


class SlowTracker:
    """A tracker that takes at least so long for each frame."""

    def __init__(self, tracker: Any, least_s: float) -> None:
        self._tracker, self._least_s = tracker, least_s

    def step(self, frame: Frame) -> Result:
        start = time.perf_counter()
        result: Result = self._tracker.step(frame)
        time.sleep(max(0.0, self._least_s - (time.perf_counter() - start)))
        return result


def measure_live(options: argparse.Namespace) -> Iterator[Row]:
    """Rows at leisure and under twice the load that the tracker bears."""
    for load, least_s in (("at leisure", 0.0), ("2x overload", 2 / FPS)):
        source = StampedSource(open_source("synthetic", SIZES_WH[1], options.seconds, live=True))
        net = api.open_net(options.model[0], backend=options.backend[0])
        tracker = api.open_tracker(net)
        sink = AgeSink(source)
        tally = pipeline.run(source, SlowTracker(tracker, least_s), [sink], draw=draw.overlay)
        tracker.close()
        ages_s = sink.age_s[min(WARM_FRAMES, len(sink.age_s) // 2) :]
        third = max(1, len(ages_s) // 3)
        growth_ms = 1e3 * float(np.median(ages_s[-third:]) - np.median(ages_s[:third]))
        counts = {"captured": tally.captured, "processed": tally.processed, "dropped": tally.dropped}
        what = {"size": "1280x720", "load": load, "model": net.card.name, "backend": net.runner.label}
        yield row(
            "live", what, ages_s, frame_times=float(np.percentile(ages_s, 95)) * FPS, growth_ms=growth_ms, **counts
        )


# --- The net alone ----------------------------------------------------------------------------------------------------


def repeated(call: Callable[[], Any], seconds: float) -> list[float]:
    """How long each call took, over about so many seconds and at least 20 calls, after five that don't count."""
    for _ in range(5):
        call()
    took_s: list[float] = []
    while len(took_s) < 20 or (sum(took_s) < seconds and len(took_s) < 2000):
        start = time.perf_counter()
        call()
        took_s.append(time.perf_counter() - start)
    return took_s


def measure_net(options: argparse.Namespace) -> Iterator[Row]:
    """A row per model, backend and batch; one that says why for a backend that doesn't run here."""
    for model in options.model:
        for backend in options.backend:
            what = {"model": model, "backend": backend}
            try:
                net = api.open_net(model, backend=backend)
            except LivemarksError as error:
                yield {"part": "net", **what, "warning": str(error)}
                continue
            what = {"model": net.card.name, "backend": net.runner.label}
            on_cuda = "cuda" in net.runner.label
            for batch in (1, 2, 4, 8, 16, 32, 64) if on_cuda else (1, 2, 4, 8):
                shape = (batch, *net.card.size_hw, 3)
                crops = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
                took_s = repeated(lambda net=net, crops=crops: net.runner(crops), options.seconds / 10)  # type: ignore[misc]
                more = {"crops_per_s": batch / float(np.median(took_s))}
                if on_cuda:
                    more["copies_ms"] = 1e3 * copies_s(crops, 3 * len(net.scheme) + 1)
                yield row("net", {**what, "batch": batch}, took_s, **more)
            net.runner.close()


def copies_s(crops: U8, numbers: int) -> float:
    """Median time for the copies alone: crops to the CUDA device, so many numbers a crop back; synchronised."""
    import torch

    host = torch.from_numpy(crops).pin_memory()
    answer = torch.zeros((len(crops), numbers), device="cuda")

    def copy() -> None:
        host.to("cuda", non_blocking=True)
        answer.cpu()
        torch.cuda.synchronize()

    return float(np.median(repeated(copy, 0.2)))


# --- Growth -----------------------------------------------------------------------------------------------------------


def steps(tracker: Any, frames: U8, count: int) -> tuple[list[float], list[float], int]:
    """Seconds of each step, of each step less detector and net, and the most faces followed; the first don't count."""
    step_s, rest_s, most = [], [], 0
    for index, i in enumerate(there_and_back(len(frames), 0, WARM_FRAMES + count)):
        frame = Frame(frames[i], index, index / FPS)
        start = time.perf_counter()
        result = tracker.step(frame)
        seconds = time.perf_counter() - start
        if frame.index >= WARM_FRAMES:
            step_s.append(seconds)
            rest_s.append(seconds - result.stage_s["detect"] - result.stage_s["infer"])
            most = max(most, len(result.faces))
    return step_s, rest_s, most


def measure_growth(options: argparse.Namespace) -> Iterator[Row]:
    """Rows by number of faces at 720p, then by frame size with one face; frames are made beforehand."""
    cases = [(faces, SIZES_WH[1]) for faces in (1, 2, 4, 8)]
    cases += [(1, size_wh) for size_wh in SIZES_WH if size_wh != SIZES_WH[1]]
    for model in options.model:
        for faces, size_wh in cases:
            net = api.open_net(model, backend=options.backend[0])
            frames = crowd(faces, size_wh, min(2 * FPS, 500_000_000 // (3 * size_wh[0] * size_wh[1])))
            with closing(api.open_tracker(net, faces=faces)) as tracker:
                step_s, rest_s, found = steps(tracker, frames, round(options.seconds * FPS))
            size = f"{size_wh[0]}x{size_wh[1]}"
            what = {"model": net.card.name, "backend": net.runner.label, "size": size, "faces": faces}
            yield row("growth", what, step_s, rest_p50_ms=1e3 * float(np.median(rest_s)), found=found)


# --- Peers ------------------------------------------------------------------------------------------------------------


class Side:
    """A process that follows faces in frames on request (see _latency_side.py)."""

    def __init__(self, name: str, python: str, frames: Path, cores: Sequence[int], *arguments: str) -> None:
        script = Path(__file__).with_name("_latency_side.py")
        command = [python, str(script), name, str(frames), str(FPS), *arguments]
        if cores:
            command += ["--cores", ",".join(map(str, cores))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
        self.took_s: list[list[float]] = []  # by block
        self.faces: list[int] = []
        hello = self._answer(name)
        if "missing" in hello:
            self.close()
            raise LivemarksError(f"{name} can't be run by {python}: {hello['missing']}")
        self.version: str = hello["version"]

    def run(self, frames: Sequence[int], *, counts: bool = True) -> None:
        """Follows the face through these frames; waits until it is done."""
        self._process.stdin.write(json.dumps({"frames": list(frames)}) + "\n")
        self._process.stdin.flush()
        answer = self._answer("it")
        if counts:
            self.took_s.append(answer["seconds"])
            self.faces += answer["faces"]

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self, name: str) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise LivemarksError(f"{name} ended with status {self._process.wait()} instead of answering")
        answer: dict[str, Any] = json.loads(line)
        return answer


def conditions() -> list[tuple[str, list[int], bool]]:
    """Name, cores, and whether a busy process shares them. Where cores can't be chosen, the machine as it is."""
    if not hasattr(os, "sched_getaffinity"):
        return [("all cores", [], False)]
    cores = sorted(os.sched_getaffinity(0))[:2]
    return [
        (f"{len(cores)} cores", cores, False),
        ("1 core", cores[:1], False),
        (f"{len(cores)} cores, busy", cores, True),
    ]


@contextlib.contextmanager
def busy(cores: Sequence[int]) -> Iterator[None]:
    """A process that does nothing useful all the time, on these cores."""
    program = f"import os; os.sched_setaffinity(0, {set(cores)})\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure_peers(options: argparse.Namespace) -> Iterator[Row]:
    """Per size and condition: a row a side, and a row of ratios a peer."""
    arguments = ["--model", options.model[0], "--backend", options.backend[0]]
    blocks = max(3, round(options.seconds))
    for size_wh in SIZES_WH[:2]:
        with tempfile.TemporaryDirectory() as folder:
            frames, count = Path(folder) / "frames.npy", 2 * FPS
            images = frames_of(options.source, size_wh, count)
            np.save(frames, images)
            for name, cores, has_load in conditions():
                pythons = {"livemarks": sys.executable} | {
                    p: options.peer_python.get(p, sys.executable) for p in options.peers
                }
                with contextlib.ExitStack() as stack:
                    sides = {}
                    for side, python in pythons.items():
                        extra = arguments if side == "livemarks" else []
                        sides[side] = stack.enter_context(closing(Side(side, python, frames, cores, *extra)))
                    if has_load:
                        stack.enter_context(busy(cores))
                    for block in range(-1, blocks):  # the first is to warm up
                        turn = there_and_back(len(images), (block + 1) * FPS, FPS)
                        for side in list(sides.values())[:: 1 if block % 2 else -1]:  # nobody always goes first
                            side.run(turn, counts=block >= 0)
                what = {"size": f"{size_wh[0]}x{size_wh[1]}", "condition": name}
                for key, side in sides.items():
                    share = float(np.mean(np.array(side.faces) > 0))
                    seconds = [s for block_s in side.took_s for s in block_s]
                    yield row("peers", {**what, "side": key, "version": side.version}, seconds, with_face=share)
                ours = np.median(sides["livemarks"].took_s, axis=1)
                for peer in options.peers:
                    ratios = ours / np.median(sides[peer].took_s, axis=1)
                    low, middle, high = np.percentile(ratios, (25, 50, 75)).tolist()
                    yield {"part": "ratio", **what, "side": peer, "ratio": middle, "ratio_p25": low, "ratio_p75": high}


# --- The report -------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux alone has it
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    packages = (
        "livemarks",
        "numpy",
        "opencv-contrib-python",
        "onnxruntime",
        "mediapipe",
        "av",
        "torch",
        "torch-tensorrt",
    )
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"cpu": cpu, "cores": cores, "system": platform.platform(), "python": platform.python_version()}
    return found | {"versions": versions}


def tables(rows: Sequence[Row]) -> list[Table]:
    """One table a part; columns are whatever its rows have."""
    found = []
    for part in dict.fromkeys(row["part"] for row in rows):
        mine = [row for row in rows if row["part"] == part]
        columns = [name for name in dict.fromkeys(k for row in mine for k in row) if name not in ("part", "raw_us")]
        table = Table(*columns, title=part, caption=_MARKS if any("n" in row for row in mine) else None)
        for one in mine:
            table.add_row(*(cell(one.get(name, "")) for name in columns))
        found.append(table)
    return found


# Why not to trust a row: how metrics.latency says it -> how the table does.
_WARNINGS = {"only": "few", "wide": "spread"}
_MARKS = "few: under 100 runs, p99 is about their slowest; spread: p95 beyond 1.5 times p50, the machine was not quiet"


def cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    marks = [_WARNINGS.get(reason.partition(" ")[0], reason) for reason in str(value).split("; ")]
    return ", ".join(marks)


def name_of(row: Row) -> str:
    """What a row is of; the same in two runs that measured the same."""
    words = [str(row[name]) for name in ("size", "load", "condition", "side", "model", "stage") if name in row]
    words += [f"{row[name]} {name}" for name in ("batch", "faces") if name in row and row.get("stage") != "whole"]
    return " ".join([*words, str(row.get("backend", "")).partition(" ")[0]])


def comparison(old: dict[str, Any], new: dict[str, Any]) -> Table:
    """New medians over old ones, where both runs have the row."""
    same = old["machine"] == new["machine"]
    table = Table(
        "part", "what", "old p50", "new p50", "new / old", title="compared" if same else "OTHER MACHINE OR VERSIONS"
    )
    before = {(row["part"], name_of(row)): row["p50_ms"] for row in old["rows"] if "p50_ms" in row}
    for one in new["rows"]:
        was_ms = before.get((one["part"], name_of(one)))
        if was_ms is not None and "p50_ms" in one:
            now_ms = one["p50_ms"]
            ratio = f"{now_ms / max(was_ms, 1e-6):.2f}"
            table.add_row(one["part"], name_of(one), f"{was_ms:.2f}", f"{now_ms:.2f}", ratio)
    return table


def plot(report: dict[str, Any], path: Path) -> None:
    """Every row's median as a bar, with a whisker to its 95th percentile; one panel a part."""
    from matplotlib.figure import Figure

    rows = [row for row in report["rows"] if "p50_ms" in row]
    parts = list(dict.fromkeys(row["part"] for row in rows))
    heights = [sum(row["part"] == part for row in rows) for part in parts]
    figure = Figure(figsize=(9, 1.2 * len(parts) + 0.25 * len(rows)), layout="constrained")
    panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=[h + 2 for h in heights])
    for part, panel in zip(parts, panels[:, 0], strict=True):
        mine = [row for row in rows if row["part"] == part]
        names = [name_of(row) for row in mine]
        p50 = np.array([row["p50_ms"] for row in mine])
        p95 = np.array([row["p95_ms"] for row in mine])
        panel.barh(range(len(mine)), p50, xerr=[np.zeros(len(mine)), p95 - p50], color="#4878a8", ecolor="#999999")
        panel.set_yticks(range(len(mine)), names, fontsize=7)
        panel.invert_yaxis()
        panel.set_title(f"{part}: ms, median and 95th percentile", fontsize=9)
    figure.suptitle(f"livemarks on {report['machine']['cpu']}, {report['when']}", fontsize=9)
    figure.savefig(path, dpi=130)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated (default: all)")
    parser.add_argument("--source", default="synthetic", help="synthetic (default) or a clip")
    parser.add_argument("--model", default="lite-68", help="names or files, or all; most parts take the first")
    parser.add_argument("--backend", default="auto", help="names, or all; most parts take the first")
    parser.add_argument("--peers", default="mediapipe", help="mediapipe, dlib, both with a comma, or none")
    parser.add_argument("--peer-python", action="append", default=[], metavar="NAME=PATH", help="a peer's interpreter")
    parser.add_argument("--seconds", type=float, default=10.0, help="of video for each measurement (default: 10)")
    parser.add_argument("--json", type=Path, help="write everything, raw times included, to this file")
    parser.add_argument("--compare", type=Path, help="an older run's --json")
    parser.add_argument("--plot", type=Path, help="write a picture of it")
    options = parser.parse_args(arguments)
    options.part = options.part or list(PARTS)
    options.model = weights.names() if options.model == "all" else options.model.split(",")
    options.backend = plugins.names("backends") if options.backend == "all" else options.backend.split(",")
    options.peers = [] if options.peers == "none" else options.peers.split(",")
    options.peer_python = dict(pair.split("=", 1) for pair in options.peer_python)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    measure = {
        "pipeline": measure_pipeline,
        "live": measure_live,
        "net": measure_net,
        "growth": measure_growth,
        "peers": measure_peers,
    }
    words, rows = Console(stderr=True), []
    try:
        for part in options.part:
            words.print(f"measuring {part} …", highlight=False)
            rows += list(measure[part](options))
        when = time.strftime("%Y-%m-%d %H:%M")
        command = ["bench/latency.py", *(sys.argv[1:] if arguments is None else arguments)]
        report = {"when": when, "command": command, "machine": machine(), "rows": rows}
        out = Console(width=None if sys.stdout.isatty() else 200)
        for table in tables(rows):
            out.print(table)
        if options.json:
            options.json.write_text(json.dumps(report, indent=1))
        if options.compare:
            out.print(comparison(json.loads(options.compare.read_text()), report))
        if options.plot:
            plot(report, options.plot)
    except LivemarksError as error:
        words.print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
