"""The real capture code against devices that fail in every way cameras do, and against real files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fakes import FakeCamera, FakeSink, FakeTime, FakeTracker, picture

from livemarks.pipeline import run
from livemarks.sources import _devices, camera
from livemarks.sources.camera import Source
from livemarks.types import Frame, LivemarksError, Stop


def source_of(fake: FakeCamera, device: int | str = 0, **options: Any) -> Source:
    return Source(device, opener=fake.open, clock=fake.time.clock, sleep=fake.time.sleep, **options)


def take(source: Source, count: int) -> list[Frame]:
    return list(islice(source, count))


# --- a camera as it should be ----------------------------------------------------------------------------------------


def test_frames_carry_the_time_right_after_their_grab() -> None:
    fake = FakeCamera(["new"] * 4, period_s=0.04, properties={cv2.CAP_PROP_FPS: 29.97002997})
    source = source_of(fake, "0")
    frames = take(source, 3)
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [frame.t_s for frame in frames] == pytest.approx([1000.08, 1000.12, 1000.16])  # the first one was old
    assert source.info.live
    assert (source.info.name, source.info.size_wh, source.info.frames) == ("camera 0", (64, 48), None)
    assert source.info.fps == Fraction(30000, 1001)
    assert source.status == ""
    source.close()
    source.close()
    assert not fake.is_open
    assert source.notices == []


def test_asks_for_what_was_asked_and_says_what_it_got() -> None:
    fake = FakeCamera(["new"] * 100, period_s=1 / 30)
    source = source_of(fake, size_wh=(1920, 1080), fps=60, api="v4l2")
    assert fake.opened == [(0, cv2.CAP_V4L2)]
    assert fake.asked == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),
        (cv2.CAP_PROP_FRAME_WIDTH, 1920),
        (cv2.CAP_PROP_FRAME_HEIGHT, 1080),
        (cv2.CAP_PROP_FPS, 60),
        (cv2.CAP_PROP_BUFFERSIZE, 2),
    ]
    take(source, 90)
    source.close()
    assert source.notices == [
        "camera 0 was asked for 1920x1080 and gives 64x48",
        "camera 0 was asked for 60 frames a second and gave 30.0",
    ]


def test_a_second_interface_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_devices._NATIVE, sys.platform, (cv2.CAP_MSMF, cv2.CAP_DSHOW))
    fake = FakeCamera(["absent", "new"])
    source_of(fake)
    assert fake.opened == [(0, cv2.CAP_MSMF), (0, cv2.CAP_DSHOW)]


def test_windows_slow_way_to_open_cameras_is_off_before_opencv_looks() -> None:
    """OpenCV reads the switch when it is imported."""
    look = (
        "import os, sys, livemarks; print(os.environ['OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS'], 'cv2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, text=True).stdout == "0 False\n"


def test_a_camera_may_fail_its_first_reads() -> None:
    fake = FakeCamera(["gone"] * 5 + ["new"] * 2)
    assert take(source_of(fake), 1)[0].index == 0


# --- cameras that fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "name"),
    [(0, "camera 0"), ("rtsp://me:secret@cam.lan:554/live?key=5", "rtsp://cam.lan:554/live")],
)
def test_unplugged_and_back(device: int | str, name: str) -> None:
    said: list[str] = []
    fake = FakeCamera(["new", "new", "gone", *["absent"] * 6, "new", "new", "new"])
    source = source_of(fake, device)
    fake.time.while_asleep = lambda _: said.append(source.status)
    frames = take(source, 3)
    assert fake.time.slept_s == [0.5, 1, 2, 4, 5, 5, 5]
    assert said[0] == f"{name} is lost; opening it again, attempt 1"
    assert said[-1] == f"{name} is lost; opening it again, attempt 7"
    assert source.status == ""
    assert source.reopened == 1
    assert [frame.index for frame in frames] == [0, 1, 2]  # what it did not produce is no loss
    assert {opened for opened, _ in fake.opened} == {device}
    source.close()
    assert source.notices == [f"{name} was lost and opened again once"]


def test_close_ends_the_waiting_for_a_camera_that_stays_away() -> None:
    fake = FakeCamera(["new", "new"])
    source = source_of(fake)
    fake.time.while_asleep = lambda seconds: source.close() if seconds == 5 else None
    assert len(list(source)) == 1
    assert fake.time.slept_s == [0.5, 1, 2, 4, 5]
    assert not fake.is_open


def test_frozen_picture_is_taken_for_unplugged_but_a_test_picture_left_more_and_more_in_peace() -> None:
    said: list[str] = []
    fake = FakeCamera(["new", "new"] + ["same"] * 2000, period_s=0.1)
    source = source_of(fake)
    fake.time.while_asleep = lambda _: said.append(source.status)
    lost_s: list[float] = []
    frames = iter(source)
    for frame in islice(frames, 900):
        if len(said) > len(lost_s):
            lost_s.append(frame.t_s - 1000)
    assert said[0] == "camera 0 gives the same picture for ever; opening it again, attempt 1"
    assert np.diff([0.0, *lost_s]) == pytest.approx([5, 10, 20, 40], abs=1.5)
    assert source.reopened == 4


def test_a_living_picture_is_never_taken_for_frozen() -> None:
    fake = FakeCamera(["new", *["new", "same"] * 200], period_s=0.1)
    source = source_of(fake)
    take(source, 399)
    assert source.reopened == 0


def test_damaged_pictures_are_gaps_and_only_damaged_ones_are_a_lost_camera() -> None:
    said: list[str] = []
    damaged = ["torn"] * 55  # 5 s, and some that the camera sends when it is opened again
    fake = FakeCamera(["new", "new", "torn", "torn", "new", *damaged, "new", *damaged, "new", "new"], period_s=0.1)
    source = source_of(fake)
    fake.time.while_asleep = lambda _: said.append(source.status)
    frames = take(source, 3)
    assert [frame.index for frame in frames[:2]] == [0, 3]
    assert set(said) == {"camera 0 sends only damaged pictures; opening it again, attempt 1"}
    assert source.reopened == 2


def test_a_read_that_never_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "_CLOSE_S", 0.1)
    fake = FakeCamera(["new", "new", "hang"])
    source = source_of(fake)
    frames: list[Frame] = []
    reader = threading.Thread(target=lambda: frames.extend(source))
    reader.start()
    assert fake.hanging.wait(5)
    fake.time.now_s += 7
    assert source.status == "camera 0 has given no picture for 7 s"
    start_s = time.monotonic()
    source.close()
    assert time.monotonic() - start_s < 1
    assert fake.is_open  # the driver still has it
    fake.let_go.set()
    reader.join(5)
    assert not fake.is_open
    assert len(frames) == 1
    assert source.status == "", "a camera that was closed isn't lost"


def test_a_run_ends_although_the_camera_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "_CLOSE_S", 0.1)
    monkeypatch.setattr("livemarks.pipeline._LET_GO_S", 0.1)
    fake = FakeCamera(["new", "new", "new", "hang"])
    source = source_of(fake)

    def stop(_: object) -> None:
        assert fake.hanging.wait(5)  # or the run might end before the camera hangs
        raise Stop

    start_s = time.monotonic()
    run(source, FakeTracker(), [FakeSink(stop)])
    assert time.monotonic() - start_s < 3
    assert "left alone" in source.notices[-1]
    fake.let_go.set()


def test_a_camera_that_comes_back_with_another_size_is_scaled() -> None:
    fake = FakeCamera(["new", "new", "gone", "new", "new"])
    source = source_of(fake)
    fake.time.while_asleep = lambda _: setattr(fake, "size_wh", (32, 24))
    frames = take(source, 2)
    assert [frame.size_wh for frame in frames] == [(64, 48), (64, 48)]
    assert source.notices == ["camera 0 changed its size; its pictures were scaled to 64x48 again"]


def test_a_camera_that_comes_back_turned_keeps_its_shape() -> None:
    fake = FakeCamera(["new", "new", "gone", "new", "new"])
    source = source_of(fake)
    fake.time.while_asleep = lambda _: setattr(fake, "size_wh", (48, 64))
    before, after = take(source, 2)
    assert after.size_wh == before.size_wh == (64, 48)
    assert not after.image[:, :14].any()
    assert not after.image[:, -14:].any()
    assert after.image[:, 14:-14].any(axis=2).all()


# --- cameras that never start ----------------------------------------------------------------------------------------


def test_a_camera_without_a_picture_is_refused_in_bounded_time() -> None:
    fake = FakeCamera(["gone"] * 1000)
    with pytest.raises(LivemarksError, match="camera 0"):
        source_of(fake)
    assert sum(fake.time.slept_s) < 4
    assert not fake.is_open


@pytest.mark.parametrize(
    ("platform", "cure"),
    [
        ("darwin", "Privacy & Security > Camera"),
        ("win32", "allow desktop apps"),
        ("linux", "another program may be using it"),
    ],
)
def test_the_reason_names_the_cure(platform: str, cure: str, tmp_path: Path) -> None:
    (tmp_path / "video7").mkdir()  # something that is there
    line = _devices.why(str(tmp_path / "video7"), "camera 7", platform)
    assert line.startswith("camera 7 ")
    assert cure in line
    assert "\n" not in line


def test_a_camera_of_another_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "usermod -aG video" in _devices.why(str(tmp_path), "camera 7", "linux")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system's own camera library writes to stderr")
def test_a_camera_that_is_not_there_is_one_line_and_silence(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LivemarksError, match=r"camera 63 is not there .*this machine has"):
        Source(63)
    with pytest.raises(LivemarksError, match="/dev/video63 is not there"):
        Source("/dev/video63")
    for api in _devices.APIS:
        with pytest.raises(LivemarksError):
            Source(63, api=api)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("api", ["auto", "ffmpeg", "v4l2"])
@pytest.mark.parametrize("address", ["http://me:secret@127.0.0.1:9/a.mjpg", "rtsp://me:secret@127.0.0.1:9/a", "x://["])
def test_an_address_that_does_not_answer(address: str, api: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LivemarksError, match="could not be opened") as caught:
        Source(address, api=api)
    assert "secret" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("rtsp://joe:secret@cam:554/live?key=5", "rtsp://cam:554/live"),
        ("rtsp://joe:se/cret@cam:554/live?key=5", "rtsp://cam:554/live"),
        ("rtsp://joe:se@cret@cam/live", "rtsp://cam/live"),
        ("rtsp://joe:se?cret@cam/live", "rtsp://..."),
        ("rtsp://joe:s/e?cr?et@cam/live", "rtsp://..."),
        ("http://cam/live?user=joe@home&password=secret", "http://..."),
        ("http://cam/live?user=joe&password=secret", "http://cam/live"),
    ],
)
def test_no_password_is_in_a_name(address: str, name: str) -> None:
    """However it is written; the name goes to logs, titles and files."""
    assert _devices.name(address) == name


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file systems know no such names")
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """OpenCV crashes on it."""
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    path.touch()
    with pytest.raises(LivemarksError, match=r"caf\\udce9.mp4' can't be opened: its name is no valid UTF-8"):
        Source(str(path))


@pytest.mark.parametrize("device", ["nothing.mp4", "-1", "", "x" * 5000, "9" * 20, "a\0b"])
def test_names_of_nothing(device: str) -> None:
    with pytest.raises(LivemarksError, match="no camera, file or address"):
        Source(device)


def test_a_text_file_and_an_unknown_interface(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.mp4").write_text("not a video\n" * 100)
    with pytest.raises(LivemarksError, match="holds no video"):
        Source(str(tmp_path / "notes.mp4"))
    with pytest.raises(LivemarksError, match="'vfw'; there are: auto, v4l2"):
        Source(0, api="vfw")
    assert capfd.readouterr() == ("", "")


def test_a_network_camera_that_falls_silent_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_devices, "_READ_S", 0.3)
    done = threading.Event()

    def serve() -> None:
        """Three pictures, then silence; to each of two visitors."""
        with ExitStack() as held:
            for _ in range(2):
                visitor = held.enter_context(server.accept()[0])
                visitor.recv(4096)
                visitor.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=next\r\n\r\n")
                for seed in range(3):
                    jpeg = cv2.imencode(".jpg", picture(seed))[1].tobytes()
                    visitor.sendall(b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg))
                    visitor.sendall(jpeg + b"\r\n")
            done.wait(20)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        server_thread = threading.Thread(target=serve, daemon=True)
        server_thread.start()
        source = Source(f"http://127.0.0.1:{server.getsockname()[1]}/live")
        frames = take(source, 3)
        source.close()
        done.set()
        server_thread.join()
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert source.reopened == 1


# --- files played as cameras -----------------------------------------------------------------------------------------


def write_clip(path: Path, times_ms: list[int], size_wh: tuple[int, int] = (64, 48)) -> Path:
    """An H.264 clip with B-frames whose frame i is grey 20 i, shown from times_ms[i]."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options={"bf": "2"})
        stream.width, stream.height = size_wh
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, time_ms in enumerate(times_ms):
            grey = np.full((size_wh[1], size_wh[0], 3), 20 * i, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="bgr24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_file_plays_at_its_own_uneven_pace_and_ends(tmp_path: Path) -> None:
    times_ms = [0, 33, 66, 100, 300, 333, 500, 1000, 1033]
    clip = write_clip(tmp_path / "clip.mp4", times_ms)
    now = FakeTime()
    source = Source(str(clip), clock=now.clock, sleep=now.sleep)
    shown_s: list[float] = []

    def look() -> Iterator[Frame]:
        for frame in source:
            shown_s.append(now.now_s)
            yield frame

    frames = list(look())
    due_s = [1000 + ms / 1000 for ms in times_ms]
    assert [frame.t_s for frame in frames] == pytest.approx(due_s)
    assert shown_s == pytest.approx(due_s)
    assert [frame.index for frame in frames] == list(range(9))
    assert [int(frame.image[20, 20, 1]) for frame in frames] == pytest.approx([20 * i for i in range(9)], abs=4)
    assert (source.info.live, source.info.frames, source.info.name) == (True, 9, str(clip))
    assert source.info.path == str(clip)
    assert source.reopened == 0


def test_nothing_is_asked_of_a_file_which_is_told(tmp_path: Path) -> None:
    now = FakeTime()
    clip = write_clip(tmp_path / "clip.mp4", [200 * i for i in range(12)])
    source = Source(str(clip), size_wh=(1280, 720), fps=60, clock=now.clock, sleep=now.sleep)
    assert len(list(source)) == 12
    source.close()
    assert source.notices == [f"{clip} has a size and a rate of its own; only cameras can be asked for others"]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_a_film_that_starts_late_has_no_more_frames(tmp_path: Path, name: str) -> None:
    source = Source(str(write_clip(tmp_path / name, [100_000 + 100 * i // 3 for i in range(10)])))
    source.close()
    assert source.info.frames == pytest.approx(10, abs=1)


def test_slow_shows_are_played_as_they_are(tmp_path: Path) -> None:
    now = FakeTime()
    source = Source(str(write_clip(tmp_path / "clip.mkv", [0, 10_000, 20_000])), clock=now.clock, sleep=now.sleep)
    assert [frame.t_s for frame in source] == pytest.approx([1000, 1010, 1020])
    assert source.notices == []


@pytest.mark.parametrize(
    "leaps_s",
    [
        {5: 64_800.0, 6: -64_800.0},  # one wrong time stamp
        {5: 600.0},  # another recording
        {5: 600.0, 8: -3000.0},  # and one of earlier
    ],
)
def test_a_clock_that_leaps_is_not_waited_for(tmp_path: Path, leaps_s: dict[int, float]) -> None:
    path = tmp_path / "clip.ts"
    path.touch()
    fake = FakeFile(12, decode_s=0.001, leaps_s=leaps_s)
    source = source_of(fake, str(path))
    assert np.diff([frame.t_s for frame in source]) == pytest.approx([0.02] * 11)
    assert max(fake.time.slept_s) < 0.1
    assert source.notices == [f"{path}: its clock leaps ahead; played on without a wait"]


def test_a_file_plays_in_real_time_as_a_camera_does(tmp_path: Path) -> None:
    source = Source(str(write_clip(tmp_path / "clip.mp4", [20 * i for i in range(13)])))
    start_s = time.monotonic()
    tally = run(source, FakeTracker(), [FakeSink(lambda _: time.sleep(0.04))])
    assert time.monotonic() - start_s >= 0.24
    assert tally.captured == 13 == tally.processed + tally.dropped
    assert tally.dropped >= 4


def test_a_raw_stream_that_does_not_know_its_length_ends_too(tmp_path: Path) -> None:
    import av

    clip, raw = write_clip(tmp_path / "clip.mp4", [0, 40, 80, 120]), tmp_path / "clip.h264"
    with av.open(str(clip)) as container, av.open(str(raw), "w", format="h264") as bare:
        bitstream = av.BitStreamFilterContext("h264_mp4toannexb", container.streams.video[0])
        stream = bare.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            for part in bitstream.filter(packet if packet.size else None):
                part.stream = stream
                bare.mux(part)
    source = Source(str(raw), clock=(now := FakeTime()).clock, sleep=now.sleep)
    assert source.info.frames is None
    assert len(list(source)) == 4


def turn(path: Path) -> None:
    """Marks an mp4 as to be shown turned by 90 degrees, in its track header's matrix."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    one, minus_one = (0x10000).to_bytes(4, "big"), (-0x10000).to_bytes(4, "big", signed=True)
    assert data[start : start + 4] == one
    data[start : start + 20] = bytes(4) + one + bytes(4) + minus_one + bytes(4)
    path.write_bytes(data)


def test_a_file_is_shown_the_right_way_up(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [0, 40, 80])
    turn(clip)
    source = Source(str(clip))
    assert source.info.size_wh == (48, 64)
    assert take(source, 1)[0].size_wh == (48, 64)
    source.close()


@pytest.mark.parametrize(("how", "size_wh"), [("0", (128, 64)), ("90", (64, 128))])
def test_pixels_become_square(tmp_path: Path, how: str, size_wh: tuple[int, int]) -> None:
    """As the video source shows them."""
    import media

    from livemarks.sources import video

    clip = media.make_clip(tmp_path / "a.mp4", 3, settings={"sample_aspect_ratio": Fraction(4, 3)})
    film, source = video.Source(str(media.turn(clip, how))), Source(str(clip))
    (want,), (frame,) = islice(film, 1), take(source, 1)
    film.close()
    source.close()
    assert source.info.size_wh == frame.size_wh == want.size_wh == size_wh
    assert np.abs(frame.image.astype(int) - want.image).mean() < 4
    assert source.notices == []


@pytest.mark.skipif(sys.platform == "win32", reason="a drive is no host")
def test_the_file_behind_an_address_is_known(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [0, 40, 80])
    source = Source(f"file://{clip}")
    source.close()
    assert source.info.path is not None
    assert Path(source.info.path).samefile(clip)


class FakeFile(FakeCamera):
    """A file whose frames are 20 ms apart, and take `decode_s` each to decode. leaps_s: of its clock, by frame."""

    def __init__(
        self, count: int, decode_s: float, unstamped: bool = False, leaps_s: Mapping[int, float] | None = None
    ) -> None:
        super().__init__(["new"] * count, period_s=0.02)
        self._properties = {cv2.CAP_PROP_FPS: 50, cv2.CAP_PROP_FRAME_COUNT: count}
        self._decode_s = decode_s
        self._unstamped = unstamped
        self._leaps_s = leaps_s or {}
        self._grabbed = 0

    def grab(self) -> bool:
        self.time.now_s += self._decode_s - self._period_s
        self.position_s += self._leaps_s.get(self._grabbed, 0.0)
        self._grabbed += 1
        return super().grab()

    def get(self, prop: int, /) -> float:
        if prop == cv2.CAP_PROP_POS_MSEC:
            return 0.0 if self._unstamped else self.position_s * 1000
        return super().get(prop)


def test_a_file_that_decodes_too_slowly_leaves_gaps_and_then_plays_more_slowly(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.touch()
    fake = FakeFile(300, decode_s=0.05)
    source = source_of(fake, str(path))
    frames = list(source)
    gaps = {after.index - before.index for before, after in pairwise(frames)}
    assert max(gaps) == 5  # one of five is shown
    assert frames[-1].index == 299
    assert all(after.t_s > before.t_s for before, after in pairwise(frames))
    assert frames[-1].t_s == pytest.approx(1000 + 300 * 0.05, abs=1.3)  # never more than about a second late
    assert source.notices == [f"{path} decodes slower than its own pace here and was played more slowly"]


def test_a_file_without_time_stamps_plays_at_its_nominal_rate(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.touch()
    frames = list(source_of(FakeFile(10, decode_s=0.001, unstamped=True), str(path)))
    assert np.diff([frame.t_s for frame in frames]) == pytest.approx([0.02] * 9)
