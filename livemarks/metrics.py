"""How good points are: on single faces, on tracks, and in milliseconds.

pred and true are (B, N, 2) px of the same picture; a NaN in either leaves that point out. Faces that were not found are
for the caller to count apart. The unit is in the name: `_percent` is of the inter-ocular distance that the scheme
defines, `_px` are pixels, the rest are fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from livemarks.types import F64, Scheme

# --- single faces ----------------------------------------------------------------------------------------------------

REGIONS = {
    "jaw": ("jaw",),
    "brows": ("brow",),
    "nose": ("nose", "nostril"),
    "eyes": ("eye_",),
    "mouth": ("lip", "mouth"),
}


def interocular_px(xy: NDArray[Any], scheme: Scheme) -> F64:
    """(B,) distance that normalises errors. Raises ValueError if the scheme has none (a nose tip)."""
    if scheme.norm is None:
        raise ValueError(f"scheme {scheme.name} has no pair of points to normalise by")
    first, second = (xy[:, list(group)].astype(np.float64).mean(axis=1) for group in scheme.norm)
    return np.asarray(np.linalg.norm(first - second, axis=1), np.float64)


def point_errors_percent(pred: NDArray[Any], true: NDArray[Any], interocular: NDArray[Any]) -> F64:
    """(B, N) distance of each point from its label, in per cent of each face's inter-ocular distance, (B,) px.

    Their mean is the normalised mean error, NME.
    """
    errors_px = np.linalg.norm(pred.astype(np.float64) - true, axis=2)
    return np.asarray(100 * errors_px / interocular[:, None], np.float64)


def region_means(errors: NDArray[Any], scheme: Scheme) -> dict[str, float]:
    """Mean of (B, N) errors over the jaw's, brows', nose's, eyes' and mouth's points, of those that the scheme has."""
    indices = {region: region_indices(scheme, region) for region in REGIONS}
    return {region: float(np.nanmean(errors[:, found])) for region, found in indices.items() if found}


def region_indices(scheme: Scheme, region: str) -> list[int]:
    """Which points belong to a region, told by their names."""
    return [i for i, name in enumerate(scheme.points) if any(part in name for part in REGIONS[region])]


def rmse_px(pred: NDArray[Any], true: NDArray[Any]) -> float:
    """Root mean square error over all coordinates of all faces, as Kaggle scores: x and y count one each."""
    return float(np.sqrt(np.nanmean(np.square(pred.astype(np.float64) - true))))


def failure_rate(errors_percent: NDArray[Any], threshold_percent: float) -> float:
    """Fraction of faces whose error exceeds the threshold; give a face that wasn't found as infinity, or NaN."""
    return float(np.mean(~(errors_percent <= threshold_percent)))


def auc(errors_percent: NDArray[Any], limit_percent: float = 8.0) -> float:
    """Area under the cumulative error curve from 0 to the limit, 1 at best: exact, no histogram.

    A face that wasn't found is infinity, or NaN, as for `failure_rate`.
    """
    return float(np.mean(np.fmax(1 - np.asarray(errors_percent) / limit_percent, 0)))  # fmax(NaN, 0) is 0


def sigma_coverage(pred: NDArray[Any], true: NDArray[Any], sigma: NDArray[Any], within: float) -> float:
    """Fraction of coordinates that lie `within` sigmas of their label; a Gaussian has 0.683 in 1 and 0.954 in 2.

    sigma: (B, N) px along one axis.
    """
    ratios = np.abs(pred.astype(np.float64) - true) / np.asarray(sigma)[:, :, None]
    return float(np.mean(ratios[~np.isnan(ratios)] <= within))


# --- tracks: T frames of one face; interocular is (T,) px, measured on the truth --------------------------------------


