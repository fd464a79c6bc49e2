"""Sources, trackers, sinks and capture devices that do what a test needs, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from livemarks.types import U8, Frame, Result, SourceInfo, Tally


def picture(seed: int, size_wh: tuple[int, int] = (32, 24)) -> U8:
    """(H, W, 3) noise; another for every seed."""
    width, height = size_wh
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class FakeSource:
    """`count` small frames, as fast as they are asked for or, if live, every `period_s`.

    before: called with each frame's number before it is made; what it raises or waits for, the source does.
    skip: numbers that are produced but never delivered.
    """

    def __init__(
        self,
        count: int,
        *,
        live: bool = False,
        period_s: float = 0.0,
        before: Callable[[int], object] = lambda _: None,
        skip: tuple[int, ...] = (),
    ) -> None:
        self.info = SourceInfo("fake", (32, 24), Fraction(30), count, live)
        self.notices: list[str] = []
        self.closed = threading.Event()
        self._count = count
        self._period_s = period_s
        self._before = before
        self._skip = skip

    def __iter__(self) -> Iterator[Frame]:
        start_s = time.monotonic()
        for index in range(self._count):
            self._before(index)
            t_s = index / 30
            if self.info.live:
                self.closed.wait(max(0.0, start_s + index * self._period_s - time.monotonic()))
                t_s = time.monotonic()
            if self.closed.is_set():
                return
            if index not in self._skip:
                yield Frame(np.full((24, 32, 3), index % 256, np.uint8), index, t_s)

    def close(self) -> None:
        self.closed.set()


class FakeTracker:
    """Its answer depends on every frame so far and on their order: it is in `stage_s["sum"]`."""

    def __init__(self, before: Callable[[int], object] = lambda _: None) -> None:
        self._before = before
        self._sum = 0

    def step(self, frame: Frame) -> Result:
        self._before(frame.index)
        self._sum = (self._sum * 31 + frame.index * 7 + int(frame.image[0, 0, 0])) % 1_000_003
        return Result(frame, (), {"sum": float(self._sum)})


class FakeSink:
    """Keeps what it is given. before: called with each frame's index before it is kept."""

    def __init__(self, before: Callable[[int], object] = lambda _: None, *, wants_pixels: bool = False) -> None:
        self.wants_pixels = wants_pixels
        self.results: list[Result] = []
        self.images: list[U8 | None] = []
        self.tallies: list[Tally] = []
        self.closed = 0
        self._before = before

    def write(self, result: Result, image: U8 | None, tally: Tally) -> None:
        assert not self.closed
        self._before(result.frame.index)
        self.results.append(result)
        self.images.append(image)
        self.tallies.append(tally)

    def close(self) -> None:
        self.closed += 1

    @property
    def indices(self) -> list[int]:
        return [result.frame.index for result in self.results]


def at(index: int, do: Callable[[], object]) -> Callable[[int], object]:
    """A `before` that does something at one frame: at(3, fail(ValueError("broken")))."""
    return lambda i: do() if i == index else None


def fail(error: BaseException) -> Callable[[], object]:
    """Raises `error` when called."""

    def throw() -> Any:
        raise error

    return throw


class FakeTime:
    """A clock that only sleep moves. `slept_s` lists the sleeps; `while_asleep` is called in each, with its length."""

    def __init__(self, while_asleep: Callable[[float], object] = lambda _: None) -> None:
        self.now_s = 1000.0
        self.slept_s: list[float] = []
        self.while_asleep = while_asleep

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.while_asleep(seconds)
        self.now_s += seconds


class FakeCamera:
    """A capture device that follows a script, whatever opens it: `FakeCamera(…).open` is a camera.Opener.

    Each step is one `grab`: "new" a new picture; "same" the last one again; "torn" a picture that can't be decoded;
    "gone" no picture; "hang" the last one, once `let_go` is set. "absent" instead fails one opening. After its last
    step the camera is gone. A grab takes `period_s` of the clock.
    """

    def __init__(
        self,
        script: list[str],
        time: FakeTime | None = None,
        *,
        period_s: float = 1 / 30,
        size_wh: tuple[int, int] = (64, 48),
        properties: dict[int, float] | None = None,
    ) -> None:
        self.time = time or FakeTime()
        self.let_go = threading.Event()
        self.hanging = threading.Event()
        self.opened: list[tuple[int | str, int]] = []
        self.asked: list[tuple[int, float]] = []
        self.is_open = False
        self.size_wh = size_wh
        self.position_s = -period_s
        self._script = list(reversed(script))
        self._period_s = period_s
        self._properties = properties or {}
        self._seed = 0
        self._torn = False

    def open(self, device: int | str, api: int) -> FakeCamera:
        assert not self.is_open, "opened twice"
        self.opened.append((device, api))
        self.is_open = bool(self._script) and self._script[-1] != "absent"
        if not self.is_open and self._script:
            self._script.pop()
        return self

    def isOpened(self) -> bool:
        return self.is_open

    def grab(self) -> bool:
        assert self.is_open
        self.time.now_s += self._period_s
        step = self._script.pop() if self._script else "gone"
        if step == "hang":
            self.hanging.set()
            self.let_go.wait(30)
        self.position_s += self._period_s
        self._seed += step == "new"
        self._torn = step == "torn"
        return step != "gone"

    def retrieve(self) -> tuple[bool, Any]:
        assert self.is_open
        return (False, None) if self._torn else (True, picture(self._seed, self.size_wh))

    def get(self, prop: int, /) -> float:
        return self._properties.get(prop, 0.0)

    def set(self, prop: int, value: float, /) -> bool:
        self.asked.append((prop, value))
        return False

    def release(self) -> None:
        self.is_open = False
