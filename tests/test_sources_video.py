"""The video source on clips of every kind that people have, whole and damaged."""

from __future__ import annotations

import http.server
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import media
import numpy as np
import pytest

from livemarks.sources.video import Source
from livemarks.types import U8, LivemarksError

PYAV = int(av.__version__.split(".")[0])
SEES_THE_INDEX = pytest.mark.skipif(PYAV < 17, reason="earlier PyAVs don't show a file's index")


def read(path: Path) -> tuple[list[U8], list[float], Source]:
    source = Source(str(path))
    frames = list(source)
    source.close()
    assert [frame.index for frame in frames] == list(range(len(frames)))
    return [frame.image for frame in frames], [frame.t_s for frame in frames], source


# --- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9"), ("a.flv", "libx264")],
)
def test_every_frame_comes_once_and_in_order(tmp_path: Path, name: str, codec: str) -> None:
    options = {"bf": "2", "crf": "10"} if codec == "libx264" else {}
    images, times, source = read(media.make_clip(tmp_path / name, 30, codec=codec, options=options))
    assert [media.number(image) for image in images] == list(range(30))
    assert np.diff(times) == pytest.approx([1 / 25] * 29, abs=1e-9)
    assert source.info.fps == 25
    assert source.info.frames == pytest.approx(30, abs=2)
    assert source.info.size_wh == media.SIZE_WH
    assert source.notices == []


def test_uneven_times_are_kept_exactly(tmp_path: Path) -> None:
    stamps = [7, 40, 41, 300, 1000, 1001, 5000]
    path = media.make_clip(tmp_path / "vfr.mp4", 7, stamps=stamps, time_base=Fraction(1, 1000))
    _, times, source = read(path)
    assert times == [stamp / 1000 for stamp in stamps]
    assert source.info.time_base is not None
    assert Fraction(1, 1000) % source.info.time_base == 0


def test_a_transport_stream_counts_from_its_first_packet(tmp_path: Path) -> None:
    _, times, _ = read(media.make_clip(tmp_path / "a.ts", 10))
    assert times == pytest.approx([i / 25 for i in range(10)], abs=1e-9)


def test_a_transport_stream_may_start_at_0(tmp_path: Path) -> None:
    """And its sound later."""
    settings: dict[str, Any] = {"options": {"bf": "0"}, "container_options": {"mpegts_copyts": "1"}}
    _, times, _ = read(media.make_clip(tmp_path / "a.ts", 20, sounds=1, sound_from_s=0.4, **settings))
    assert times == pytest.approx([i / 25 for i in range(20)], abs=1e-9)


@pytest.mark.parametrize("count", [5, 20, 50])
@pytest.mark.parametrize("later_s", [0, 7200])
def test_recordings_joined_end_to_end_count_on(tmp_path: Path, count: int, later_s: int) -> None:
    one = media.make_clip(tmp_path / "a.ts", count).read_bytes()
    stamps = range(later_s * 25, later_s * 25 + count)
    two = media.make_clip(tmp_path / "b.ts", count, stamps=stamps).read_bytes()
    (tmp_path / "joined.ts").write_bytes(one + two + one)
    images, times, source = read(tmp_path / "joined.ts")
    assert [media.number(image) for image in images] == [*range(count)] * 3
    assert np.diff(times) == pytest.approx([1 / 25] * (3 * count - 1), abs=1e-9)
    assert "its clock jumps in 2 places" in source.notices[0]
    assert len(source.notices) == 1


def test_gaps_of_hours_are_kept(tmp_path: Path) -> None:
    """If the header says that the film is as long."""
    stamps = [0, 40, 7_200_000, 7_200_040, 20_000_000]
    path = media.make_clip(tmp_path / "a.mkv", 5, stamps=stamps, time_base=Fraction(1, 1000))
    _, times, source = read(path)
    assert times == [stamp / 1000 for stamp in stamps]
    assert source.notices == []


