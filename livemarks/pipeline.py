"""Runs a source through a tracker into sinks, in three threads.

    capture thread --frames--> inference thread --results--> main thread: draw, then every sink

Live and offline differ in what happens when the tracker or a sink is slow. A file waits: every frame is processed, in
order. A camera doesn't: the channel of frames keeps only the newest. That is the one place here where frames are lost;
those that a source leaves out itself, late or torn ones, show as gaps between its indices, and both count as dropped.
A result is never lost, so it must not grow old in a queue either: live, the next frame is picked up just so early that
its result meets a main thread that is ready for it (`Channel.await_taker`).

Plug-ins may have helping threads of their own (backends.onnx runs several faces on two), which they hide and end.

A stage that ends, for whatever reason, closes the channel that it fills. So what lies downstream finishes what it was
given, and whatever came before a failure is kept; the main thread, which ends last, then stops what lies upstream.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from livemarks.types import U8, Frame, Result, Sink, Source, Stop, Tally

# How many frames, and as many results, a file may be ahead: rides out a frame that needs the detector. 4K frames are
# 25 MB each, which keeps this small.
_AHEAD = 4

# While no result comes, the main thread looks up this often: a window must answer its keys although its camera hangs,
# and Windows doesn't break off a wait for Ctrl-C. The other threads wait without a limit and are woken.
_LOOK_UP_S = 0.05

# The frame rate is that of the last second: less flickers, more lags behind.
_RATE_SPAN_S = 1.0

# At the end the capture thread comes out of its read by itself within a frame's time. If it doesn't, the source is
# closed under it; if even that doesn't help (a driver that never returns), it is left behind.
_LAST_READ_S = 0.5
_LET_GO_S = 2.0

T = TypeVar("T")


class Tracker(Protocol):
    """What turns a frame into a result; called by one thread, with frames in order."""

    def step(self, frame: Frame) -> Result: ...


@runtime_checkable
class Warmer(Protocol):
    """A tracker that is slow the first time. `warm` is called once, before the source is read, by `step`'s thread."""

    def warm(self) -> None: ...


@runtime_checkable
class Idler(Protocol):
    """A sink that also has work while no result comes. `idle` is called some 20 times a second then; may raise Stop."""

    def idle(self, tally: Tally) -> None: ...


class Channel(Generic[T]):
    """Hands items from one thread to another, in order. Closing it ends the taker's loop, after what is left.

    A full channel makes `put` wait; a `forgetful` one drops its oldest item instead, and counts it in `forgotten`.
    """

    def __init__(self, capacity: int, *, forgetful: bool = False) -> None:
        self.forgotten = 0
        self._capacity = capacity
        self._forgetful = forgetful
        self._items: deque[T] = deque()
        self._closed = False
        self._changed = threading.Condition()
        self._asking = False  # the taker is done with its last item
        self._taken_s = 0.0  # when it took that one
        self._busy_s = 0.0  # how long it was busy with it

    def put(self, item: T) -> bool:
        """True if the item went in; False once the channel is closed."""
        with self._changed:
            if self._forgetful and not self._closed and len(self._items) == self._capacity:
                self._items.popleft()
                self.forgotten += 1
            while not self._closed and len(self._items) == self._capacity:
                self._changed.wait()
            if self._closed:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def close(self) -> None:
        """No more items go in. From any thread, at any time, more than once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def ready(self, timeout_s: float | None = None) -> bool:
        """Waits until there is an item, or there will never be one; False if that takes longer than `timeout_s`."""
        with self._changed:
            if not self._asking:
                self._asking = True
                self._busy_s = time.monotonic() - self._taken_s
                self._changed.notify_all()
            return self._changed.wait_for(lambda: self._closed or len(self._items) > 0, timeout_s)

    def __iter__(self) -> Iterator[T]:
        while self.ready():
            with self._changed:
                if not self._items:
                    return
                item = self._items.popleft()
                self._asking = False
                self._taken_s = time.monotonic()
                self._changed.notify_all()
            yield item

    def await_taker(self, lead_s: float) -> None:
        """Waits until an item put `lead_s` from now would be taken at once: the putter's part in keeping items fresh.

        That is when the taker asks for one, or `lead_s` before it will, if it is as long busy as it was the last time.
        """
        with self._changed:
            while not self._closed and self._items:
                self._changed.wait()
            free_s = self._taken_s + self._busy_s - lead_s
            self._changed.wait_for(lambda: self._closed or self._asking, max(0.0, free_s - time.monotonic()))


def run(
    source: Source,
    tracker: Tracker,
    sinks: Sequence[Sink],
    *,
    draw: Callable[[Result], U8] | None = None,
    on_tally: Callable[[Tally], None] | None = None,
) -> Tally:
    """Processes a source to its end and returns the final count. Closes the source, then every sink once, last first.

    Sinks, `draw` and `on_tally` (after each frame) are called by the calling thread, which should be the main thread:
    windows and Ctrl-C belong to it. `draw` is called once a frame, and only if some sink wants pixels; without it,
    such sinks get the frame's own picture.

    Stop, raised by a sink, ends the run after the frame in hand has reached the other sinks too. So does a first
    Ctrl-C, and KeyboardInterrupt is raised when all is closed; a second one aborts at once. An exception in any stage
    ends the run and is raised here; what the frames before it gave has been written by then.
    """
    return _Run(source, tracker, sinks, draw, on_tally).run()


class _Stage(threading.Thread):
    """A worker that keeps the exception that ended it. A daemon, since a camera's read may never return."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=f"livemarks-{name}", daemon=True)
        self.error: BaseException | None = None
        self._work = work

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # whatever it is, it belongs to the caller of pipeline.run
            self.error = error


