"""talking_face_a, a labelled video, and MediaPipe's face mesh on it; for bench/stability.py."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from _ask_peer import MeshMap
from _follow import MakeTracker, compare, follow, smoothed, tracks

from livemarks import api
from livemarks.types import F64, LivemarksError, Scheme


def read_labels(path: Path) -> tuple[list[int], F64]:
    """iBUG indices (n,) and points (T, n, 2) of a csv with columns frame, x8, y8, …"""
    try:
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        indices = [int(name[1:]) for name in header[1::2]]
        return indices, np.array(rows, np.float64)[:, 1:].reshape(len(rows), len(indices), 2)
    except (OSError, ValueError) as error:
        raise LivemarksError(f"cannot read the labels {path}: {error}") from error


def labelled(data: Path, kinds: Sequence[str], make: MakeTracker, scheme: Scheme) -> Iterator[dict[str, Any]]:
    """One row for each kind of smoothing."""
    clip = data / "video" / "talking_face_a.mp4"
    indices, true = read_labels(clip.with_suffix(".csv"))
    with closing(api.open_source(clip)) as source, closing(make(1)) as tracker:
        results = follow(source, tracker)
    for kind in kinds:
        yield {"smooth": kind} | score_labelled(smoothed(results, kind, scheme), indices, true) | tracks(results)


def score_labelled(xy: F64, indices: Sequence[int], true: F64) -> dict[str, float]:
    """Of (T, 68, 2) against the 19 labelled points."""
    if len(xy) != len(true):
        raise LivemarksError(f"the clip has {len(xy)} frames, and its labels {len(true)}")
    eyes = true[:, indices.index(45)] - true[:, indices.index(36)]
    return compare(xy[:, indices], true, eyes)


def mesh_peer(data: Path, python: str, map_file: Path) -> dict[str, Any]:
    """The same row for MediaPipe's face mesh, which another interpreter may have, by the best linear map to 68."""
    clip = data / "video" / "talking_face_a.mp4"
    command = [python, str(Path(__file__).with_name("_mesh_video.py")), str(clip)]
    to_68 = MeshMap(map_file)
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise LivemarksError(f"cannot run {python}: {error.strerror}") from error
    hello, *lines = answer.stdout.splitlines() or ["{}"]
    said: dict[str, str] = json.loads(hello)
    if answer.returncode or "version" not in said:
        why = said.get("missing") or (answer.stderr.strip() or "it ended without a word").splitlines()[-1]
        raise LivemarksError(f"no MediaPipe face mesh in {python}: {why}")
    xy = [np.full((68, 2), np.nan) if points is None else to_68(np.array(points)) for points in map(json.loads, lines)]
    return {"smooth": said["version"]} | score_labelled(np.stack(xy), *read_labels(clip.with_suffix(".csv")))