def test_a_time_stamp_in_the_far_future_is_not_believed(tmp_path: Path) -> None:
    """FLV keeps the high byte of a time stamp in a byte of its own."""
    path = media.make_clip(tmp_path / "a.flv", 20, options={"bf": "0"})
    data = bytearray(path.read_bytes())
    at = media.flv_tags(data, 9)[10]
    data[at + 7] = 99
    path.write_bytes(data)
    images, times, source = read(path)
    assert [media.number(image) for image in images] == list(range(20))
    assert np.diff(times) == pytest.approx([1 / 25] * 19, abs=0.002)
    assert source.notices == [f"{path}: 1 frame had no time stamp, or a wrong one; mended"]


def test_a_time_stamp_that_runs_backwards_is_put_right(tmp_path: Path) -> None:
    path = media.make_clip(tmp_path / "a.flv", 20, options={"bf": "0"})
    data = bytearray(path.read_bytes())
    at = media.flv_tags(data, 9)[15] + 4
    data[at : at + 3] = (200).to_bytes(3, "big")
    path.write_bytes(data)
    _, times, source = read(path)
    assert np.diff(times) == pytest.approx([1 / 25] * 19, abs=0.002)
    assert source.notices == [f"{path}: 1 frame had no time stamp, or a wrong one; mended"]


def test_missing_time_stamps_are_made_from_the_rate(tmp_path: Path) -> None:
    _, times, source = read(media.make_clip(tmp_path / "raw.h264", 12, format="h264"))
    assert times == pytest.approx([i / 25 for i in range(12)], abs=1e-9)
    assert "12 frames had no time stamp" in source.notices[0]
    assert not source.damaged


def test_mixed_up_time_stamps_are_put_in_order(tmp_path: Path) -> None:
    """H.264 with B frames in AVI, which has no place for times of presentation."""
    images, times, _ = read(media.make_clip(tmp_path / "b.avi", 20))
    assert [media.number(image) for image in images] == list(range(20))
    assert all(step > 0 for step in np.diff(times))


# --- what a player shows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", media.MATRICES)
def test_the_display_matrix_is_honoured(tmp_path: Path, how: str) -> None:
    stored = np.zeros((64, 96, 3), np.uint8)
    stored[:32, :48], stored[:32, 48:], stored[32:, :48] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    shown = {
        "0": stored,
        "90": cv2.rotate(stored, cv2.ROTATE_90_CLOCKWISE),
        "180": cv2.rotate(stored, cv2.ROTATE_180),
        "270": cv2.rotate(stored, cv2.ROTATE_90_COUNTERCLOCKWISE),
        "mirrored": cv2.flip(stored, 1),
    }[how]
    images, _, source = read(media.turn(media.make_clip(tmp_path / "a.mp4", [stored] * 3), how))
    height, width = shown.shape[:2]
    assert source.info.size_wh == (width, height)
    for x, y in ((10, 10), (width - 10, 10), (10, height - 10), (width - 10, height - 10)):
        assert images[0][y, x] == pytest.approx(shown[y, x], abs=12)


def test_odd_sizes(tmp_path: Path) -> None:
    clip = [media.numbered(i, (97, 63)) for i in range(5)]
    images, _, _ = read(media.make_clip(tmp_path / "odd.mp4", clip, pix_fmt="yuv444p"))
    assert [image.shape for image in images] == [(63, 97, 3)] * 5
    assert np.abs(images[3].astype(int) - clip[3]).mean() < 4


@pytest.mark.parametrize(("aspect", "size_wh"), [("4/3", (128, 64)), ("1/2", (96, 128)), ("1000/1", (96, 64))])
def test_pixels_become_square(tmp_path: Path, aspect: str, size_wh: tuple[int, int]) -> None:
    path = media.make_clip(tmp_path / "a.mkv", 5, settings={"sample_aspect_ratio": Fraction(aspect)})
    images, _, source = read(path)
    assert source.info.size_wh == size_wh
    assert [media.number(image) for image in images] == list(range(5))


