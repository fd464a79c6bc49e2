"""What each part of following a face costs, for bench/latency.py: a stopwatch around some of livemarks' functions."""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any
from unittest import mock

import _latency_film as film
import numpy as np
from _latency_report import Row, row
from _latency_steps import Walk

from livemarks import api, geometry, landmarker, smoothing, tracker

_NET = "net"


class Stopwatch:
    """Adds up what functions take, each less those that it calls; a watched call costs 0.5 us itself."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = {}
        self._inner_s = [0.0]  # by depth: what the functions called from there took

    def watched(self, label: str, function: Any) -> Any:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self._inner_s.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took_s = time.perf_counter() - start
                self.spent_s[label] = self.spent_s.get(label, 0.0) + took_s - self._inner_s.pop()
                self._inner_s[-1] += took_s

        return run


def measure_stages(options: argparse.Namespace) -> Iterator[Row]:
    """Rows by size, in the order of the work: what one face costs a frame, without the detector's looks."""
    for size_wh in film.SIZES_WH[:2]:
        net = api.open_net(options.model[0], backend=options.backend[0])
        images = film.frames_of(options.source, size_wh, film.FPS)
        watch = Stopwatch()
        places: list[tuple[str, Any, str]] = [
            ("where to cut", geometry, "crop_affine"),
            ("cut and halve", geometry, "_part"),
            ("warp", geometry, "resample"),
            ("into the batch", landmarker.Landmarker, "cut"),
            (_NET, type(net.runner), "__call__"),
            ("points to frame px", landmarker.Landmarker, "read"),
            ("boxes of points", tracker, "box_from_points"),
            ("smooth", smoothing.OneEuro, "__call__"),
            ("follow", tracker.Tracker, "step"),
        ]
        labels = [label for label, *_ in places]
        per_frame: dict[str, list[float]] = {label: [] for label in labels}
        with closing(api.open_tracker(net)) as followed, ExitStack() as stack:
            walk = Walk(followed, images)
            walk.go(film.WARM_FRAMES, counts=False)
            places.append(("detector", type(followed._detector), "__call__"))
            for label, owner, name in places:
                stack.enter_context(mock.patch.object(owner, name, watch.watched(label, getattr(owner, name))))
            for _ in range(round(options.seconds * film.FPS)):
                watch.spent_s.clear()
                walk.go(1)
                for label, seconds in per_frame.items():
                    seconds.append(watch.spent_s.get(label, 0.0))
        what = {"size": f"{size_wh[0]}x{size_wh[1]}", "model": net.card.name, "backend": net.runner.label}
        rest_s = [sum(frame) for frame in zip(*(s for label, s in per_frame.items() if label != _NET), strict=True)]
        for label, seconds in {**per_frame, "all but the net": rest_s}.items():
            yield row("stages", {**what, "stage": label}, seconds, p50_us=1e6 * float(np.median(seconds)))
