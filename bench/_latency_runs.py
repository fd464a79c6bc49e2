"""Whole runs for bench/latency.py: a file from decoding to encoding, and the age of what is shown live."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _latency_film as film
import numpy as np
from _latency_report import Row, row

from livemarks import api, draw, pipeline, plugins
from livemarks.types import U8, Frame, Result, SourceInfo, Tally

STAGES = ("decode", "detect", "crop", "infer", "smooth", "draw", "encode")

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
    """Rows per stage, and one of the whole. What is read is always a file, so that decoding is decoding."""
    model, backend = options.model[0], options.backend[0]
    drawn_s: list[float] = []

    def drawing(result: Result) -> U8:
        start = time.perf_counter()
        image = draw.overlay(result)
        drawn_s.append(time.perf_counter() - start)
        return image

    for size_wh in film.SIZES_WH[:2] if options.source == "synthetic" else (None,):
        with tempfile.TemporaryDirectory() as folder:
            clip = film.as_file(options.source, size_wh or (0, 0), options.seconds, Path(folder))
            source = TimedSource(api.open_source(clip))
            net = api.open_net(model, backend=backend)
            tracker = api.open_tracker(net)
            sink = TimedSink(plugins.load("sinks", "video")(str(Path(folder) / "out.mp4"), source.info))
            tally = pipeline.run(source, tracker, [sink], draw=drawing)
            tracker.close()
        wide, high = source.info.size_wh or (0, 0)
        what = {"size": f"{wide}x{high}", "model": net.card.name, "backend": net.runner.label}
        # The first frame is decoded when the file is opened.
        times = {"decode": source.took_s[1:], **sink.stage_s, "draw": drawn_s, "encode": sink.took_s}
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
        self.warm = tracker.warm
        self.took_s: list[float] = []
        self._tracker, self._least_s = tracker, least_s

    def step(self, frame: Frame) -> Result:
        start = time.perf_counter()
        result: Result = self._tracker.step(frame)
        time.sleep(max(0.0, self._least_s - (time.perf_counter() - start)))
        self.took_s.append(time.perf_counter() - start)
        return result


def measure_live(options: argparse.Namespace) -> Iterator[Row]:
    """Rows at leisure and under twice the load that the tracker bears.

    A frame waits for the tracker for up to one frame time of the source, when a newer one takes its place, and is then
    processed and drawn. So it can't be shown younger than that work takes, nor much older than that and one frame time:
    bound_ms, from the medians of the work. Of a tracker that takes two of the source's frame times no picture can be
    younger than these two. source_frames, shown_frames: the 99th percentile of the age, over the time from a frame of
    the source to the next, and from a shown frame to the next. quarters_ms: the median age in each quarter of the run,
    which would grow if anything queued up.
    """
    for load, least_s in (("at leisure", 0.0), ("2x overload", 2 / film.FPS)):
        source = StampedSource(film.open_source("synthetic", film.SIZES_WH[1], options.seconds, live=True))
        net = api.open_net(options.model[0], backend=options.backend[0])
        tracker = api.open_tracker(net)
        slow, sink = SlowTracker(tracker, least_s), AgeSink(source)
        drawn_s: list[float] = []

        def drawing(result: Result, drawn_s: list[float] = drawn_s) -> U8:
            start = time.perf_counter()
            image = draw.overlay(result)
            drawn_s.append(time.perf_counter() - start)
            return image

        tally = pipeline.run(source, slow, [sink], draw=drawing)
        tracker.close()
        ages_s = sink.age_s[min(film.WARM_FRAMES, len(sink.age_s) // 2) :]
        bound_s = float(np.median(slow.took_s) + np.median(drawn_s)) + 1 / film.FPS
        late_s = float(np.percentile(ages_s, 99))
        more = {
            "max_ms": 1e3 * max(ages_s),
            "bound_ms": 1e3 * bound_s,
            "source_frames": late_s * film.FPS,
            "shown_frames": late_s * tally.processed / options.seconds,
            "quarters_ms": " ".join(f"{1e3 * np.median(part):.1f}" for part in np.array_split(ages_s, 4)),
            "captured": tally.captured,
            "processed": tally.processed,
            "dropped": tally.dropped,
        }
        what = {"size": "1280x720", "load": load, "model": net.card.name, "backend": net.runner.label}
        yield row("live", what, ages_s, **more)
