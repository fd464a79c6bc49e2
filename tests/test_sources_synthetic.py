"""The moving portrait: the same every time, where it says it is, and paced when live."""

from __future__ import annotations

import threading
import time
from fractions import Fraction

import numpy as np
import pytest

from livemarks.geometry import resample
from livemarks.sources.synthetic import Source
from livemarks.types import U8


def test_the_same_seed_gives_the_same_frames(astronaut: U8) -> None:
    def frames(seed: int) -> list[U8]:
        source = Source(astronaut, seconds=0.2, fps=30, size_wh=(160, 90), seed=seed)
        return [frame.image for frame in source]

    assert len(frames(1)) == 6
    assert all(np.array_equal(*pair) for pair in zip(frames(1), frames(1), strict=True))
    assert not np.array_equal(frames(1)[0], frames(2)[0])


def test_times_and_count(astronaut: U8) -> None:
    source = Source(astronaut, seconds=1, fps=Fraction(30000, 1001), size_wh=(160, 90))
    frames = list(source)
    assert source.info.frames == len(frames) == 30
    assert [frame.index for frame in frames] == list(range(30))
    assert [frame.t_s for frame in frames] == [float(i * Fraction(1001, 30000)) for i in range(30)]
    assert frames[0].size_wh == source.info.size_wh == (160, 90)


@pytest.mark.parametrize("size_wh", [(640, 360), (360, 640)])
def test_the_portrait_is_where_truth_says(astronaut: U8, size_wh: tuple[int, int]) -> None:
    """Taken back out of the frame, it is the portrait again, but for its faded edges and what two resamplings blur."""
    source = Source(astronaut, seconds=4, fps=2, size_wh=size_wh)
    for frame in source:
        back = resample(frame.image, source.truth(frame.t_s), (512, 512))
        inner = (slice(60, 400), slice(60, 452))
        a, b = back[inner].astype(np.float32), astronaut[inner].astype(np.float32)
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.97
        shifted = np.roll(b, 4, axis=1)
        assert np.abs(a - b).mean() < np.abs(a - shifted).mean()


def test_it_moves_turns_and_changes_size_smoothly(astronaut: U8) -> None:
    source = Source(astronaut, seconds=1, fps=30, size_wh=(640, 360))
    matrices = np.stack([source.truth(t_s).matrix for t_s in np.arange(0, 10, 1 / 30)])
    assert np.ptp(matrices[:, 0, 2]) > 50
    assert np.ptp(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])) > 0.4
    assert np.ptp(np.hypot(matrices[:, 1, 0], matrices[:, 0, 0])) > 0.1
    assert np.abs(np.diff(matrices[:, :, 2], n=2, axis=0)).max() < 0.5  # px per frame per frame


def test_live_frames_come_at_their_own_pace(astronaut: U8) -> None:
    source = Source(astronaut, seconds=0.5, fps=20, size_wh=(160, 90), live=True)
    start_s = time.monotonic()
    late_s = [time.monotonic() - frame.t_s for frame in source]
    assert len(late_s) == 10
    assert min(late_s) >= 0
    assert 0.44 < time.monotonic() - start_s < 2
    still = Source(astronaut, seconds=0.5, fps=20, size_wh=(160, 90))
    assert source.truth(source._zero_s + 0.3).matrix == pytest.approx(still.truth(0.3).matrix)


def test_close_ends_a_wait(astronaut: U8) -> None:
    source = Source(astronaut, seconds=100, fps=0.1, size_wh=(160, 90), live=True)
    closer = threading.Timer(0.1, source.close)
    closer.start()
    start_s = time.monotonic()
    assert len(list(source)) == 1
    assert time.monotonic() - start_s < 5
    closer.join()
