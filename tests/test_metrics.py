"""Metrics against answers known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from livemarks import metrics, plugins
from livemarks.types import F64

IBUG = plugins.load("schemes", "ibug68")
RNG = np.random.default_rng(0)


def faces(count: int = 3) -> F64:
    """Random 68-point faces whose outer eye corners are 50 px apart."""
    xy = RNG.uniform(0, 100, (count, 68, 2))
    xy[:, 36], xy[:, 45] = (20, 40), (50, 80)
    return xy


def test_nme_is_the_mean_distance_over_the_outer_eye_distance() -> None:
    true = faces()
    pred = true + np.array([[[3.0, 4.0]]]) * np.array([1, 2, 3])[:, None, None]  # 5, 10 and 15 px off
    errors = metrics.point_errors_percent(pred, true, metrics.interocular_px(true, IBUG))
    np.testing.assert_allclose(errors.mean(axis=1), [10, 20, 30])


def test_missing_labels_are_left_out() -> None:
    kaggle = plugins.load("schemes", "kaggle15")
    true = RNG.uniform(0, 96, (2, 15, 2))
    pred = true + 1.0
    true[0, 10] = np.nan
    pred[1, 11] += 100  # would show, were it not missing
    true[1, 11] = np.nan
    distance = metrics.interocular_px(true, kaggle)
    errors = metrics.point_errors_percent(pred, true, distance)
    assert np.argwhere(np.isnan(errors)).tolist() == [[0, 10], [1, 11]]
    np.testing.assert_allclose(np.nanmean(errors, axis=1), 100 * 2**0.5 / distance)
    assert metrics.rmse_px(pred, true) == pytest.approx(1.0)


def test_rmse_counts_each_coordinate_once() -> None:
    true = np.zeros((1, 2, 2))
    pred = np.array([[[3.0, 0], [0, 1]]])
    assert metrics.rmse_px(pred, true) == pytest.approx((10 / 4) ** 0.5)


def test_a_scheme_without_eyes_has_no_nme() -> None:
    with pytest.raises(ValueError, match="nose1"):
        metrics.interocular_px(np.zeros((1, 1, 2)), plugins.load("schemes", "nose1"))


def test_failures_and_area_under_the_error_curve() -> None:
    errors = np.array([2.0, 4.0, 9.0, np.inf])
    assert metrics.failure_rate(errors, 8) == 0.5
    assert metrics.failure_rate(errors, 10) == 0.25
    assert metrics.failure_rate(np.array([np.nan, 1.0]), 8) == 0.5
    assert metrics.auc(errors, 8) == pytest.approx((6 / 8 + 4 / 8) / 4)
    assert metrics.auc(np.array([2.0, 4.0, 9.0, np.nan]), 8) == metrics.auc(errors, 8)
    steps = np.linspace(0, 8, 100_001)  # the definition: the fraction of faces below e, averaged over e
    assert metrics.auc(errors, 8) == pytest.approx(np.mean([(errors <= e).mean() for e in steps]), abs=1e-4)


@pytest.mark.parametrize("name", ["ibug68", "imm58", "kaggle15"])
def test_regions_share_out_all_points(name: str) -> None:
    scheme = plugins.load("schemes", name)
    regions = [metrics.region_indices(scheme, region) for region in ("jaw", "brows", "nose", "eyes", "mouth")]
    assert sorted(i for region in regions for i in region) == list(range(len(scheme)))


def test_a_region_sees_only_its_own_points() -> None:
    true = faces()
    pred = true.copy()
    pred[:, 48:, 0] += 5
    errors = metrics.point_errors_percent(pred, true, metrics.interocular_px(true, IBUG))
    wanted = {"jaw": 0, "brows": 0, "nose": 0, "eyes": 0, "mouth": 10}
    assert metrics.region_means(errors, IBUG) == pytest.approx(wanted)
    tip = plugins.load("schemes", "nose1")
    assert metrics.region_means(errors[:, 30:31], tip) == {"nose": 0}


def test_sigma_coverage_of_a_gaussian() -> None:
    sigma = RNG.uniform(0.5, 3, (200, 68))
    pred = RNG.normal(0, sigma[:, :, None], (200, 68, 2))
    true = np.zeros_like(pred)
    assert metrics.sigma_coverage(pred, true, sigma, 1) == pytest.approx(0.683, abs=0.01)
    assert metrics.sigma_coverage(pred, true, sigma, 2) == pytest.approx(0.954, abs=0.01)
    assert metrics.sigma_coverage(pred, true, sigma / 2, 1) < 0.4


def track(frames: int = 300) -> F64:
    """(T, 5, 2) points that rest, then move in two uneven bursts."""
    t = np.arange(frames)
    x = 40 / (1 + np.exp(-(t - 80) / 3)) - 25 / (1 + np.exp(-(t - 200) / 2))
    motion = np.stack([x, 0.3 * x], axis=1)
    return np.asarray(motion[:, None] + RNG.uniform(0, 50, (1, 5, 2)))


@pytest.mark.parametrize("lag", [-1.5, -0.25, 0.0, 0.1, 0.5, 1.0, 2.7])
def test_lag_is_found_to_a_part_of_a_frame(lag: float) -> None:
    fine = np.arange(300) - lag
    true = track()
    pred = np.stack([np.interp(fine, np.arange(300), column) for column in true.reshape(300, -1).T], axis=1)
    pred = pred.reshape(true.shape) + RNG.normal(0, 0.2, true.shape) + 3.0  # jitter and a constant offset
    pred[50:60] = np.nan  # the face was lost for a while
    noisy = true + RNG.normal(0, 0.2, true.shape)  # the labels jitter, too
    assert metrics.lag_frames(pred, noisy) == pytest.approx(lag, abs=0.05)


def test_lag_of_nothing_moving_is_unknown_and_a_long_one_is_cut() -> None:
    still = np.zeros((50, 5, 2))
    assert np.isnan(metrics.lag_frames(still, still))
    assert np.isnan(metrics.lag_frames(still[:10], still[:10]))
    true = track()
    assert metrics.lag_frames(np.roll(true, 9, axis=0), true) == 5


def test_flicker_is_the_change_of_the_error_not_of_the_face() -> None:
    true = track()
    eyes = np.full(300, 50.0)
    assert metrics.flicker_percent(true + 4.0, true, eyes) == pytest.approx(0, abs=1e-9)
    jitter = RNG.normal(0, 0.1, true.shape)
    assert metrics.flicker_percent(true + jitter, true, eyes) == pytest.approx(100 * 2 * 0.1 / 50, rel=0.05)
    gap = true + jitter
    gap[100:200] = np.nan
    assert metrics.flicker_percent(gap, true, eyes) == pytest.approx(0.4, rel=0.08)


def test_an_offset_that_turns_and_grows_with_the_face_is_removed() -> None:
    turn = np.linspace(0, 1, 40)
    eyes = np.stack([np.cos(turn), np.sin(turn)], axis=1) * np.linspace(30, 60, 40)[:, None]
    true = RNG.uniform(0, 100, (40, 6, 2))
    own = RNG.normal(0, 0.05, (6, 2))  # each point's offset, in the face's own frame
    x_axis, y_axis = eyes, np.stack([-eyes[:, 1], eyes[:, 0]], axis=1)
    pred = true + own[:, 0, None] * x_axis[:, None] + own[:, 1, None] * y_axis[:, None]
    assert np.abs(pred - true).max() > 1
    np.testing.assert_allclose(metrics.without_offset(pred, true, eyes), true, atol=1e-9)


def test_latency_tells_percentiles_and_when_not_to_trust_them() -> None:
    quiet = metrics.latency(np.full(200, 0.002))
    assert (quiet.n, quiet.p50_ms, quiet.p99_ms, quiet.warning) == (200, 2.0, 2.0, "")
    assert "only 3 runs" in metrics.latency([0.001, 0.001, 0.001]).warning
    busy = metrics.latency([0.001] * 90 + [0.01] * 20)
    assert "spread" in busy.warning
    assert "spread" in str(busy)
    with pytest.raises(ValueError, match="no durations"):
        metrics.latency([])
