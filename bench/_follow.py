"""Following faces through frames and scoring what is found; for bench/stability.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from livemarks import metrics, smoothing
from livemarks.tracker import Tracker
from livemarks.types import F64, Frame, Landmarks, Result, Scheme

MakeTracker = Callable[[int], Tracker]


def follow(frames: Iterable[Frame], tracker: Tracker) -> list[Result]:
    """All results, less the pixels: frames of a long clip would not fit into memory."""
    empty = np.zeros((1, 1, 3), np.uint8)
    results = []
    for frame in frames:
        result = tracker.step(frame)
        results.append(Result(Frame(empty, frame.index, frame.t_s), result.faces, result.stage_s))
    return results


def smoothed(results: Sequence[Result], kind: str, scheme: Scheme) -> F64:
    """(T, N, 2) of the first face in each frame, each track by a smoother of its own; NaN without a face."""
    make = smoothing.preset(kind)
    smoothers: dict[int, Callable[[Landmarks, float], Landmarks]] = {}
    xy = np.full((len(results), len(scheme), 2), np.nan)
    for i, result in enumerate(results):
        if result.faces:
            face = result.faces[0]
            smoother = smoothers.setdefault(face.id, make(scheme))
            xy[i] = smoother(face.raw, result.frame.t_s).xy
    return xy


def compare(pred: F64, true: F64, eyes: F64) -> dict[str, float]:
    """NME, flicker and, if anything moves, lag, of the frames with a face, and their share.

    eyes: (T, 2) px between the true outer eye corners.
    """
    distance = np.linalg.norm(eyes, axis=1)
    level = metrics.without_offset(pred, true, eyes)
    lag = metrics.lag_frames(level, true)
    row = {
        "shown_percent": 100 * float(np.isfinite(pred).all(axis=(1, 2)).mean()),
        "nme_percent": float(np.nanmean(metrics.point_errors_percent(level, true, distance))),
        "flicker_percent": metrics.flicker_percent(level, true, distance),
    }
    return row if math.isnan(lag) else row | {"lag_frames": lag}


def tracks(results: Sequence[Result]) -> dict[str, Any]:
    """How a clip was followed: share of frames with a face, ids given, losses, and how long till the next face.

    first_found: the first frame with a face. longest_gap: the most frames in a row without one.
    """
    shown = np.array([bool(result.faces) for result in results])
    lost = np.flatnonzero(shown[:-1] & ~shown[1:])
    gaps = np.diff(np.flatnonzero(np.concatenate([[True], shown, [True]]))) - 1
    lengths: dict[int, int] = {}
    for result in results:
        for face in result.faces:
            lengths[face.id] = lengths.get(face.id, 0) + 1
    looks = sum(result.stage_s["detect"] > 0 for result in results)
    return {
        "frames": len(results),
        "shown_percent": 100 * float(shown.mean()),
        "ids": len(lengths),
        "losses": len(lost),
        "first_found": int(np.argmax(shown)) if shown.any() else None,
        "longest_gap": int(gaps.max()),
        "longest_track": max(lengths.values(), default=0),
        "looks_percent": 100 * looks / len(results),
        "ms_per_frame": 1000 * float(np.mean([sum(result.stage_s.values()) for result in results])),
    }
