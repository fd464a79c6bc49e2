"""What goes into the video sink comes out of the file: every frame, every time stamp, every packet of sound."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import media
import numpy as np
import pytest

from livemarks.sinks import video
from livemarks.sinks.video import Sink
from livemarks.sources.video import Source
from livemarks.types import LivemarksError, SourceInfo, Tally

INFO = SourceInfo("test", media.SIZE_WH, media.FPS, None, live=False, time_base=1 / media.FPS)

CLIPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "with sound": {"sounds": 1},
    "two tracks": {"sounds": 2},
    "late sound": {"sounds": 1, "sound_from_s": 0.4},
    "uneven": {
        "stamps": [0, 40, 41, 90, 400, 401, 402, 1000, 1001, 1900],
        "images": 10,
        "time_base": Fraction(1, 1000),
        "options": {"bf": "0"},
        "sounds": 1,
    },
    "late start": {"stamps": range(77, 77 + 60 * 7, 7), "images": 60, "time_base": Fraction(1, 90)},
    "ntsc": {"fps": Fraction(30000, 1001), "sounds": 1},
    "slow": {"fps": Fraction(1), "images": 5},
    "long": {"images": 250, "sounds": 1},
    "one frame": {"images": 1},
    "last frame stays": {"images": 10, "last_duration": 30, "options": {"bf": "0"}},
}


@pytest.mark.parametrize("kind", CLIPS)
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_round_trip(tmp_path: Path, kind: str, suffix: str) -> None:
    clip = media.make_clip(tmp_path / "in.mp4", **CLIPS[kind])
    source = Source(str(clip))
    out = tmp_path / f"out{suffix}"
    sink = Sink(str(out), source.info)
    media.copy(source, sink)
    before, after = media.look(clip), media.look(out)
    tick = Fraction(1, 1000) if suffix == ".mkv" else Fraction(0)  # Matroska's
    assert [media.number(image) for image in after.images] == [media.number(image) for image in before.images]
    assert all(abs(x - y) <= tick / 2 for x, y in zip(after.times, before.times, strict=True))
    assert len(after.sounds) == len(before.sounds)
    for written, original in zip(after.sounds, before.sounds, strict=True):
        heard = [packet for packet in original if suffix != ".mkv" or packet[0] >= 0]
        assert [packet for _, packet in written] == [packet for _, packet in heard]
        assert all(abs(x - y) <= max(tick, Fraction(1, 20000)) for (x, _), (y, _) in zip(written, heard, strict=True))
    if suffix != ".mkv":
        assert abs(after.end - before.end) < Fraction(1, 1000)  # in which the clip's own length is counted
        assert after.average_rate == before.average_rate
    assert sink.notices == []
    assert sorted(tmp_path.iterdir()) == [clip, out]


@pytest.mark.parametrize(
    "settings", [{}, {"options": {"bf": "0"}, "container_options": {"mpegts_copyts": "1"}, "sound_from_s": 0.4}]
)
def test_from_other_containers(tmp_path: Path, settings: dict[str, Any]) -> None:
    """MPEG-TS counts from anywhere, 0 included, and its sound has no header of its own."""
    clip = media.make_clip(tmp_path / "in.ts", 50, sounds=1, **settings)
    source = Source(str(clip))
    media.copy(source, Sink(str(tmp_path / "out.mp4"), source.info))
    before, after = media.look(clip), media.look(tmp_path / "out.mp4")
    shift = before.times[0] - after.times[0]
    assert after.times[0] >= 0
    assert all(x - y == shift for x, y in zip(before.times, after.times, strict=True))
    assert [packet for _, packet in after.sounds[0]] != []
    assert all(abs(x - y - shift) < 0.001 for (x, _), (y, _) in zip(before.sounds[0], after.sounds[0], strict=True))


@pytest.mark.parametrize(
    ("name", "codec", "layout", "kept"),
    [
        ("in.avi", "pcm_s16le", "stereo", "stereo"),
        ("in.mkv", "pcm_s16le", "stereo", "stereo"),
        ("in.mkv", "pcm_f32le", "5.1", "5.1"),
        ("in.mov", "pcm_s16le", "downmix", "stereo"),
        ("in.mkv", "pcm_s16le", "7.1.4", ""),
    ],
)
def test_pcm_whose_order_of_channels_mp4_must_know(
    tmp_path: Path, name: str, codec: str, layout: str, kept: str
) -> None:
    video: dict[str, Any] = {"codec": "mpeg4", "options": {}} if name == "in.avi" else {}
    clip = media.make_clip(tmp_path / name, 50, sounds=2, sound_codec=codec, sound_layout=layout, **video)
    source = Source(str(clip))
    sink = Sink(str(tmp_path / "out.mp4"), source.info)
    media.copy(source, sink)
    before, after = media.look(clip), media.look(tmp_path / "out.mp4")
    assert [media.number(image) for image in after.images] == list(range(50))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [stream.layout.name for stream in container.streams.audio] == ([kept] * 2 if kept else [])
    if kept:
        assert [samples(sound) for sound in after.sounds] == [samples(sound) for sound in before.sounds]
        assert sink.notices == []
    else:
        assert sink.notices[0] == "sound track 1 was left out: 'mp4' format does not support 12 channels"


def samples(packets: list[tuple[Fraction, bytes]]) -> bytes:
    """However they are split into packets."""
    return b"".join(data for _, data in packets)


def test_sound_across_0_is_kept_in_a_format_without_negative_times(tmp_path: Path) -> None:
    """AC-3 starts 256 samples early, with a packet of 1536."""
    clip = media.make_clip(tmp_path / "in.mp4", 50, sounds=1, sound_codec="ac3")
    source = Source(str(clip))
    media.copy(source, Sink(str(tmp_path / "out.mkv"), source.info))
    before, after = media.look(clip), media.look(tmp_path / "out.mkv")
    assert before.sounds[0][0][0] < 0
    assert [packet for _, packet in after.sounds[0]] == [packet for _, packet in before.sounds[0]]
    assert [max(t, 0) for t, _ in before.sounds[0]] == pytest.approx([t for t, _ in after.sounds[0]], abs=0.001)
    assert after.times == before.times


def test_damaged_sound_costs_no_frame(tmp_path: Path) -> None:
    clip = media.make_clip(tmp_path / "in.ts", 50, sounds=1)
    data = bytearray(clip.read_bytes())
    for at in range(0, len(data), 188):  # the packets of a transport stream; 0x100 is the sound, the first stream
        if data[at + 1] & 0x5F == 0x41 and data[at + 2] == 0 and at > len(data) // 2:
            data[at + 20 : at + 120] = bytes(100)
    clip.write_bytes(data)
    source = Source(str(clip))
    sink = Sink(str(tmp_path / "out.mp4"), source.info)
    media.copy(source, sink)
    assert [media.number(image) for image in media.look(tmp_path / "out.mp4").images] == list(range(50))
    assert sink.notices == ["some of the sound is damaged and was left out"]


@pytest.mark.parametrize("count", [20, 50])
@pytest.mark.parametrize("later_s", [0, 7200])
def test_joined_recordings_keep_their_sound(tmp_path: Path, count: int, later_s: int) -> None:
    one = media.make_clip(tmp_path / "a.ts", count, sounds=1)
    two = media.move(tmp_path / "b.ts", one, lambda _: later_s)
    (tmp_path / "joined.ts").write_bytes(one.read_bytes() + two.read_bytes())
    source = Source(str(tmp_path / "joined.ts"))
    sink = Sink(str(tmp_path / "out.mp4"), source.info)
    media.copy(source, sink)
    after = media.look(tmp_path / "out.mp4")
    first, second = after.times[:count], after.times[count:]
    assert np.diff([float(t) for t in after.times]) == pytest.approx([1 / 25] * (2 * count - 1), abs=1e-4)
    sound = after.sounds[0]
    lost = 2 * len(media.look(one).sounds[0]) - len(sound)
    assert lost <= 3  # which the first one's end overlaps
    assert len(sink.notices) == (lost > 0)
    starts = {data: t for t, data in reversed(sound)}
    again = [t - starts[data] for t, data in sound if t > second[0]]
    assert len(again) > 20
    assert [float(step) for step in again] == pytest.approx([float(second[0] - first[0])] * len(again), abs=1e-3)


def test_sound_that_no_header_tells_of_costs_no_frame(tmp_path: Path) -> None:
    """FLV whose first sound comes after FFmpeg has looked at what there is."""
    path = media.make_clip(tmp_path / "in.flv", 250, options={"bf": "0"})
    data = bytearray(media.make_clip(tmp_path / "sound.flv", 1, sounds=1, options={"bf": "0"}).read_bytes())
    with path.open("ab") as file:
        for at in media.flv_tags(data, 8):
            file.write(data[at : at + 15 + int.from_bytes(data[at + 1 : at + 4], "big")])
    with av.open(str(path)) as container:
        assert not container.streams.audio
    source = Source(str(path))
    media.copy(source, Sink(str(tmp_path / "out.mp4"), source.info))
    assert [media.number(image) for image in media.look(tmp_path / "out.mp4").images] == list(range(250))


def test_sound_goes_on_after_a_gap_of_hours(tmp_path: Path) -> None:
    clip = media.make_clip(tmp_path / "a.mp4", 50, sounds=1, options={"bf": "0", "g": "25"})
    clip = media.move(tmp_path / "in.mkv", clip, lambda t_s: 7200 * (t_s > 0.99))
    source = Source(str(clip))
    sink = Sink(str(tmp_path / "out.mp4"), source.info)
    media.copy(source, sink)
    before, after = media.look(clip), media.look(tmp_path / "out.mp4")
    assert after.times == before.times
    assert after.times[-1] > 7200
    assert len(before.sounds[0]) - len(after.sounds[0]) <= 1
    assert sink.notices == []


@pytest.mark.parametrize("kind", [8, 9])
def test_one_wrong_time_stamp_costs_no_more_sound(tmp_path: Path, kind: int) -> None:
    clip = media.make_clip(tmp_path / "in.flv", 50, sounds=1, options={"bf": "0"})
    before = media.look(clip)
    data = bytearray(clip.read_bytes())
    data[media.flv_tags(data, kind)[30] + 7] = 99
    clip.write_bytes(data)
    source = Source(str(clip))
    sink = Sink(str(tmp_path / "out.mp4"), source.info)
    media.copy(source, sink)
    after = media.look(tmp_path / "out.mp4")
    assert [media.number(image) for image in after.images] == list(range(50))
    assert len(before.sounds[0]) - len(after.sounds[0]) == (kind == 8)
    assert after.sounds[0][-1][0] == pytest.approx(before.sounds[0][-1][0], abs=0.03)
    assert sink.notices == (["some of the sound has wrong time stamps and was left out"] if kind == 8 else [])


def test_sound_that_the_format_cannot_hold_is_told(tmp_path: Path) -> None:
    clip = media.make_clip(tmp_path / "in.avi", 25, codec="mpeg4", options={}, sounds=1, sound_codec="pcm_alaw")
    source = Source(str(clip))
    sink = Sink(str(tmp_path / "out.mp4"), source.info)
    media.copy(source, sink)
    assert len(media.look(tmp_path / "out.mp4").images) == 25
    assert len(sink.notices) == 1
    assert "pcm_alaw" in sink.notices[0]


def test_one_track_that_the_format_cannot_hold_costs_no_other(tmp_path: Path) -> None:
    flac = media.make_clip(tmp_path / "flac.mkv", 0, sounds=1, sound_codec="flac")
    clip = media.join(tmp_path / "in.mkv", flac, media.make_clip(tmp_path / "aac.mp4", 25, sounds=1))
    source = Source(str(clip))
    sink = Sink(str(tmp_path / "out.mov"), source.info)
    media.copy(source, sink)
    before, after = media.look(clip), media.look(tmp_path / "out.mov")
    assert len(after.images) == 25
    assert [[data for _, data in sound] for sound in after.sounds] == [[data for _, data in before.sounds[1]]]
    assert sink.notices == ["sound track 1 was left out: 'mov' format does not support this 'flac'"]


def test_odd_sizes_gain_a_pixel(tmp_path: Path) -> None:
    sink = Sink(str(tmp_path / "out.mp4"), INFO)
    image = media.numbered(9, (97, 63))
    sink.write(media.result(image, 0, 0.0), image, Tally())
    sink.close()
    (written,) = media.look(tmp_path / "out.mp4").images
    assert written.shape == (64, 98, 3)
    assert media.number(written) == 9
    assert written[63, 40] == pytest.approx(written[62, 40], abs=6)


@pytest.mark.parametrize("size_wh", [(8, 3), (1, 3), (64, 16384)])
def test_extreme_sizes(tmp_path: Path, size_wh: tuple[int, int]) -> None:
    picture = media.numbered(0, size_wh)
    sink = Sink(str(tmp_path / "out.mp4"), INFO)
    sink.write(media.result(picture, 0, 0.0), picture, Tally())
    sink.close()
    (written,) = media.look(tmp_path / "out.mp4").images
    assert written.shape == (size_wh[1] + size_wh[1] % 2, size_wh[0] + size_wh[0] % 2, 3)


@pytest.mark.parametrize("size_wh", [(1, 1), (3000, 2), (17000, 64), (64, 16385)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sizes_that_the_encoder_does_not_take_are_refused(
    tmp_path: Path, size_wh: tuple[int, int], suffix: str
) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_text("precious")
    picture = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    sink = Sink(str(path), INFO)
    with pytest.raises(LivemarksError, match=f"no frames of {size_wh[0]}x{size_wh[1]} pixels"):
        sink.write(media.result(picture, 0, 0.0), picture, Tally())
    sink.close()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "precious"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_an_encoder_that_takes_no_frame_leaves_what_was_there(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "_LEAST_HEIGHT_PX", 1)
    path = tmp_path / f"out{suffix}"
    path.write_text("precious")
    picture = np.zeros((2, 3000, 3), np.uint8)
    sink = Sink(str(path), INFO)
    with pytest.raises(LivemarksError, match="can't be written on: Invalid argument"):
        sink.write(media.result(picture, 0, 0.0), picture, Tally())
    sink.close()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "precious"


def test_colours_and_detail_survive(tmp_path: Path, astronaut: np.ndarray[Any, Any]) -> None:
    sink = Sink(str(tmp_path / "out.mp4"), INFO)
    for i in range(10):
        sink.write(media.result(astronaut, i, i / 25), astronaut, Tally())
    sink.close()
    written = media.look(tmp_path / "out.mp4").images[-1].astype(np.float32)
    assert np.abs((written - astronaut).mean(axis=(0, 1))).max() < 2.5
    assert np.sqrt(((written - astronaut) ** 2).mean()) < 5


def test_a_frame_of_another_size_is_scaled(tmp_path: Path) -> None:
    sink = Sink(str(tmp_path / "out.mp4"), INFO)
    for i, size_wh in enumerate([(96, 64), (192, 128), (48, 32)]):
        image = media.numbered(i, size_wh)
        sink.write(media.result(image, i, i / 25), image, Tally())
    sink.close()
    assert [media.number(image) for image in media.look(tmp_path / "out.mp4").images] == [0, 1, 2]
    assert len(sink.notices) == 1


def test_a_live_recording_starts_at_0(tmp_path: Path) -> None:
    """And takes two frames that came within one tick."""
    info = SourceInfo("camera 0", media.SIZE_WH, Fraction(30), None, live=True)
    sink = Sink(str(tmp_path / "out.mp4"), info)
    times = [5000.25, 5000.25 + 1e-9, 5000.5, 5001.0]
    for i, t_s in enumerate(times):
        image = media.numbered(i)
        sink.write(media.result(image, i, t_s), image, Tally())
    sink.close()
    after = media.look(tmp_path / "out.mp4")
    assert [media.number(image) for image in after.images] == [0, 1, 2, 3]
    assert [float(t) for t in after.times] == pytest.approx([0.0, 0.0, 0.25, 0.75], abs=2e-5)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("tick_s", [Fraction(1, 10**9), Fraction(1, 10**6), Fraction(2381, 32_000_096)])
def test_gaps_in_a_film_of_fine_ticks(tmp_path: Path, suffix: str, tick_s: Fraction) -> None:
    """As NUT has them; mp4 has 31 bits for a gap."""
    times = [0.0, 1 / 30, 3.0, 3000.0]
    after, notices = show(tmp_path / f"out{suffix}", times, tick_s)
    assert [media.number(image) for image in after.images] == [0, 1, 2, 3]
    assert [float(t) for t in after.times] == pytest.approx(times, abs=1e-5 if suffix != ".mkv" else 1e-3)
    assert notices == []


def test_a_picture_that_stays_longer_than_an_mp4_can_tell(tmp_path: Path) -> None:
    after, notices = show(tmp_path / "out.mp4", [0.0, 1.0, 60_000.0, 60_001.0], Fraction(1, 90_000))
    assert [media.number(image) for image in after.images] == [0, 1, 1, 1, 2, 3]
    assert [after.times[i] for i in (0, 1, 4, 5)] == [0, 1, 60_000, 60_001]
    assert notices == ["a picture that stays for longer than the format can tell was written again"]


def show(path: Path, times: list[float], tick_s: Fraction) -> tuple[media.Look, list[str]]:
    """A film of numbered pictures at these times, and what the sink says of it."""
    sink = Sink(str(path), SourceInfo("test", media.SIZE_WH, media.FPS, None, live=False, time_base=tick_s))
    for i, t_s in enumerate(times):
        image = media.numbered(i)
        sink.write(media.result(image, i, t_s), image, Tally())
    sink.close()
    return media.look(path), sink.notices


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_live_recording_leaves_out_the_night(tmp_path: Path, suffix: str) -> None:
    """Two nights, each longer than an mp4 can hold one picture."""
    sink = Sink(str(tmp_path / f"out{suffix}"), SourceInfo("camera 0", media.SIZE_WH, Fraction(30), None, live=True))
    for i, t_s in enumerate([5000.0, 5000.5, 35000.0, 35060.0, 90000.0]):
        image = media.numbered(i)
        sink.write(media.result(image, i, t_s), image, Tally())
    sink.close()
    after = media.look(tmp_path / f"out{suffix}")
    assert [media.number(image) for image in after.images] == [0, 1, 2, 3, 4]
    assert [float(t) for t in after.times] == pytest.approx([0.0, 0.5, 1.5, 61.5, 62.5], abs=1e-3)
    assert len(sink.notices) == 1
    assert "23.6 hours" in sink.notices[0]


def test_a_run_that_ends_early_leaves_a_film_of_what_was_done(tmp_path: Path) -> None:
    clip = media.make_clip(tmp_path / "in.mp4", 100, sounds=1)
    source = Source(str(clip))
    media.copy(source, Sink(str(tmp_path / "out.mp4"), source.info), at_most=50)
    after = media.look(tmp_path / "out.mp4")
    assert [media.number(image) for image in after.images] == list(range(50))
    assert after.end == 2
    assert 1.95 < after.sounds[0][-1][0] < 2.0


def test_without_frames_nothing_is_left_and_nothing_is_touched(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_text("precious")
    Sink(str(tmp_path / "out.mp4"), INFO).close()
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_text() == "precious"


def refused() -> dict[str, Any]:
    return {
        "ends in .mp4, .m4v, .mov, .mkv": lambda folder: (folder / "out.avi", INFO),
        "that is a folder": lambda folder: (folder / "folder.mp4", INFO),
        "there is no folder": lambda folder: (folder / "missing" / "out.mp4", INFO),
        "it is the input": lambda folder: (
            folder / "in.mp4",
            SourceInfo("x", None, None, None, False, str(folder / "in.mp4")),
        ),
        "not a file": lambda folder: (folder / "null.mp4", INFO),
    }


@pytest.mark.parametrize("why", refused())
def test_what_cannot_be_written_is_refused_before_any_work(tmp_path: Path, why: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "in.mp4").touch()
    (tmp_path / "null.mp4").symlink_to(os.devnull)
    path, info = refused()[why](tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(LivemarksError, match=why) as caught:
        Sink(str(path), info)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_first_frame_that_fails_costs_no_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    source = Source(str(media.make_clip(tmp_path / "in.mp4")))
    out = tmp_path / "out.mp4"
    out.write_bytes(b"of an earlier run")
    sink = Sink(str(out), source.info)
    monkeypatch.setattr("livemarks.sinks.video.cv2.cvtColor", fail)
    with pytest.raises(MemoryError):
        media.copy(source, sink)
    assert out.read_bytes() == b"of an earlier run"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a folder that only root may write to")
def test_a_folder_that_may_not_be_written() -> None:
    user = os.geteuid()
    os.seteuid(user or 65534)  # nobody
    try:
        with pytest.raises(LivemarksError, match=r"can't write /out\.mp4: Permission denied"):
            Sink("/out.mp4", INFO)
    finally:
        os.seteuid(user)


@pytest.mark.skipif(sys.platform == "win32", reason="umask is POSIX's")
def test_the_umask_is_respected(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write(tmp_path / "out.mp4", 1)
    finally:
        os.umask(old)
    assert (tmp_path / "out.mp4").stat().st_mode & 0o777 == 0o640


def test_a_link_keeps_pointing_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(tmp_path / "real.mp4")
    write(tmp_path / "link.mp4", 3)
    assert (tmp_path / "link.mp4").is_symlink()
    assert len(media.look(tmp_path / "real.mp4").images) == 3


def test_strange_names(tmp_path: Path) -> None:
    for name in ("a:b.mp4", "%03d.mp4", "ümläut 世界.mp4", "x" * 250 + ".mp4", "-.mp4"):
        write(tmp_path / name, 2)
        assert len(media.look(tmp_path / name).images) == 2


def write(path: Path, count: int) -> None:
    sink = Sink(str(path), INFO)
    for i in range(count):
        image = media.numbered(i)
        sink.write(media.result(image, i, i / 25), image, Tally())
    sink.close()


# A run in a process of its own that writes noise, which takes room.
RUN = """
import os, resource, sys
from fractions import Fraction
import numpy as np
from livemarks.sinks.video import Sink
from livemarks.types import Frame, LivemarksError, Result, SourceInfo, Tally
how, path = sys.argv[1:]
sink = Sink(path, SourceInfo("test", (96, 64), Fraction(25), None, False, time_base=Fraction(1, 25)))
random = np.random.default_rng(0)
if how.startswith("full"):
    room = 300 if how == "full at once" else 300_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
try:
    for i in range(300):
        if how == "killed" and i == 200:
            os._exit(0)
        frame = Frame(random.integers(0, 256, (64, 96, 3), np.uint8), i, i / 25)
        sink.write(Result(frame, (), {}), frame.image, Tally())
except LivemarksError as error:
    print(error)
sink.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_is_told_and_leaves_what_plays(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    run = subprocess.run([sys.executable, "-c", RUN, "full", str(path)], capture_output=True, text=True, check=True)
    assert f"{path} can't be written on: File too large" in run.stdout
    assert run.stderr == ""
    assert list(tmp_path.iterdir()) == [path]
    assert 25 < sum(1 for _ in Source(str(path))) < 200


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_disk_that_is_full_at_once_is_told_and_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_text("precious")
    command = [sys.executable, "-c", RUN, "full at once", str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{path} can't be written on: File too large" in run.stdout
    assert run.stderr == ""
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "precious"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_killed_run_leaves_what_plays(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    subprocess.run([sys.executable, "-c", RUN, "killed", str(path)], check=True)
    (draft,) = tmp_path.iterdir()
    assert draft.name.startswith("out.")
    assert 100 < sum(1 for _ in Source(str(draft))) < 200
