"""The threads: same answers as a plain loop, every loss counted, every end a clean one."""

from __future__ import annotations

import itertools
import signal
import statistics
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fakes import FakeSink, FakeSource, FakeTracker, at, fail

from livemarks import pipeline
from livemarks.pipeline import Channel, run
from livemarks.types import Frame, LivemarksError, Stop, Tally


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter limits at the end, for sources that hang on purpose."""
    monkeypatch.setattr(pipeline, "_LAST_READ_S", 0.05)
    monkeypatch.setattr(pipeline, "_LET_GO_S", 0.05)


# --- the channel -----------------------------------------------------------------------------------------------------


def test_channel_hands_over_in_order_and_ends_after_what_is_left() -> None:
    channel: Channel[int] = Channel(3)
    assert [channel.put(i) for i in range(3)] == [True] * 3
    channel.close()
    assert not channel.put(3)
    assert list(channel) == [0, 1, 2]


def test_forgetful_channel_keeps_the_newest_and_counts_the_rest() -> None:
    channel: Channel[int] = Channel(2, forgetful=True)
    for i in range(5):
        channel.put(i)
    channel.close()
    assert (list(channel), channel.forgotten) == ([3, 4], 3)


def test_put_waits_for_room_and_closing_wakes_it() -> None:
    channel: Channel[int] = Channel(1)
    went_in: list[bool] = []
    putter = threading.Thread(target=lambda: went_in.extend(channel.put(i) for i in range(3)))
    putter.start()
    assert next(iter(channel)) == 0
    time.sleep(0.05)  # 1 lies in the channel, 2 waits for room
    assert went_in == [True, True]
    channel.close()
    putter.join(1)
    assert went_in == [True, True, False]


def test_ready_gives_up_in_time_and_says_the_end() -> None:
    channel: Channel[int] = Channel(1)
    assert not channel.ready(0.01)
    channel.close()
    assert channel.ready()


@pytest.mark.parametrize(("lead_s", "soonest_s", "latest_s"), [(0.0, 0.09, 0.14), (0.06, 0.02, 0.08)])
def test_awaiting_the_taker_ends_by_its_lead(lead_s: float, soonest_s: float, latest_s: float) -> None:
    channel: Channel[int] = Channel(1)
    taken = threading.Barrier(2)

    def take() -> None:
        for _ in channel:
            taken.wait()
            time.sleep(0.1)  # the taker's work

    taker = threading.Thread(target=take)
    taker.start()
    waits_s = []
    for i in range(2):  # the first round teaches the channel how long the taker is busy
        channel.put(i)
        taken.wait()
        start_s = time.monotonic()
        channel.await_taker(lead_s if i else 0.0)
        waits_s.append(time.monotonic() - start_s)
    channel.close()
    taker.join()
    assert soonest_s <= waits_s[1] <= latest_s + 0.1  # a busy machine may be late, but never early


# --- whole runs ------------------------------------------------------------------------------------------------------


def sums(sink: FakeSink) -> list[float]:
    return [result.stage_s["sum"] for result in sink.results]


def test_no_frame_is_captured_before_the_tracker_is_warm() -> None:
    happened: list[str] = []

    class Cold(FakeTracker):
        def warm(self) -> None:
            time.sleep(0.05)
            happened.append(f"warm in {threading.current_thread().name}")

    run(FakeSource(2, live=True, before=lambda i: happened.append(f"frame {i}")), Cold(), [FakeSink()])
    assert happened[0] == "warm in livemarks-inference"
    assert happened[1] == "frame 0"


def test_a_tracker_that_cannot_warm_up_ends_the_run() -> None:
    class Broken(FakeTracker):
        def warm(self) -> None:
            raise LivemarksError("no such net")

    source, sink = FakeSource(3, live=True), FakeSink()
    with pytest.raises(LivemarksError, match="no such net"):
        run(source, Broken(), [sink])
    assert sink.closed == 1


def test_threaded_run_equals_the_plain_loop() -> None:
    plain, tracker, n = FakeSink(), FakeTracker(), 500
    for frame in FakeSource(n):
        plain.write(tracker.step(frame), None, Tally())
    sink = FakeSink()
    tally = run(FakeSource(n), FakeTracker(), [sink])
    assert sums(sink) == sums(plain)
    assert (tally.captured, tally.processed, tally.dropped, tally.age_s) == (n, n, 0, 0.0)


def test_nothing_is_lost_offline_when_every_stage_stumbles() -> None:
    def stumble(i: int) -> None:
        time.sleep(0.01 if i % 7 == 0 else 0)

    sink = FakeSink(stumble)
    tally = run(FakeSource(60, before=stumble), FakeTracker(stumble), [sink])
    assert sink.indices == list(range(60))
    assert (tally.processed, tally.dropped, sink.closed) == (60, 0, 1)


def test_frames_of_an_earlier_loop_are_not_lost() -> None:
    """A file is read on where a loop over it was broken off; a gap later on is a loss all the same."""
    tally = run(FakeSource(10, skip=(0, 1, 5)), FakeTracker(), [FakeSink()])
    assert (tally.captured, tally.processed, tally.dropped) == (8, 7, 1)


def test_draws_once_a_frame_and_only_for_sinks_that_look() -> None:
    drawn: list[int] = []

    def draw(result: Any) -> Any:
        drawn.append(result.frame.index)
        return result.frame.image + 1

    blind, looking, also = FakeSink(), FakeSink(wants_pixels=True), FakeSink(wants_pixels=True)
    run(FakeSource(3), FakeTracker(), [blind], draw=draw)
    assert drawn == []
    assert blind.images == [None] * 3
    tally = run(FakeSource(3), FakeTracker(), [looking, also], draw=draw)
    assert drawn == [0, 1, 2]
    assert [image is other for image, other in zip(looking.images, also.images, strict=True)] == [True] * 3
    assert looking.images[2] is not None
    assert looking.images[2][0, 0, 0] == 3
    assert list(tally.stage_s) == ["decode", "sum", "draw", "fakes"]


class Nap:
    """A `before` that sleeps, and keeps how long it really did: on a busy machine that is longer."""

    def __init__(self, seconds: float) -> None:
        self.naps_s: list[float] = []
        self._seconds = seconds

    def __call__(self, _: int) -> None:
        start_s = time.perf_counter()
        time.sleep(self._seconds)
        self.naps_s.append(time.perf_counter() - start_s)


def test_stage_times_are_means_per_frame() -> None:
    decode, show = Nap(0.004), Nap(0.008)
    tally = run(FakeSource(10, before=decode), FakeTracker(), [FakeSink(show)])
    for stage, nap in (("decode", decode), ("fakes", show)):
        assert sum(nap.naps_s) / 10 <= tally.stage_s[stage] < sum(nap.naps_s) / 3


def test_tally_is_told_after_every_frame_and_rate_is_of_the_last_second() -> None:
    told: list[tuple[Tally, float]] = []
    source = FakeSource(4, live=True, period_s=0.1)
    tally = run(source, FakeTracker(), [FakeSink()], on_tally=lambda tally: told.append((tally, time.monotonic())))
    assert list(tally.stage_s) == ["capture", "sum", "fakes"]
    assert [tally.processed for tally, _ in told] == [1, 2, 3, 4]
    assert told[0][0].fps == 0.0
    (first, first_s), (last, last_s) = told[0], told[-1]
    gaps = last.processed - first.processed
    assert last.fps == pytest.approx(gaps / (last_s - first_s), rel=0.15)  # one gap more would be 33 % more


# --- live ------------------------------------------------------------------------------------------------------------


def test_live_keeps_the_newest_and_counts_every_loss() -> None:
    sink = FakeSink()
    source = FakeSource(60, live=True, period_s=0.005, skip=(0, 7, 8, 30))
    tally = run(source, FakeTracker(lambda _: time.sleep(0.015)), [sink])
    assert tally.captured == 60
    assert tally.processed == len(sink.results)
    assert tally.captured == tally.processed + tally.dropped
    assert tally.dropped >= 30
    assert sink.indices == sorted(set(sink.indices))
    assert all(t.captured >= t.processed + t.dropped for t in sink.tallies)


@pytest.mark.parametrize(("tracker_s", "sink_s"), [(0.0, 0.1), (0.1, 0.0), (0.05, 0.1)])
def test_age_stays_bounded_at_twice_the_load(tracker_s: float, sink_s: float) -> None:
    step, write = Nap(tracker_s), Nap(sink_s)
    sink = FakeSink(write)
    start_s = time.monotonic()
    run(FakeSource(36, live=True, period_s=0.05), FakeTracker(step), [sink])
    elapsed_s = time.monotonic() - start_s
    ages_s = [tally.age_s for tally in sink.tallies]
    third = len(ages_s) // 3
    for part in (ages_s[:third], ages_s[-third:]):  # it does not grow: a queue of two results would make it 2.25
        assert statistics.median(part) < 2 * elapsed_s / len(ages_s)
    if tracker_s and sink_s:
        assert sum(step.naps_s) + sum(write.naps_s) > 1.1 * elapsed_s  # they work side by side


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("stage", ["source", "tracker", "sink", "draw"])
def test_a_failure_anywhere_ends_everything_and_reaches_the_caller(stage: str, live: bool) -> None:
    error = LivemarksError("broken at 3")

    def broken(index: int) -> None:
        if index >= 3:  # live, the third frame itself may be dropped
            raise error

    ok: Callable[[int], object] = lambda _: None  # noqa: E731
    source = FakeSource(50, live=live, period_s=0.01, before=broken if stage == "source" else ok)
    tracker = FakeTracker(broken if stage == "tracker" else ok)
    first = FakeSink(wants_pixels=True)
    second = FakeSink(broken if stage == "sink" else ok)

    def draw(result: Any) -> Any:
        if stage == "draw":
            broken(result.frame.index)
        return result.frame.image

    with pytest.raises(LivemarksError, match="broken at 3") as caught:
        run(source, tracker, [first, second], draw=draw)
    assert caught.value is error
    assert "broken" in {place.name for place in traceback.extract_tb(caught.value.__traceback__)}
    kept = [i for i in (0, 1, 2) if live is False or i in second.indices]
    assert second.indices == kept  # what came before the failure
    assert (first.closed, second.closed, source.closed.is_set()) == (1, 1, True)


def test_a_sink_that_fails_to_close_does_not_keep_others_open() -> None:
    class Leaky(FakeSink):
        def close(self) -> None:
            super().close()
            raise LivemarksError("disk full")

    leaky, sound = Leaky(), FakeSink()
    with pytest.raises(LivemarksError, match="disk full"):
        run(FakeSource(3), FakeTracker(), [leaky, sound])
    assert (leaky.closed, sound.closed) == (1, 1)
    with pytest.raises(ValueError, match="first"):  # an earlier error is the one to tell
        run(FakeSource(3), FakeTracker(at(1, fail(ValueError("first")))), [Leaky()])


def test_sinks_are_closed_in_reverse() -> None:
    """One may have made the folder that a later one writes into."""
    closed: list[str] = []

    class Named(FakeSink):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def close(self) -> None:
            closed.append(self.name)

    run(FakeSource(1), FakeTracker(), [Named("folder"), Named("file in it")])
    assert closed == ["file in it", "folder"]


@pytest.mark.parametrize("refused", ["capture", "inference"])
def test_without_threads_everything_is_closed(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python does when the system has none left; the fixture no_thread_left watches the other one."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == f"livemarks-{refused}":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    source, sink = FakeSource(50), FakeSink()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        run(source, FakeTracker(), [sink])
    assert (source.closed.is_set(), sink.closed, sink.results) == (True, 1, [])


def test_a_failing_tally_listener_ends_the_run() -> None:
    def listen(tally: Tally) -> None:
        raise ValueError(f"listener at {tally.processed}")

    sink = FakeSink()
    with pytest.raises(ValueError, match="listener at 1"):
        run(FakeSource(5), FakeTracker(), [sink], on_tally=listen)
    assert sink.closed == 1


# --- stopping --------------------------------------------------------------------------------------------------------


def test_stop_ends_the_run_and_every_sink_has_the_same_last_frame() -> None:
    before, stopper, after = FakeSink(), FakeSink(at(4, fail(Stop()))), FakeSink()
    tally = run(FakeSource(1000), FakeTracker(), [before, stopper, after])
    assert before.indices == after.indices == [0, 1, 2, 3, 4]
    assert tally.processed == 5
    assert tally.captured >= tally.processed + tally.dropped
    assert (before.closed, stopper.closed, after.closed) == (1, 1, 1)


def test_idle_sinks_are_called_while_the_source_hangs_and_may_stop() -> None:
    calls: list[Tally] = []

    class Window(FakeSink):
        def idle(self, tally: Tally) -> None:
            calls.append(tally)
            if len(calls) == 3:
                raise Stop

    source = FakeSource(5, live=True)
    source._before = at(2, lambda: source.closed.wait(30))
    window = Window()
    run(source, FakeTracker(), [window])
    assert window.indices[-1] == 1
    assert len(calls) == 3
    assert calls[0].processed == len(window.indices)
    ages_s = [tally.age_s for tally in (window.tallies[-1], *calls)]
    assert all(younger + 0.04 < older for younger, older in itertools.pairwise(ages_s))  # the frame grows old


@pytest.mark.usefixtures("impatient")
def test_a_read_that_never_returns_does_not_keep_the_run() -> None:
    let_go = threading.Event()
    source = FakeSource(5, live=True, before=at(2, lambda: let_go.wait(30)))
    start_s = time.monotonic()
    run(source, FakeTracker(), [FakeSink(at(1, fail(Stop())))])
    assert time.monotonic() - start_s < 2
    assert source.notices == ["fake did not answer within 0 s at the end and was left alone"]
    let_go.set()


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_lets_the_write_finish_and_is_raised_when_all_is_closed() -> None:
    sink, other = FakeSink(at(3, interrupt)), FakeSink()
    with pytest.raises(KeyboardInterrupt):
        run(FakeSource(1000), FakeTracker(), [sink, other])
    assert sink.indices == other.indices == [0, 1, 2, 3]
    assert (sink.closed, other.closed) == (1, 1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_ends_a_run_whose_source_hangs() -> None:
    source = FakeSource(5)
    source._before = at(2, lambda: source.closed.wait(30))
    sink = FakeSink()
    timer = threading.Timer(0.1, interrupt)
    timer.start()
    start_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(source, FakeTracker(), [sink])
    assert time.monotonic() - start_s < 10
    assert sink.indices == [0, 1][: len(sink.indices)]
    assert sink.closed == 1


def test_a_second_ctrl_c_aborts_at_once() -> None:
    class Slow(FakeSink):
        def close(self) -> None:
            interrupt()
            time.sleep(30)

    start_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(FakeSource(1000), FakeTracker(), [Slow(at(1, interrupt))])
    assert time.monotonic() - start_s < 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_disk_full_at_the_end_outranks_ctrl_c() -> None:
    class Leaky(FakeSink):
        def close(self) -> None:
            raise LivemarksError("disk full")

    with pytest.raises(LivemarksError, match="disk full"):
        run(FakeSource(100), FakeTracker(), [Leaky(at(1, interrupt))])


def test_someone_elses_ctrl_c_is_left_alone() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        tally = run(FakeSource(5), FakeTracker(), [FakeSink(at(1, interrupt))])
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert seen == [signal.SIGINT]
    assert tally.processed == 5


def test_where_ctrl_c_is_ignored_another_signal_may_stand_for_it() -> None:
    """A script's `&` ignores Ctrl-C; cli hands SIGTERM to whatever takes SIGINT."""

    def signals(index: int) -> None:
        if index == 1:
            interrupt()
        if index == 3:
            handler: Any = signal.getsignal(signal.SIGINT)
            handler(signal.SIGTERM, None)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sink, other = FakeSink(signals), FakeSink()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(FakeSource(1000), FakeTracker(), [sink, other])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert sink.indices == other.indices == [0, 1, 2, 3]
    assert (sink.closed, other.closed) == (1, 1)


def test_runs_outside_the_main_thread() -> None:
    tallies: list[Tally] = []
    worker = threading.Thread(target=lambda: tallies.append(run(FakeSource(5), FakeTracker(), [])))
    worker.start()
    worker.join()
    assert tallies[0].processed == 5


def test_a_source_that_is_a_generator_of_one_thread_is_iterated_by_one_thread() -> None:
    class Watched(FakeSource):
        threads: set[str] = set()  # noqa: RUF012

        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                self.threads.add(threading.current_thread().name)
                yield frame

    source = Watched(5)
    run(source, FakeTracker(), [])
    assert source.threads == {"livemarks-capture"}