def without_offset(pred: NDArray[Any], true: NDArray[Any], eyes: NDArray[Any]) -> F64:
    """(T, N, 2) predictions less each point's mean offset, taken in the face's own frame.

    Two markups place points slightly differently; that offset turns and grows with the face. eyes: (T, 2) px, from the
    true right outer eye corner to the left one.
    """
    axis = eyes[:, 0] + 1j * eyes[:, 1]  # the face's x axis; complex numbers turn and scale in one product
    error = (pred[..., 0] - true[..., 0]) + 1j * (pred[..., 1] - true[..., 1])  # (T, N)
    offset = np.nanmean(error / axis[:, None], axis=0) * axis[:, None]
    return np.asarray(np.stack([pred[..., 0] - offset.real, pred[..., 1] - offset.imag], axis=2), np.float64)


def flicker_percent(pred: NDArray[Any], true: NDArray[Any], interocular: NDArray[Any]) -> float:
    """Root mean square of the error's change from frame to frame, in per cent of the inter-ocular distance.

    The change is a vector's length, so white jitter of s along each axis gives 2 s. Frames without a face are NaN and
    break the track there.
    """
    change = np.diff(pred.astype(np.float64) - true, axis=0) / np.asarray(interocular)[1:, None, None]
    return float(100 * np.sqrt(np.nanmean(np.square(change).sum(axis=2))))


def lag_frames(pred: NDArray[Any], true: NDArray[Any], max_lag: int = 5) -> float:
    """By how many frames `pred` runs behind `true` (negative: ahead), to a small part of a frame.

    For each whole shift, the mean square distance between the two tracks, each point's constant offset removed; then
    the vertex of the parabola through the three lowest. Whole shifts need no interpolation, whose smoothing of the
    truth's own jitter would pull the answer to half frames; fast motion counts by its square, so rests do no harm.
    Never beyond max_lag; NaN if nothing moves, or in fewer than 2 * max_lag + 3 frames.
    """
    frames = len(true)
    if frames < 2 * max_lag + 3:
        return float("nan")
    shifts = range(-max_lag, max_lag + 1)
    middle = pred[max_lag : frames - max_lag].astype(np.float64)
    differences = np.stack([middle - true[max_lag - k : frames - max_lag - k] for k in shifts])  # (K, T', N, 2)
    differences[:, np.isnan(differences).any(axis=0)] = np.nan  # every shift is judged by the same points
    differences -= np.nanmean(differences, axis=1, keepdims=True)
    cost = np.nanmean(np.square(differences), axis=(1, 2, 3))  # (K,)
    best = int(np.argmin(cost))
    if np.ptp(cost) == 0 or np.isnan(cost).any():
        return float("nan")
    if best in (0, len(cost) - 1):
        return float(shifts[best])
    before, at, after = cost[best - 1 : best + 2].tolist()
    return float(shifts[best] + 0.5 * (before - after) / (before - 2 * at + after))


# --- time ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Latency:
    """Durations in milliseconds. warning: why not to trust them, or empty."""

    n: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    warning: str

    def __str__(self) -> str:
        text = f"{self.p50_ms:.2f} ms (p95 {self.p95_ms:.2f}, p99 {self.p99_ms:.2f}, n={self.n})"
        return f"{text}; {self.warning}" if self.warning else text


def latency(durations_s: Sequence[float] | NDArray[Any]) -> Latency:
    """Percentiles of measured durations, in seconds. Raises ValueError if there are none."""
    ms = 1000 * np.asarray(durations_s, np.float64)
    if ms.size == 0:
        raise ValueError("no durations were measured")
    p50, p95, p99 = np.percentile(ms, [50, 95, 99]).tolist()
    warnings = []
    if ms.size < 100:  # the 99th percentile then lies between the two slowest runs
        warnings.append(f"only {ms.size} runs: p99 is about their slowest")
    if p95 > 1.5 * p50:  # a quiet machine stays within about a fifth
        warnings.append("wide spread: the machine was busy, or its clock changed")
    return Latency(ms.size, p50, p95, p99, "; ".join(warnings))
