"""What smoothing must and must not do to a face, in numbers: steadiness, steps, blinks, time, turning and scaling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from conftest import still_points

from livemarks.schemes.ibug68 import SCHEME
from livemarks.schemes.nose1 import SCHEME as NOSE
from livemarks.smoothing import PRESETS, OneEuro, preset
from livemarks.types import F64, Landmarks, LivemarksError, Scheme, Smoother

# The outer eye corners of still_points are 0.34 apart: this makes the inter-ocular distance 100 px.
INTEROCULAR = 100.0
FACE: F64 = (still_points() / 0.34 * INTEROCULAR).astype(np.float64)
NOISE = 0.3  # px: what a net makes of camera noise; 0.3 % of the inter-ocular distance
SIGMA = 1.5  # px: a good net's, whose errors are mostly steady
# Upper lids and what they close on.
LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))

FILTERS = [name for name in PRESETS if name != "off"]


def landmarks(xy: F64, sigma: float = SIGMA, scheme: Scheme = SCHEME) -> Landmarks:
    return Landmarks(scheme, xy.astype(np.float32), np.full(len(scheme), sigma, np.float32), 0.9)


def run(smoother: Smoother, faces: Sequence[F64], fps: float = 30.0, sigma: float = SIGMA) -> F64:
    """(T, N, 2) smoothed."""
    return np.stack([smoother(landmarks(xy, sigma), i / fps).xy for i, xy in enumerate(faces)]).astype(np.float64)


def shaken(faces: F64, noise: float = NOISE, seed: int = 0) -> F64:
    return faces + np.random.default_rng(seed).normal(size=faces.shape) * noise


def still(frames: int) -> F64:
    return np.repeat(FACE[None], frames, axis=0)


def medium() -> Smoother:
    return preset("medium")(SCHEME)


@pytest.mark.parametrize("fps", [15, 30, 60])
def test_a_still_face_stands_still(fps: float) -> None:
    smooth = run(medium(), list(shaken(still(300))), fps)
    assert smooth[100:].std(axis=0).mean() < 0.0015 * INTEROCULAR
    assert smooth[100:].mean(axis=0) == pytest.approx(FACE, abs=0.15)


def test_stronger_is_steadier_and_off_is_raw() -> None:
    faces = list(shaken(still(300)))
    spread = [float(run(preset(name)(SCHEME), faces)[100:].std(axis=0).mean()) for name in PRESETS]
    assert spread == sorted(spread, reverse=True)
    assert spread[0] == pytest.approx(NOISE, rel=0.05)
    assert spread[-1] < 0.35 * NOISE


@pytest.mark.parametrize("fps", [15, 30, 60])
@pytest.mark.parametrize("name", ["light", "medium"])
def test_a_step_is_followed_to_nine_tenths_within_two_frames(name: str, fps: float) -> None:
    step = np.array([0.05 * INTEROCULAR, 0.0])
    faces = still(40)
    faces[30:] += step
    smooth = run(preset(name)(SCHEME), list(shaken(faces)), fps)
    moved = (smooth[31] - smooth[29]).mean(axis=0)
    assert moved[0] > (0.9 if fps <= 30 else 0.8) * step[0]


@pytest.mark.parametrize("depth", [0.03, 0.05, 0.1])
def test_a_one_frame_blink_shows(depth: float) -> None:
    faces = still(40)
    for upper, _ in LIDS:
        faces[30, upper, 1] += depth * INTEROCULAR
    smooth = run(medium(), list(shaken(faces)))
    shown = np.mean([smooth[30, upper, 1] - smooth[29, upper, 1] for upper, _ in LIDS]) / (depth * INTEROCULAR)
    assert shown > (0.7 if depth >= 0.05 else 0.5)
    # ... and is over in time
    left = np.mean([smooth[32, upper, 1] - smooth[29, upper, 1] for upper, _ in LIDS]) / (depth * INTEROCULAR)
    assert abs(left) < 0.3


def test_a_blink_moves_nothing_else() -> None:
    faces = still(40)
    for upper, _ in LIDS:
        faces[30, upper, 1] += 0.08 * INTEROCULAR
    smooth = run(medium(), list(faces))
    others = [i for i in range(68) if i not in dict(LIDS)]
    assert np.abs(smooth[30, others] - FACE[others]).max() < 0.0025 * INTEROCULAR


@pytest.mark.parametrize(("fps", "lag"), [(15, 0.3), (30, 0.5), (60, 0.8)])
def test_a_moving_face_is_followed_closely(fps: float, lag: float) -> None:
    speed = 1.5 * INTEROCULAR  # px/s: a face that crosses its own width in a second
    faces = still(round(3 * fps)) + np.arange(round(3 * fps))[:, None, None] / fps * np.array([speed, 0.0])
    behind = (faces - run(medium(), list(shaken(faces))[:], fps))[round(fps) :, :, 0].mean() / (speed / fps)
    assert 0 <= behind < lag  # frames


def test_a_turning_and_growing_face_is_followed_whole() -> None:
    angle = np.sin(np.arange(90) / 10) * 0.5
    growth = np.exp(np.sin(np.arange(90) / 15) * 0.4)
    center = FACE.mean(axis=0)
    turn = np.stack([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    faces = (FACE - center) @ turn.transpose(0, 2, 1) * growth[:, None, None] + center
    smooth = run(medium(), list(faces))
    assert np.linalg.norm(smooth - faces, axis=2).max() < 0.02 * INTEROCULAR


def test_tuning_knows_neither_resolution_nor_place_nor_roll() -> None:
    turn = np.array([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]]) * 4.0
    faces = shaken(still(60) + np.sin(np.arange(60) / 5)[:, None, None] * 10)
    plain = run(medium(), list(faces))
    moved = run(medium(), list(faces @ turn.T + 1000), sigma=4 * SIGMA)
    assert moved == pytest.approx(plain @ turn.T + 1000, abs=0.01)


def test_unsure_points_are_smoothed_more() -> None:
    smoother = medium()
    sigma = np.full(68, SIGMA, np.float32)
    sigma[:17] = 4 * SIGMA  # the jaw, say, behind a scarf
    faces = shaken(still(200), noise=1.5)
    smooth = np.stack([smoother(Landmarks(SCHEME, xy, sigma), i / 30).xy for i, xy in enumerate(faces)])
    spread = smooth[100:].std(axis=0).mean(axis=1)
    assert spread[:17].mean() < 0.85 * spread[17:36].mean()


def followed(part: slice, push: float, sigma: float = SIGMA, **tuning: float) -> float:
    """The share of a push of these points, in px, that is followed at once."""
    tuning = {"cutoff_hz": 0.8, "beta_hz": 0.9, "rigid_cutoff_hz": 0.8, "rigid_beta_hz": 0.9} | tuning
    pushed = FACE.copy()
    pushed[part, 1] += push
    before, after = run(OneEuro(SCHEME, **tuning), [FACE, pushed], sigma=sigma)
    return float((after - before)[part, 1].mean() / push)


LID, BROW, ALL = slice(37, 39), slice(18, 20), slice(None)


@pytest.mark.parametrize("tuning", [{"beta_hz": 0.0}, {"cutoff_hz": 0.0}], ids=["little", "much"])
def test_an_eyelid_follows_a_push_more_freely_than_a_brow(tuning: dict[str, float]) -> None:
    assert followed(LID, 1.0, **tuning) > 1.3 * followed(BROW, 1.0, **tuning)


def test_a_face_as_a_whole_follows_a_push_more_freely_than_a_part_of_it() -> None:
    assert followed(ALL, 1.0) > 1.3 * followed(BROW, 1.0)


def test_a_net_eight_times_as_unsure_is_thought_to_tremble_twice_as_much() -> None:
    assert followed(BROW, 4.0, 4 * SIGMA) == pytest.approx(followed(BROW, 2.0, SIGMA / 2), rel=0.01)


def test_sigma_and_presence_stay_the_net_s() -> None:
    smoother = medium()
    for i in range(3):
        got = smoother(landmarks(FACE + i), i / 30)
    assert (got.sigma == SIGMA).all()
    assert got.presence == pytest.approx(0.9)


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap_s", [0.6, 3600.0, -0.6, -3600.0])
def test_a_long_pause_or_a_jump_back_starts_anew(gap_s: float) -> None:
    smoother = medium()
    for i in range(10):
        smoother(landmarks(FACE), 100 + i / 30)
    other = FACE + 1.0
    assert smoother(landmarks(other), 100 + 9 / 30 + gap_s).xy == pytest.approx(other, abs=1e-3)


@pytest.mark.parametrize("stamp", [lambda _: 5.0, lambda i: 5.0 - i * 0.01], ids=["still", "backward"])
def test_stamps_that_say_nothing_still_smooth_and_follow(stamp: Callable[[int], float]) -> None:
    smoother = medium()
    faces = shaken(still(100))
    faces[50:] += 20
    smooth = np.stack([smoother(landmarks(xy), stamp(i)).xy for i, xy in enumerate(faces)])
    assert smooth[30:50].std(axis=0).mean() < 0.7 * NOISE
    assert smooth[52].mean(axis=0) == pytest.approx(FACE.mean(axis=0) + 20, abs=1)


def test_uneven_stamps_smooth_as_much_per_second_as_even_ones() -> None:
    random = np.random.default_rng(1)
    target = FACE + np.array([0.004 * INTEROCULAR, 0.0])  # too small a step to open the filter
    target = np.where(np.arange(68)[:, None] % 2 == 0, target, 2 * FACE - target)  # points move against each other

    def after_half_a_second(stamps: Sequence[float]) -> float:
        smoother = OneEuro(SCHEME, cutoff_hz=0.5, beta_hz=0.0, rigid_cutoff_hz=0.5, rigid_beta_hz=0.0)
        smoother(landmarks(FACE), 0.0)
        for t_s in stamps:
            smooth = smoother(landmarks(target), t_s)
        return float(np.abs(smooth.xy - FACE)[:17, 0].mean() / np.abs(target - FACE)[:17, 0].mean())

    even = after_half_a_second([i / 60 for i in range(1, 31)])
    uneven = after_half_a_second([*np.sort(random.uniform(0, 0.5, 29)).tolist(), 0.5])
    assert even == pytest.approx(1 - math.exp(-2 * math.pi * 0.5 * 0.5), abs=0.03)
    assert uneven == pytest.approx(even, abs=0.03)


# --- extrapolation ----------------------------------------------------------------------------------------------------


def test_extrapolation_leads_a_moving_face_and_leaves_a_still_one() -> None:
    speed = np.array([200.0, -50.0])
    faces = still(60) + np.arange(60)[:, None, None] / 30 * speed
    ahead = run(preset("medium", extrapolate_s=0.05)(SCHEME), list(faces))
    plain = run(medium(), list(faces))
    assert (ahead - plain)[40:].mean(axis=(0, 1)) == pytest.approx(speed * 0.05, rel=0.05)
    resting = run(preset("medium", extrapolate_s=0.05)(SCHEME), list(shaken(still(200))))
    assert resting[100:].std(axis=0).mean() < 0.0015 * INTEROCULAR


def turning(frames: int) -> F64:
    """A face that moves right and turns on itself at 2 radians a second."""
    center = FACE.mean(axis=0)
    angles = np.arange(frames) / 30 * 2.0
    turns = np.array([[[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]] for a in angles])
    faces: F64 = (FACE - center) @ turns + center + np.arange(frames)[:, None, None] / 30 * np.array([200.0, 0.0])
    return faces


def test_extrapolation_turns_a_turning_face_on() -> None:
    faces = turning(62)
    ahead = run(preset("light", extrapolate_s=2 / 30)(SCHEME), list(faces))
    assert np.abs(ahead[40:60] - faces[42:62]).max() < 0.02 * INTEROCULAR


def test_what_starts_anew_does_not_go_on_as_it_went() -> None:
    smoother = preset("medium", extrapolate_s=0.1)(SCHEME)
    run(smoother, list(turning(30)))
    for i in range(2):
        resting = smoother(landmarks(FACE), 60 + i / 30).xy
    assert resting == pytest.approx(FACE, abs=0.01)


# --- odd faces --------------------------------------------------------------------------------------------------------


def test_one_point_is_smoothed_too() -> None:
    smoother = preset("medium")(NOSE)
    random = np.random.default_rng(0)
    shaky = random.normal(size=(300, 1, 2)) * 0.5 + 100
    smooth = np.stack([smoother(landmarks(xy, 1.5, NOSE), i / 30).xy for i, xy in enumerate(shaky)])
    assert smooth[50:].std() < 0.9 * shaky[50:].std()
    assert smoother(landmarks(np.full((1, 2), 200.0), 1.5, NOSE), 11.0).xy == pytest.approx(200.0)


@pytest.mark.parametrize("scheme", [SCHEME, NOSE])
@pytest.mark.parametrize("sigma", [SIGMA, 0.0])
@pytest.mark.parametrize("at", [50.0, 33.3])  # 68 times 33.3 has a mean that differs from it by a rounding error
def test_points_that_all_coincide_do_no_harm(at: float, sigma: float, scheme: Scheme) -> None:
    smoother = preset("medium")(scheme)
    for i in range(5):
        face = landmarks(np.full((len(scheme), 2), at + i), sigma, scheme)
        assert smoother(face, i / 30).xy == pytest.approx(face.xy, abs=1.0)


def test_another_face_is_not_morphed_into() -> None:
    smoother = medium()
    for i in range(10):
        smoother(landmarks(FACE), i / 30)
    other = FACE * 3
    assert smoother(landmarks(other), 10 / 30).xy == pytest.approx(other, abs=1e-2)


def test_an_unknown_preset_names_the_choices() -> None:
    with pytest.raises(LivemarksError, match="off, light, medium, strong"):
        preset("heavy")
