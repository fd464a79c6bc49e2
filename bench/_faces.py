"""Labelled faces, what was found on them, and how far off that is; for bench/accuracy.py and its rooms."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from livemarks import metrics, plugins
from livemarks.geometry import box_from_points, iou
from livemarks.train.pack import whole_picture
from livemarks.train.samples import DERIVED, Sample, read_sets, scheme_of
from livemarks.types import F32, F64, U8, FaceBox, Frame, Scheme

# A detector's box and the label's that share less belong to two faces: equal boxes half a width apart share a third.
_SAME_FACE_IOU = 0.3
_IMM_HELD_OUT = {f"{person:02d}" for person in range(33, 41)}  # the exercise's validation people
# Errors of the 15 points are told as Kaggle does, in pixels of a 96-px picture that shows the face as Kaggle's do: so
# many times the longer side of its labels' upright box, which puts the eyes 36 px apart. One ruler for every net.
_KAGGLE_PX, _KAGGLE_MARGIN = 96, 1.15
LOW_PRESENCE = 0.5  # below it a track isn't shown (the Tracker's presence_floor)

T = TypeVar("T")
Detect = Callable[[Frame], tuple[FaceBox, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """One labelled face. xy: (N, 2) px in the scheme that is measured. interocular_px: of the set's own labels."""

    sample: Sample
    xy: F32
    interocular_px: float


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What was found on n faces: xy (n, N, 2) and sigma (n, N) px of the pictures, NaN where the face was missed.

    sigma is None for a peer that has none. presence: (n,) in 0..1.
    """

    xy: F64
    sigma: F64 | None
    presence: F64


@cache
def truths(data: Path, set_name: str, scheme: str, limit: int | None) -> list[Truth]:
    """The set's faces with labels in `scheme`, its own or one derived from it; stderr tells of those left out.

    Of IMM only persons 33 to 40; of ytfaces-val nobody whom LFW shows as well, since nets learn from those pictures.
    """
    samples, problems = read_sets(data, [set_name])
    for line in problems:
        print(f"left out: {line}", file=sys.stderr)
    own = scheme_of(set_name)
    derive = DERIVED.get((own, scheme))
    if set_name == "imm":
        samples = [sample for sample in samples if sample.person in _IMM_HELD_OUT]
    if set_name == "ytfaces-val":
        learnt = {sample.person for sample in read_sets(data, ["lfw-pseudo"])[0]}
        samples = [sample for sample in samples if sample.person not in learnt]
    samples = samples[:limit]
    labels = np.stack([sample.xy for sample in samples])
    distance = metrics.interocular_px(labels, plugins.load("schemes", own)).tolist()
    return [Truth(s, derive(s.xy) if derive else s.xy, d) for s, d in zip(samples, distance, strict=True)]


def watched(faces: Sequence[T], text: str) -> Iterable[T]:
    """The faces, with a progress bar on stderr if somebody looks."""
    console = Console(stderr=True)
    return track(faces, text, console=console, disable=not console.is_terminal, transient=True)


def label_box(sample: Sample, image: U8, margin: float) -> FaceBox:
    """The upright tight box of all labels of the set; of Kaggle's pictures, crops themselves, what shows all of it."""
    if sample.set == "kaggle":
        return whole_picture(image, margin)
    return box_from_points(sample.xy, plugins.load("schemes", sample.scheme), upright=True)


def best_overlap(boxes: Sequence[FaceBox], wanted: FaceBox) -> int | None:
    """Which box is the wanted face's: the one that overlaps it most; None if none does so enough."""
    if not boxes:
        return None
    shared = iou(np.stack([box.xyxy for box in boxes]), wanted.xyxy[None])[:, 0]
    return int(shared.argmax()) if shared.max() >= _SAME_FACE_IOU else None


def score(answers: Answers, faces: Sequence[Truth], scheme_name: str) -> dict[str, Any]:
    """All figures of one row: percentages of the inter-ocular distance, px of the pictures, fractions of faces."""
    scheme = plugins.load("schemes", scheme_name)
    found = ~np.isnan(answers.xy).any(axis=(1, 2))
    missed = int((~found).sum())
    row: dict[str, Any] = {"faces": len(faces), "missed": missed}
    if not found.any():
        return row
    pred, true = answers.xy[found], np.stack([face.xy for face in faces])[found]
    distance = np.array([face.interocular_px for face in faces])[found]
    known = ~np.isnan(distance)  # Kaggle labels some faces without the eyes' corners; those count in px alone
    errors = metrics.point_errors_percent(pred[known], true[known], distance[known])
    nme = np.nanmean(errors, axis=1)
    with_missed = np.concatenate([nme, np.full(missed, np.inf)])
    row |= {
        "nme_percent": float(nme.mean()),
        "median_percent": float(np.median(nme)),
        "failures_8": metrics.failure_rate(with_missed, 8),
        "failures_10": metrics.failure_rate(with_missed, 10),
        "auc_8": metrics.auc(with_missed, 8),
        "rmse_px": metrics.rmse_px(pred, true),
        "regions_percent": metrics.region_means(errors, scheme),
    }
    if scheme_name == "kaggle15":
        to_kaggle = np.array([_kaggle_zoom(face.sample) for face in faces])[found, None, None]
        row["rmse_96_px"] = metrics.rmse_px(pred * to_kaggle, true * to_kaggle)
    if answers.sigma is not None:
        row["low_presence"] = int((answers.presence[found] < LOW_PRESENCE).sum())
        row["sigma_coverage"] = coverage(pred, true, answers.sigma[found], scheme)
    return row


def _kaggle_zoom(sample: Sample) -> float:
    """A picture's pixels as pixels of Kaggle's."""
    if sample.set == "kaggle":
        return 1.0
    box = box_from_points(sample.xy, plugins.load("schemes", sample.scheme), upright=True)
    return _KAGGLE_PX / (_KAGGLE_MARGIN * float(box.size_wh.max()))


def coverage(pred: F64, true: NDArray[Any], sigma: F64, scheme: Scheme) -> dict[str, list[float]]:
    """Per region, and for all points: the fractions of coordinates within 1 and 2 sigmas of their label."""
    groups = {"all": list(range(len(scheme)))}
    groups |= {region: metrics.region_indices(scheme, region) for region in metrics.REGIONS}
    return {
        name: [metrics.sigma_coverage(pred[:, g], true[:, g], sigma[:, g], within) for within in (1, 2)]
        for name, g in groups.items()
        if g
    }