@pytest.mark.skipif(PYAV < 18, reason="earlier PyAVs can't make these clips")
@pytest.mark.parametrize(
    ("pix_fmt", "colours"),
    [
        ("yuv420p", (6, 1)),  # BT.601, limited range
        ("yuvj420p", (6, 2)),  # full range
        ("yuv420p", (1, 1)),  # BT.709
        ("yuv420p10le", (9, 1)),  # BT.2020
    ],
)
def test_colours_survive(tmp_path: Path, pix_fmt: str, colours: tuple[int, int]) -> None:
    clip = [np.full((64, 96, 3), (60, 120, 180), np.uint8)] * 3
    images, _, _ = read(media.make_clip(tmp_path / "a.mkv", clip, pix_fmt=pix_fmt, colours=colours))
    assert images[1].reshape(-1, 3).mean(axis=0) == pytest.approx((60, 120, 180), abs=4)


def test_grey_becomes_bgr(tmp_path: Path) -> None:
    images, _, _ = read(media.make_clip(tmp_path / "a.mkv", 3, codec="ffv1", pix_fmt="gray", options={}))
    assert images[0].shape == (64, 96, 3)
    assert media.number(images[2]) == 2


def test_alpha_is_dropped(tmp_path: Path) -> None:
    clip = [np.full((64, 96, 4), (30, 60, 90, 128), np.uint8)] * 2
    images, _, _ = read(media.make_clip(tmp_path / "a.mov", clip, codec="png", pix_fmt="rgba", options={}))
    assert images[0].shape == (64, 96, 3)
    assert images[0][5, 5].tolist() == [30, 60, 90]


def test_a_cover_picture_is_not_the_video(tmp_path: Path) -> None:
    images, _, _ = read(media.make_clip(tmp_path / "a.mp4", 10, cover=True, sounds=1))
    assert [media.number(image) for image in images] == list(range(10))


def test_frames_may_change_their_size(tmp_path: Path) -> None:
    small = media.make_clip(tmp_path / "small.h264", 5, format="h264").read_bytes()
    large = [media.numbered(i + 5, (192, 128)) for i in range(5)]
    (tmp_path / "both.h264").write_bytes(
        small + media.make_clip(tmp_path / "large.h264", large, format="h264").read_bytes()
    )
    images, _, source = read(tmp_path / "both.h264")
    assert [media.number(image) for image in images] == list(range(10))
    assert {image.shape for image in images} == {(64, 96, 3)}
    assert not any("shape" in notice for notice in source.notices)


@pytest.mark.parametrize(
    ("size_wh", "aspect", "top", "left"),
    [
        ((64, 96), "1", 0, 27),  # a telephone that was turned
        ((192, 64), "1", 16, 0),
        ((96, 64), "2", 16, 0),  # of the same size, with wider pixels
    ],
)
def test_frames_of_another_shape_keep_it(
    tmp_path: Path, size_wh: tuple[int, int], aspect: str, top: int, left: int
) -> None:
    """White ones after numbered ones; they are `top` or `left` pixels from the edges."""
    settings = {"sample_aspect_ratio": Fraction(aspect)}
    one = media.make_clip(tmp_path / "one.ts", 5)
    white = [np.full((size_wh[1], size_wh[0], 3), 255, np.uint8)] * 5
    two = media.make_clip(tmp_path / "two.ts", white, stamps=range(5, 10), settings=settings)
    path = tmp_path / "both.ts"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    images, _, source = read(path)
    want = np.zeros((64, 96), bool)
    want[top : 64 - top, left : 96 - left] = True
    assert [media.number(image) for image in images[:5]] == list(range(5))
    for image in images[5:]:
        wrong = (image.mean(axis=2) > 128) != want
        assert wrong.mean() < 0.03, "an edge may be a pixel off"
    assert f"{path} changes its shape: 5 frames with black bars, to fit the first" in source.notices
    assert not source.damaged


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_file_cut_short_gives_its_good_frames_and_says_what_is_lost(tmp_path: Path, name: str) -> None:
    options = {"movflags": "faststart"} if name == "a.mp4" else {}
    path = media.make_clip(tmp_path / name, noise(100), container_options=options)
    whole, _, _ = read(path)
    images, times, source = read(media.cut(path, 0.6))
    assert 40 < len(images) < 80
    assert all(np.array_equal(*pair) for pair in zip(images[:40], whole, strict=False))
    assert times[-1] == pytest.approx((len(images) - 1) / 25, abs=0.002)
    assert source.damaged
    (notice,) = source.notices
    assert f"{path} is damaged: it ends after" in notice
    assert abs(int(notice.split(" s, ")[1].split()[0]) + len(images) - 100) <= 3


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx"),
        ("a.wmv", "wmv2"),
        ("a.nut", "mpeg4"),
        ("a.flv", "flv"),
        ("a.mov", "libx264"),
    ],
)
@pytest.mark.parametrize("settings", [{"stamps": range(250, 270)}, {"fps": Fraction(1), "images": 4}, {"images": 1}])
def test_a_whole_file_is_not_called_damaged(tmp_path: Path, name: str, codec: str, settings: dict[str, Any]) -> None:
    """Nor if it starts late, or is slow: formats count a duration from here or there, or have none for a packet."""
    path = media.make_clip(tmp_path / name, codec=codec, options={"bf": "0"}, **settings)
    images, _, source = read(path)
    assert source.notices == []
    if len(images) > 1 and not name.endswith((".flv", ".nut")):  # whose headers say less
        assert source.info.frames == len(images)


