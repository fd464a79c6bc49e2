"""The race in bench/latency.py: livemarks and its peers follow one face by turns, each in a process of its own.

A turn is a block of 30 frames (film.FPS): some 40 ms of work. `--seconds N` gives each side N blocks that count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import _latency_film as film
import numpy as np
from _latency_report import Row, row

from livemarks.numbers import counted
from livemarks.types import LivemarksError


class Side:
    """A process that follows faces in frames on request (see _latency_side.py)."""

    def __init__(self, name: str, python: str, frames: Path, cores: Sequence[int], *arguments: str) -> None:
        script = Path(__file__).with_name("_latency_side.py")
        command = [python, str(script), name, str(frames), str(film.FPS), *arguments]
        if cores:
            command += ["--cores", ",".join(map(str, cores))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        try:
            self._process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
        except OSError as error:
            raise LivemarksError(f"{name}: cannot run {python}: {error.strerror}") from error
        self._name = name
        self.took_s: list[list[float]] = []  # by block
        self.faces: list[int] = []
        hello = self._answer()
        if "missing" in hello:
            self.close()
            raise LivemarksError(f"{name} can't be run by {python}: {hello['missing']}")
        self.version: str = hello["version"]

    def run(self, frames: Sequence[int], *, counts: bool = True) -> None:
        """Follows the face through these frames; waits until it is done."""
        with contextlib.suppress(OSError):  # it ended since its last answer; the next one tells of that
            self._process.stdin.write(json.dumps({"frames": list(frames)}) + "\n")
            self._process.stdin.flush()
        answer = self._answer()
        if counts:
            self.took_s.append(answer["seconds"])
            self.faces += answer["faces"]

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise LivemarksError(f"{self._name} ended with status {self._process.wait()} instead of answering")
        answer: dict[str, Any] = json.loads(line)
        return answer


def conditions() -> list[tuple[str, list[int], bool]]:
    """Name, cores, and whether a busy process shares them. Where cores can't be chosen, the machine as it is."""
    if not hasattr(os, "sched_getaffinity"):
        return [("all cores", [], False)]
    cores = sorted(os.sched_getaffinity(0))[:2]
    all_of_them = counted(len(cores), "core")
    alone = [(all_of_them, cores, False), ("1 core", cores[:1], False)]
    return [*alone[-len(cores) :], (f"{all_of_them}, busy", cores, True)]


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


def check_peers(options: argparse.Namespace) -> None:
    """Raises LivemarksError unless all of them start."""
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder) / "frames.npy"
        np.save(frames, np.zeros((1, 8, 8, 3), np.uint8))
        for peer in options.peers:
            Side(peer, options.peer_python.get(peer, sys.executable), frames, []).close()


def measure_peers(options: argparse.Namespace) -> Iterator[Row]:
    """Per size and condition: a row a side, and a row a peer of our block's median over its, with quartiles."""
    arguments = ["--model", options.model[0], "--backend", options.backend[0]]
    blocks = max(3, round(options.seconds))
    for size_wh in film.SIZES_WH[:2]:
        with tempfile.TemporaryDirectory() as folder:
            frames, count = Path(folder) / "frames.npy", 2 * film.FPS
            images = film.frames_of(options.source, size_wh, count)
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
                        turn = film.there_and_back(len(images), (block + 1) * film.FPS, film.FPS)
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