class _Run:
    """One run: what its three stages do, and what they share."""

    def __init__(
        self,
        source: Source,
        tracker: Tracker,
        sinks: Sequence[Sink],
        draw: Callable[[Result], U8] | None,
        on_tally: Callable[[Tally], None] | None,
    ) -> None:
        self._source = source
        self._tracker = tracker
        self._sinks = [(_stage_name(sink), sink) for sink in sinks]
        self._draw = draw
        self._on_tally = on_tally
        self._live = source.info.live
        capacity = 1 if self._live else _AHEAD
        self._frames: Channel[Frame] = Channel(capacity, forgetful=self._live)
        self._results: Channel[Result] = Channel(capacity)
        self._warm = threading.Event()  # a camera's first frames aren't lost to a tracker that loads or compiles
        self._stopping = False
        self._interrupted = False
        # written by the capture thread alone
        self._captured = 0
        self._skipped = 0  # by the source itself: gaps between the indices of its frames
        self._decode_s = 0.0
        # the main thread's
        self._processed = 0
        self._with_faces = 0
        self._spent_s: dict[str, float] = {}
        self._shown_s: deque[float] = deque()  # when the frames of the last second were shown
        self._frame_s = 0.0  # when the last one of them was captured

    def run(self) -> Tally:
        capture = _Stage("capture", self._capture)
        inference = _Stage("inference", self._infer)
        errors: list[BaseException] = []
        with self._noting_interrupts():
            try:
                capture.start()  # RuntimeError if the system has no thread left; the other one may run by then
                inference.start()
                self._show()
            except BaseException as error:  # Ctrl-C too: everything is put away before it goes on
                errors.append(error)
            closing = self._close(capture, inference)
        errors += [stage.error for stage in (inference, capture) if stage.error is not None]
        errors += closing
        if self._interrupted:
            errors.append(KeyboardInterrupt())
        if errors:
            raise errors[0]  # the others follow from it
        return self._tally()

    # --- the stages ---------------------------------------------------------------------------------------------------

    def _capture(self) -> None:
        try:
            self._warm.wait()
            expected = 0 if self._live else None  # a file's frames before the first one were another loop's, not lost
            start_s = time.perf_counter()
            for frame in self._source:
                self._decode_s += time.perf_counter() - start_s
                gap = 0 if expected is None else frame.index - expected
                expected = frame.index + 1
                self._captured += gap + 1  # before the loss is counted, so that a tally is never short of it
                self._skipped += gap
                if not self._frames.put(frame):
                    return
                start_s = time.perf_counter()
        finally:
            self._frames.close()

    def _infer(self) -> None:
        frames = iter(self._frames)
        step_s = 0.0
        try:
            if isinstance(self._tracker, Warmer):
                self._tracker.warm()
            self._warm.set()
            while True:
                if self._live:
                    self._results.await_taker(step_s)
                frame = next(frames, None)
                if frame is None:
                    return
                start_s = time.perf_counter()
                result = self._tracker.step(frame)
                step_s = time.perf_counter() - start_s
                if not self._results.put(result):
                    return
        finally:
            self._warm.set()
            self._results.close()

    def _show(self) -> None:
        idlers = [sink for _, sink in self._sinks if isinstance(sink, Idler)]
        results = iter(self._results)
        with suppress(Stop):  # from `idle` or `on_tally`
            while not (self._stopping or self._interrupted):
                if not self._results.ready(_LOOK_UP_S):
                    for idler in idlers:
                        idler.idle(self._tally())
                    continue
                result = next(results, None)
                if result is None:
                    return
                self._show_one(result)

    def _show_one(self, result: Result) -> None:
        for stage, seconds in result.stage_s.items():
            self._spend(stage, seconds)
        image: U8 | None = None
        if any(sink.wants_pixels for _, sink in self._sinks):
            image = result.frame.image
            if self._draw is not None:
                start_s = time.perf_counter()
                image = self._draw(result)
                self._spend("draw", time.perf_counter() - start_s)
        self._shown_s.append(time.monotonic())
        self._frame_s = result.frame.t_s
        self._processed += 1
        self._with_faces += bool(result.faces)
        tally = self._tally()
        for stage, sink in self._sinks:
            start_s = time.perf_counter()
            try:
                sink.write(result, image, tally)
            except Stop:
                self._stopping = True  # but the other sinks get this frame as well, so that they end with the same one
            self._spend(stage, time.perf_counter() - start_s)
        if self._on_tally is not None:
            self._on_tally(tally)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _close(self, capture: _Stage, inference: _Stage) -> list[Exception]:
        """Stops the stages and closes everything once, whatever fails on the way; returns what failed."""
        self._frames.close()
        self._results.close()
        while inference.is_alive():  # looks up, because Windows doesn't break off a join for the second Ctrl-C
            inference.join(_LOOK_UP_S)
        self._warm.set()  # inference has done so, if it could be started
        if capture.is_alive():  # one that was never started can't be joined
            capture.join(_LAST_READ_S)
        errors = []
        # The sinks in reverse, so that one which made a folder goes after those that wrote into it.
        for close in (self._source.close, *(sink.close for _, sink in reversed(self._sinks))):
            try:
                close()
            except Exception as error:  # noqa: PERF203 - the others are still to be closed; `run` raises it
                errors.append(error)
        if capture.is_alive():
            capture.join(_LET_GO_S)
        if capture.is_alive():
            name = self._source.info.name
            self._source.notices.append(f"{name} did not answer within {_LET_GO_S:.0f} s at the end and was left alone")
        return errors

    @contextmanager
    def _noting_interrupts(self) -> Iterator[None]:
        """Within, the first Ctrl-C is only noted, so that no sink is cut off in the middle of a write."""
        ours = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGINT)
        if not ours or before not in (signal.default_int_handler, signal.SIG_IGN):
            yield  # someone else decides what Ctrl-C does
            return

        def note(signum: int, _frame: Any) -> None:
            if signum == signal.SIGINT and before is signal.SIG_IGN:
                return  # a script's `&` ignores Ctrl-C, but cli passes other signals on to here
            self._interrupted = True
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    # --- the count ----------------------------------------------------------------------------------------------------

    def _spend(self, stage: str, seconds: float) -> None:
        self._spent_s[stage] = self._spent_s.get(stage, 0.0) + seconds

    def _tally(self) -> Tally:
        age_s = time.monotonic() - self._frame_s if self._live and self._processed else 0.0
        dropped = self._skipped + self._frames.forgotten
        captured = self._captured  # read last: what was dropped has been captured
        stage_s = {"capture" if self._live else "decode": self._decode_s / max(captured - self._skipped, 1)}
        stage_s |= {stage: spent_s / max(self._processed, 1) for stage, spent_s in self._spent_s.items()}
        return Tally(captured, self._processed, dropped, self._fps(), age_s, self._with_faces, stage_s)

    def _fps(self) -> float:
        """Frames shown per second over the last one; 0 when the last frame is older than that."""
        shown_s, now_s = self._shown_s, time.monotonic()
        while len(shown_s) > 2 and shown_s[0] < now_s - _RATE_SPAN_S:  # two are kept, for rates below one
            shown_s.popleft()
        if len(shown_s) < 2:
            return 0.0
        since_s, span_s = now_s - shown_s[-1], shown_s[-1] - shown_s[0]
        if since_s > max(_RATE_SPAN_S, 2 * span_s) or span_s == 0.0:
            return 0.0
        return (len(shown_s) - 1) / span_s


def _stage_name(sink: Sink) -> str:
    """What the time a sink takes is booked under: its `stage`, if it names one, else the plug-in's name."""
    name: str = getattr(sink, "stage", type(sink).__module__.rpartition(".")[2])
    return name