def test_a_slow_show_is_not_called_damaged(tmp_path: Path) -> None:
    """FLV doesn't store for how long the last picture stays, but counts it."""
    stamps = [0, 3000, 6000, 9000]
    path = media.make_clip(
        tmp_path / "a.flv", 4, stamps=stamps, time_base=Fraction(1, 1000), last_duration=3000, options={"bf": "0"}
    )
    assert read(path)[2].notices == []


def test_subtitles_that_go_on_are_no_loss(tmp_path: Path) -> None:
    text = written(tmp_path / "a.srt", "1\n00:00:00,100 --> 00:00:09,000\nhello\n\n")
    path = media.join(tmp_path / "a.mkv", media.make_clip(tmp_path / "b.mp4"), text)
    images, _, source = read(path)
    assert len(images) == 20
    assert source.notices == []


def test_pictures_that_are_not_read_are_no_loss(tmp_path: Path) -> None:
    large = media.make_clip(tmp_path / "large.mp4", [media.numbered(i, (192, 128)) for i in range(10)])
    path = media.join(tmp_path / "a.mp4", large, media.make_clip(tmp_path / "small.mp4", 50))
    images, _, source = read(path)
    assert images[0].shape == (128, 192, 3)
    assert source.notices == []


@pytest.mark.parametrize("name", ["a.mov", "a.mkv"])
def test_a_late_film_cut_short_is_damaged(tmp_path: Path, name: str) -> None:
    options = {"movflags": "faststart"} if name == "a.mov" else {}
    path = media.make_clip(tmp_path / name, noise(50), stamps=range(250, 300), container_options=options)
    images, _, source = read(media.cut(path, 0.6))
    assert source.damaged
    assert "of 12.0 s, " in source.notices[0]
    assert abs(int(source.notices[0].split(" s, ")[1].split()[0]) + len(images) - 50) <= 3


@SEES_THE_INDEX
@pytest.mark.parametrize(("first", "share", "lost"), [("audio", 0.6, "it ends"), ("video", 0.95, "its sound ends")])
def test_one_track_cut_short_is_damage(tmp_path: Path, first: str, share: float, lost: str) -> None:
    """Where pictures and sound are stored apart, one may be lost and the other whole."""
    clip = media.make_clip(tmp_path / "clip.mp4", noise(50), sounds=1)
    path = media.apart(tmp_path / "a.mp4", clip, first)
    assert read(path)[2].notices == []
    images, _, source = read(media.cut(path, share))
    assert source.damaged
    (notice,) = source.notices
    told = re.match(rf"{path} is damaged: {lost} after [01]\.\d of 2\.0 s(?:, (\d+) frames missing)?", notice)
    assert told
    assert int(told[1] or 0) + len(images) == pytest.approx(50, abs=1)


