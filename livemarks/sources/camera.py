"""Live pictures: a camera, a network stream, or a media file played at its own pace as if it were a camera.

A camera that is unplugged, or freezes, is opened again and again until it is back, and `status` says so meanwhile. The
thread that reads waits inside the driver; `close`, from another thread, never waits long for it.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction

import cv2
import numpy as np

from livemarks.sources import _devices
from livemarks.sources._square import centred, fitted_wh, square_wh
from livemarks.types import U8, Frame, LivemarksError, SourceInfo

# With one buffer a V4L2 driver has nowhere to put the next picture while we read this one, and half the rate is lost.
# Two cost no delay: the capture thread takes every picture as it comes.
_BUFFERS = 2

# Beyond 640x480 at 30 Hz, uncompressed pictures don't fit through USB 2, and the camera slows down to 5 or 10 a second.
_MOST_RAW_PX = 640 * 480

# Some drivers fail their first reads (macOS while it asks for permission, virtual cameras while they start), and after
# this long it is a camera without a picture.
_FIRST_S = 3.0
_FIRST_PAUSE_S = 0.1

# Waits before a lost camera is opened again: quick for a loose plug, gentle for one that stays away overnight.
_BACK_OFF_S = (0.5, 1.0, 2.0, 4.0, 5.0)

# A sensor's noise changes some pixel in every picture, so one that stays the same for this long is a frozen camera. A
# test picture stays the same too: each time opening again did not help, the limit doubles, up to the second number.
# One that sends nothing but damaged pictures is given as long, every time.
_FROZEN_S = 5.0
_MOST_FROZEN_S = 300.0

# A read that takes longer is worth a word in `status`; the slowest usual cameras give 5 pictures a second.
_SILENT_S = 2.0

# A rate is judged over at least this long, and told if it is off by more than this share.
_RATE_SPAN_S = 2.0
_RATE_SLACK = 0.1

# How long `close` waits for a read to come back before it leaves the device to the reading thread.
_CLOSE_S = 1.0

# A file that decodes too slowly: of frames that are late, so many in a row are not converted; not all, or nothing would
# be seen. Once one is this late, the rest is played later instead.
_MOST_SKIPPED = 4
_LATE_S = 1.0

# Few shows stay at a picture for longer: such a leap is a wrong time stamp, or where recordings were joined.
_MOST_STILL_S = 15.0


class Source:
    """A live source. Raises LivemarksError if the device doesn't open or gives no picture.

    device: a camera's number (0, "0"), its path ("/dev/video0"), a stream's address ("rtsp://…") or a media file.
    size_wh, fps: what to ask a camera for, but not a stream or file, which have their own; what a camera gives instead
    is in `notices`. api: a key of _devices.APIS.
    opener, clock and sleep stand for OpenCV and for time; sleep(seconds) must end early once `close` is called.

    A file, or an address that leads to one, ends. A camera or stream doesn't: when it is lost it is opened again, which
    `reopened` counts. `status` says in one line what is wrong at the moment, for people to see.
    """

    def __init__(
        self,
        device: int | str,
        *,
        size_wh: tuple[int, int] | None = None,
        fps: float | None = None,
        api: str = "auto",
        opener: _devices.Opener | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        if api not in _devices.APIS:
            raise LivemarksError(f"no camera interface is called {api!r}; there are: {', '.join(_devices.APIS)}")
        self.notices: list[str] = []
        self.reopened = 0
        self._closing = threading.Event()
        self._clock = clock
        self._sleep = sleep or self._closing.wait
        self._opener = opener or _devices.open_device
        self._target = _devices.target(device, api)
        self._apis = _devices.apis(self._target, api)
        self._asked_wh, self._asked_fps = (None, None) if _devices.is_media(self._target) else (size_wh, fps)
        self._device: _devices.Device | None = None
        self._in_use = threading.Lock()  # held while the device is called: VideoCapture is not thread-safe
        self._waiting_since_s: float | None = None  # while a read is under way
        self._trouble = ""
        self._made: list[tuple[int, float]] = []  # index and t_s of the first frame and of the last

        name = _devices.name(self._target)
        first = self._open()
        if first is None:
            raise LivemarksError(_devices.why(self._target, name, sys.platform))
        self._first: U8 | None = first
        path = _devices.file(self._target)
        rate, count = self._get(cv2.CAP_PROP_FPS), self._get(cv2.CAP_PROP_FRAME_COUNT)
        # Cameras and endless streams have a length of 0 or less, or nonsense, and often no rate either.
        frames = int(count) if _devices.is_media(self._target) and 0 < count < 1e9 else None
        if path is not None:
            from livemarks.sources._media import frames_in  # here, since a camera needs no PyAV

            frames = frames_in(path) or frames  # OpenCV counts the time before a film that starts late
        self._ends = frames is not None or os.path.isfile(str(self._target))
        nominal = Fraction(rate).limit_denominator(1001) if 1 <= rate <= 1000 else None
        self._stored_wh = first.shape[1], first.shape[0]
        got_wh = square_wh(*self._stored_wh, self._pixel_aspect())
        self.info = SourceInfo(name, got_wh, nominal, frames, live=True, path=path)
        if self._asked_wh is not None and self._asked_wh != got_wh:
            self.notices.append(f"{name} was asked for {_size(self._asked_wh)} and gives {_size(got_wh)}")
        if _devices.is_media(self._target) and (size_wh is not None or fps is not None):
            self.notices.append(f"{name} has a size and a rate of its own; only cameras can be asked for others")

    def __iter__(self) -> Iterator[Frame]:
        return self._play() if self._ends else self._watch()

    @property
    def status(self) -> str:
        """What is wrong at this moment; empty if nothing is."""
        since_s = self._waiting_since_s
        silent_s = 0.0 if since_s is None else self._clock() - since_s
        if not self._trouble and silent_s > _SILENT_S:
            return f"{self.info.name} has given no picture for {silent_s:.0f} s"
        return self._trouble

    def close(self) -> None:
        """Ends the iteration and releases the device; within about a second, even if the driver hangs."""
        if not self._closing.is_set():
            self._sum_up()
        self._closing.set()
        if self._in_use.acquire(timeout=_CLOSE_S):  # else its reader releases it, should the driver ever come back
            self._release()
            self._in_use.release()

    # --- frames -------------------------------------------------------------------------------------------------------

    def _watch(self) -> Iterator[Frame]:
        """Frames of a camera as they come, over and over again."""
        self._first = None  # old by now
        last: U8 | None = None
        whole_s = changed_s = self._clock()  # of the last picture that came undamaged, and of the last new one
        patience_s = _FROZEN_S
        index = 0
        while not self._closing.is_set():
            trouble = ""
            t_s = self._grab()
            image = None if t_s is None else self._retrieve()
            if t_s is None:
                trouble = "is lost"
            elif image is None:
                index += 1  # a picture that was damaged on its way counts as lost
                trouble = "sends only damaged pictures" if t_s - whole_s > _FROZEN_S else ""
            else:
                yield self._frame(image, index, t_s)
                index, whole_s = index + 1, t_s
                if last is None or not _same(image, last):
                    last, changed_s, patience_s = image, t_s, _FROZEN_S
                elif t_s - changed_s > patience_s:
                    patience_s = min(2 * patience_s, _MOST_FROZEN_S)
                    trouble = "gives the same picture for ever"
            if trouble and not self._closing.is_set():
                self._reopen(trouble)
                whole_s = changed_s = self._clock()

    def _play(self) -> Iterator[Frame]:
        """Frames of a file, each at its time; t_s is when it was due."""
        period_s = float(1 / self.info.fps) if self.info.fps else 1 / 25
        media_s = self._get(cv2.CAP_PROP_POS_MSEC) / 1000
        zero_s = self._clock() - media_s  # media time 0 on our clock
        moved_s = 0.0  # from the time stamps to media time
        skipped = 0
        for index in itertools.count():
            if index > 0:  # the first was grabbed when the file was opened
                if self._grab() is None:
                    return
                position_s = self._get(cv2.CAP_PROP_POS_MSEC) / 1000 + moved_s
                if abs(position_s - media_s) > _MOST_STILL_S:
                    if position_s > media_s:
                        self._note(f"{self.info.name}: its clock leaps ahead; played on without a wait")
                    moved_s += media_s + period_s - position_s
                    position_s = media_s + period_s
                media_s = position_s if position_s > media_s else media_s + period_s  # time stamps may be missing
            late_s = self._clock() - zero_s - media_s
            if late_s > _LATE_S:
                self._note(f"{self.info.name} decodes slower than its own pace here and was played more slowly")
                zero_s += late_s
            elif late_s > period_s and skipped < _MOST_SKIPPED and index + 1 != self.info.frames:
                skipped += 1  # but never the last one, whose index tells how many there were
                continue
            skipped = 0
            image = self._first if index == 0 else self._retrieve()
            self._first = None
            if image is None:
                continue
            self._sleep(max(0.0, zero_s + media_s - self._clock()))
            if self._closing.is_set():
                return
            yield self._frame(image, index, zero_s + media_s)

    def _frame(self, image: U8, index: int, t_s: float) -> Frame:
        self._made = [*self._made[:1], (index, t_s)]
        size_wh, stored_wh = self.info.size_wh, (image.shape[1], image.shape[0])
        if size_wh is not None and size_wh != stored_wh:
            way, inner_wh = cv2.INTER_LINEAR, size_wh  # to stretch pixels that aren't square
            if stored_wh != self._stored_wh:
                self._note(f"{self.info.name} changed its size; its pictures were scaled to {_size(size_wh)} again")
                way, inner_wh = cv2.INTER_AREA, fitted_wh(square_wh(*stored_wh, self._pixel_aspect()), size_wh)
            image = centred(np.asarray(cv2.resize(image, inner_wh, interpolation=way), np.uint8), size_wh)
        return Frame(image, index, t_s)

    def _reopen(self, trouble: str) -> None:
        """Opens the device again, at longer and longer intervals; returns when it is back or `close` is called."""
        for attempt in itertools.count():
            self._trouble = f"{self.info.name} {trouble}; opening it again, attempt {attempt + 1}"
            with self._in_use:
                self._release()
            self._sleep(_BACK_OFF_S[min(attempt, len(_BACK_OFF_S) - 1)])
            if self._closing.is_set():
                return
            if self._open() is not None:
                self.reopened += 1
                self._trouble = ""
                return

    def _sum_up(self) -> None:
        name = self.info.name
        if self.reopened:
            times = "once" if self.reopened == 1 else f"{self.reopened} times"
            self.notices.append(f"{name} was lost and opened again {times}")
        elif self._asked_fps is not None and len(self._made) == 2:
            (first, first_s), (last, last_s) = self._made
            got_fps = (last - first) / max(last_s - first_s, 1e-3)
            if last_s - first_s > _RATE_SPAN_S and abs(got_fps / self._asked_fps - 1) > _RATE_SLACK:
                self.notices.append(f"{name} was asked for {self._asked_fps:g} frames a second and gave {got_fps:.1f}")

    def _note(self, line: str) -> None:
        if line not in self.notices:
            self.notices.append(line)

    # --- the device ---------------------------------------------------------------------------------------------------

    def _open(self) -> U8 | None:
        """Opens the device by the first interface that gives a picture, and returns that picture; None if none does."""
        with self._in_use:
            for api in self._apis:
                self._device = self._opener(self._target, api)
                if self._device.isOpened():
                    self._ask(self._device, api)
                    image = self._first_picture(self._device)
                    if image is not None and not self._closing.is_set():
                        return image
                self._release()
        return None

    def _ask(self, device: _devices.Device, api: int) -> None:
        if _devices.is_media(self._target):
            return
        if self._asked_wh is not None:
            width, height = self._asked_wh
            if width * height > _MOST_RAW_PX and api in (cv2.CAP_V4L2, cv2.CAP_DSHOW):
                device.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
            device.set(cv2.CAP_PROP_FRAME_WIDTH, width)
            device.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        if self._asked_fps is not None:
            device.set(cv2.CAP_PROP_FPS, self._asked_fps)
        device.set(cv2.CAP_PROP_BUFFERSIZE, _BUFFERS)

    def _first_picture(self, device: _devices.Device) -> U8 | None:
        start_s = self._clock()
        while not self._closing.is_set():
            image = _picture(device) if device.grab() else None
            if image is not None:
                return image
            if _devices.is_media(self._target) or self._clock() - start_s > _FIRST_S:
                return None
            self._sleep(_FIRST_PAUSE_S)
        return None

    def _grab(self) -> float | None:
        """Waits for the next picture and returns the time of its arrival; None if there is none to be had."""
        with self._in_use:
            if self._device is None:
                return None
            self._waiting_since_s = self._clock()
            grabbed = self._device.grab()
            t_s = self._clock()
            self._waiting_since_s = None
            if self._closing.is_set():
                self._release()
                return None
            return t_s if grabbed else None

    def _retrieve(self) -> U8 | None:
        with self._in_use:
            return None if self._device is None else _picture(self._device)

    def _get(self, prop: int) -> float:
        with self._in_use:
            return self._device.get(prop) if self._device is not None else 0.0

    def _pixel_aspect(self) -> Fraction:
        """Of the pictures as the device gives them, which is upright. Cameras don't know, so theirs is 1."""
        width, height = self._get(cv2.CAP_PROP_SAR_NUM), self._get(cv2.CAP_PROP_SAR_DEN)
        if not (_devices.is_media(self._target) and width >= 1 and height >= 1):
            return Fraction(1)
        aspect = Fraction(round(width), round(height))
        return 1 / aspect if self._get(cv2.CAP_PROP_ORIENTATION_META) % 180 == 90 else aspect

    def _release(self) -> None:
        """The caller holds `_in_use`."""
        if self._device is not None:
            self._device.release()
        self._device = None


def _picture(device: _devices.Device) -> U8 | None:
    """The picture that was grabbed; None if it is damaged."""
    ok, image = device.retrieve()
    return image if ok else None


def _same(a: U8, b: U8) -> bool:
    """Whether two pictures are equal in every byte; a coarse look first, which noise nearly always settles."""
    return np.array_equal(a[::16, ::16], b[::16, ::16]) and np.array_equal(a, b)


def _size(size_wh: tuple[int, int]) -> str:
    return f"{size_wh[0]}x{size_wh[1]}"