@SEES_THE_INDEX
def test_what_was_edited_out_is_no_loss(tmp_path: Path) -> None:
    """The edit list of an mp4 shows 1 s of 4, after a pause of 2 s; FFmpeg then promises 3 s of pictures."""
    options = {"bf": "0", "g": "10"}
    path = media.make_clip(tmp_path / "a.mp4", 100, stamps=range(50, 150), options=options)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4  # ISO/IEC 14496-12: version and flags, count, then 12 bytes each; times in ms
    assert struct.unpack_from(">IIIiI", data, at)[1:4] == (2, 2000, -1)
    struct.pack_into(">I", data, at + 20, 1000)
    path.write_bytes(data)
    images, _, source = read(path)
    assert [media.number(image) for image in images] == list(range(25))
    assert source.notices == []


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_flipped_bits_cost_no_more_than_they_must(tmp_path: Path, codec: str) -> None:
    options = {"g": "10", "x265-params": "log-level=none:pools=none:frame-threads=1"}
    path = media.make_clip(tmp_path / "a.mp4", noise(60), codec=codec, options=options)
    media.flip_bits(path, count=30, seed=1)
    images, times, _ = read(path)
    assert len(images) > 50
    assert all(step > 0 for step in np.diff(times))
    again, times_again, _ = read(path)
    assert times == times_again
    assert all(np.array_equal(*pair) for pair in zip(images, again, strict=True))


def noise(count: int) -> list[U8]:
    """Frames that take some room in a file."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(count)]


def no_moov(folder: Path) -> Path:
    return media.cut(media.make_clip(folder / "cut.mp4", 20), 0.6)


def bad_files() -> dict[str, Any]:
    text = "The quick brown fox jumps over the lazy dog.\n" * 100
    return {
        "is no media file": lambda folder: written(folder / "text.mp4", text),
        "is no video": lambda folder: written(folder / "text.txt", text),
        "can't be read as video": lambda folder: written(folder / "empty.mp4", ""),
        "lacks its index": no_moov,
        "no such file": lambda folder: folder / "missing.mp4",
        "is a folder": lambda folder: folder,
        "only sound": lambda folder: media.make_clip(folder / "sound.m4a", 0, sounds=1, format="mp4"),
        "no video in it": lambda folder: media.make_clip(folder / "c.m4a", 0, sounds=1, cover=True, format="mp4"),
        "no frame can be decoded": lambda folder: zeroed(media.make_clip(folder / "zeroed.mp4", 20)),
    }


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def zeroed(path: Path) -> Path:
    """All pictures overwritten."""
    data = path.read_bytes()
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    return path


@pytest.mark.parametrize("why", bad_files())
def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path, why: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = bad_files()[why](tmp_path)
    capfd.readouterr()
    with pytest.raises(LivemarksError, match=why) as caught:
        Source(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_file_that_is_refused_is_closed(tmp_path: Path) -> None:
    path = media.make_clip(tmp_path / "sound.m4a", 0, sounds=1, format="mp4")
    with pytest.raises(LivemarksError, match="only sound") as caught:
        Source(str(path))
    assert caught.tb is not None  # which holds on to the source
    assert str(path) not in map(os.path.realpath, Path("/proc/self/fd").iterdir())


def test_nothing_is_fetched(tmp_path: Path) -> None:
    """A playlist may not lead to the network."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/a.ts"
        path = written(
            tmp_path / "list.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n"
        )
        with pytest.raises(LivemarksError):
            Source(str(path))
        server.shutdown()
        thread.join()
    assert asked == []


# --- ends -------------------------------------------------------------------------------------------------------------


def test_close_ends_the_iteration(tmp_path: Path) -> None:
    source = Source(str(media.make_clip(tmp_path / "a.mp4", 20)))
    frames = iter(source)
    next(frames)
    closer = threading.Thread(target=source.close)
    closer.start()
    closer.join()
    assert len(list(frames)) <= 1
    source.close()
    assert source.notices == []


def test_a_loop_that_is_broken_off_can_be_gone_on_with(tmp_path: Path) -> None:
    source = Source(str(media.make_clip(tmp_path / "a.mp4", 6)))
    frames = []
    for most in (2, 3, 99):
        for frame in source:
            frames.append(frame)
            if len(frames) >= most:
                break
    source.close()
    assert [frame.index for frame in frames] == list(range(6))
    assert [media.number(frame.image) for frame in frames] == list(range(6))
    assert [frame.t_s for frame in frames] == pytest.approx([i / 25 for i in range(6)])


COUNT = (
    "from livemarks.sources.video import Source; s = Source('-');"
    "print(sum(1 for _ in s), s.info.path, s.damaged, *s.notices)"
)


@pytest.mark.parametrize("sounds", [0, 1])
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_standard_input(tmp_path: Path, name: str, sounds: int) -> None:
    """Through a pipe; an mp4 whose index is at its end must be a file, so that it can be searched."""
    path = media.make_clip(tmp_path / name, 20, sounds=sounds)
    if name == "a.mkv":
        run = subprocess.run([sys.executable, "-c", COUNT], input=path.read_bytes(), capture_output=True, check=True)
    else:
        with path.open("rb") as stdin:
            run = subprocess.run([sys.executable, "-c", COUNT], stdin=stdin, capture_output=True, check=True)
    notice = "standard input is read only once, so a video of it has no sound; name the file to keep it"
    assert run.stdout.decode().rstrip() == "20 None False" + f" {notice}" * sounds
    assert run.stderr == b""


def test_an_mp4_that_a_pipe_hides_the_index_of_is_told_as_such(tmp_path: Path) -> None:
    path = media.make_clip(tmp_path / "a.mp4", noise(100))
    run = subprocess.run([sys.executable, "-c", COUNT], input=path.read_bytes(), capture_output=True, check=False)
    said = run.stderr.decode().splitlines()[-1]
    assert "of a pipe, an mp4 whose index is at its end can't be read: name the file" in said


@pytest.mark.parametrize("good", [True, False])
def test_standard_input_leaves_no_handle_open(tmp_path: Path, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    pipe = os.pipe

    def keep() -> tuple[int, int]:
        made.extend(ends := pipe())
        return ends

    monkeypatch.setattr(os, "pipe", keep)
    path = media.make_clip(tmp_path / "a.mkv", 3) if good else written(tmp_path / "a.mkv", "no video")
    with path.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        if good:
            source = Source("-")
            source.close()
            source.close()
        else:
            with pytest.raises(LivemarksError):
                Source("-")
        assert len(made) == 2
        for handle in made:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(handle)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a named pipe")
def test_a_named_pipe_is_read_once(tmp_path: Path) -> None:
    """A sink that opened it again, for the sound, would wait for ever."""
    clip = media.make_clip(tmp_path / "a.mkv", 20).read_bytes()
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(clip,))
    writer.start()
    images, _, source = read(tmp_path / "pipe")
    writer.join()
    assert len(images) == 20
    assert source.info.path is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows can't wait for a pipe and something else")
def test_a_pipe_that_says_nothing_more_can_be_left(tmp_path: Path) -> None:
    path = media.make_clip(tmp_path / "a.ts", noise(100))
    code = (
        "import threading\n"
        "from livemarks.sources.video import Source\n"
        "source = Source('-')\n"
        "frames = iter(source)\n"
        "threading.Timer(0.3, source.close).start()\n"
        "print(sum(1 for _ in frames))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(path.read_bytes()[: path.stat().st_size // 2])
        process.stdin.flush()
        assert 0 < int(process.stdout.read()) < 100
        assert process.wait(timeout=10) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows can't wait for a pipe and something else")
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("name", ["-", "pipe"])
def test_ctrl_c_ends_the_wait_for_a_pipe(tmp_path: Path, name: str, begun: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    clip = media.make_clip(tmp_path / "a.mkv", noise(100)).read_bytes() if begun else b""
    code = (
        "import sys\n"
        "from livemarks.sources.video import Source\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    print(sum(1 for _ in Source(sys.argv[1])))\n"
        "except KeyboardInterrupt:\n"
        "    print('Ctrl-C')"
    )
    command = [sys.executable, "-c", code, name]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=tmp_path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with process.stdin if name == "-" else (tmp_path / "pipe").open("wb") as writer:
            writer.write(clip[: len(clip) // 2])
            writer.flush()
            time.sleep(0.5)  # until it waits for more
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=10)
            finally:
                process.kill()
        assert process.stdout.read() == b"Ctrl-C\n"
        assert process.stderr is not None
        assert process.stderr.read() == b""
