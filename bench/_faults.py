"""What is done to livemarks by bench/faults.py, and what should come of it."""

from __future__ import annotations

import itertools
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import psutil
from _room import FRAMES, End, Room, count, die_by_socket

from livemarks import pipeline, weights
from livemarks.commands.demo import PORTRAIT
from livemarks.sinks.video import Sink
from livemarks.sources import camera, video
from livemarks.types import Stop, Tally

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fakes import FakeCamera, FakeSink, FakeTracker, fail
from media import cut, flip_bits, make_clip, result

HOURS = 2  # of the long film, which has a frame every FRAME_S
FRAME_S = 8


def video_copy(room: Room, **options: str) -> Path:
    with closing(video.Source(str(room.clip))) as source:
        return make_clip(room.folder / "copy.mp4", [frame.image for frame in source], container_options=options)


def damaged_image(room: Room) -> End:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        shutil.copy(PORTRAIT, room.folder / name)
    (room.folder / "b.jpg").write_bytes(b"\xff\xd8 no picture")
    end = room.run("image", "a.jpg", "b.jpg", "c.jpg", "--out", "drawn")
    return replace(end, frames=f"{len(list((room.folder / 'drawn').iterdir()))} of 3")


def full_disk(room: Room) -> End | None:
    disk = room.folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True).returncode:
        return None
    try:
        return room.end(room.start("demo", "--seconds", "20", "--out", disk / "o.mp4"), disk / "o.mp4", 600)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def folder_removed(room: Room) -> End:
    out = room.folder / "out" / "o.mp4"
    out.parent.mkdir()
    process = room.started(out, "demo", "--seconds", "8")
    shutil.rmtree(out.parent)
    return room.end(process, out, 240)


def full_file(room: Room) -> End:
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
    return room.end(room.start("demo", "--seconds", "20", "--out", "o.mp4", before=limit), room.folder / "o.mp4", 600)


def closed_streams(room: Room) -> End:
    end = room.under(partial(os.closerange, 0, 3))
    return replace(end, said="(nothing)")


def piped(room: Room) -> End:
    process = room.start("video", "-", "--out", "o.mp4", before=lambda: os.dup2(os.open(room.clip, os.O_RDONLY), 0))
    return room.end(process, room.folder / "o.mp4")


def long_film(room: Room) -> End:
    frames = HOURS * 3600 // FRAME_S
    film = make_clip(
        room.folder / "film.mp4", frames, stamps=range(0, frames * FRAME_S, FRAME_S), time_base=Fraction(1)
    )
    process = room.start("video", film, "--out", "o.mp4", "--landmarks", "o.csv")
    used_mb = []
    while process.poll() is None:
        used_mb.append(psutil.Process(process.pid).memory_info().rss / 1e6)
        time.sleep(0.1)
    middle = len(used_mb) // 2
    end = room.end(process, room.folder / "o.mp4", frames)
    used = f"{max(used_mb[:middle]):.0f} MB at most in its first half, {max(used_mb[middle:]):.0f} in its second"
    return replace(end, frames=f"{end.frames}; {used}")


def closed_pipe(room: Room) -> End:
    process = room.start("video", room.clip, "--landmarks", "-")
    assert process.stdout is not None
    lines = list(itertools.islice(process.stdout, 3))
    process.stdout.close()
    process.stdout = None
    end = room.end(process)
    return replace(end, frames=f"{len(lines) - 1}, as read")


def stopped(room: Room, *signals: int) -> End:
    process = room.started(room.folder / "o.mp4", "demo", "--seconds", "3600")
    for signum in signals:
        process.send_signal(signum)
        time.sleep(0.02)
    end = room.end(process)
    film = next(room.folder.glob("o.*"), room.folder / "no file")
    return replace(end, said=end.said or "(nothing)", frames=f"the first {count(film)}, in {film.name}")


def watch(script: list[str], frames: int, period_s: float = 1 / 30) -> End:
    """The real capture code on a scripted device, until it has given so many frames."""
    said: list[str] = []
    fake = FakeCamera(script, period_s=period_s)
    source = camera.Source(0, opener=fake.open, clock=fake.time.clock, sleep=fake.time.sleep)
    fake.time.while_asleep = lambda _: said.append(source.status)
    made = list(itertools.islice(source, frames))
    source.close()
    return End(None, f"{said[0]} … {source.notices[-1]}", f"{len(made)} of {frames} given")


def slept(room: Room) -> End:
    """A recording goes on where the clock jumps, twice, by more than an mp4 can hold a picture."""
    fake = FakeCamera(["new"] * 121)
    source = camera.Source(0, opener=fake.open, clock=fake.time.clock, sleep=fake.time.sleep)
    film = Sink(str(room.folder / "o.mp4"), source.info)
    for frame in itertools.islice(source, 120):
        film.write(result(frame.image, frame.index, frame.t_s), frame.image, Tally())
        fake.time.now_s += 8 * 3600 if frame.index in (40, 80) else 0
    film.close()
    source.close()
    return End(None, film.notices[-1].replace(f"{room.folder}/", ""), f"{count(room.folder / 'o.mp4')} of 120")


def hanging_camera(_: Room) -> End:
    fake = FakeCamera(["new"] * 31 + ["hang"])
    source = camera.Source(0, opener=fake.open, clock=fake.time.clock, sleep=lambda _: None)
    sink = FakeSink(lambda _: fail(Stop())() if fake.hanging.wait() else None)
    start_s = time.monotonic()
    pipeline.run(source, FakeTracker(), [sink])
    took_s = time.monotonic() - start_s
    fake.let_go.set()
    return End(None, source.notices[-1], f"the run ended in {took_s:.1f} s")


def no_display(room: Room) -> End:
    process = room.start("demo", "--seconds", "1")
    assert process.stderr is not None
    first = process.stderr.readline().strip().removeprefix("livemarks: ")
    end = room.end(process, room.folder / "demo.mp4", 30)
    return replace(end, said=first, crashed=end.crashed or "Traceback" in first)


def damaged_net(room: Room) -> End:
    path = room.folder / "net.onnx"
    shutil.copy(weights.find(room.model), path)
    return room.video(room.clip, model=str(cut(path, 0.5)))


def strange_names(room: Room) -> End:
    folder = room.folder.joinpath("été 顔 лицо", *("long " * 39 for _ in range(3)))
    folder.mkdir(parents=True)
    shutil.copy(room.clip, folder / "видео 1%.mp4")
    out = folder / "aus: [1]*.mp4"
    return room.end(room.start("video", folder / "видео 1%.mp4", "--out", out), out)


def worse(first: End, second: End, frames: str) -> End:
    """One end of two runs: that of the first, unless only the second went wrong."""
    return replace(second if (second.crashed, second.status) > (first.crashed, first.status) else first, frames=frames)


def two_at_once(room: Room) -> End:
    paths = [(room.folder / f"{i}.mp4", room.folder / f"{i}.jsonl") for i in range(2)]
    both = [room.start("video", room.clip, "--out", out, "--landmarks", points) for out, points in paths]
    first, second = (room.end(process, out) for process, (out, _) in zip(both, paths, strict=True))
    same = paths[0][1].read_bytes() == paths[1][1].read_bytes()
    frames = f"{first.frames} and {second.frames}, {'the same' if same else 'OTHER'} points"
    return worse(first, second, frames)


def same_output(room: Room) -> End:
    both = [room.start("video", room.clip, "--out", "o.mp4") for _ in range(2)]
    first, second = (room.end(process, room.folder / "o.mp4") for process in both)
    left = sorted(path.name for path in room.folder.glob("o.*"))
    return worse(first, second, f"{second.frames}, in {', '.join(left)} alone")


def busy(room: Room, *arguments: object) -> End:
    """While twice as many others calculate as there are cores."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        return room.end(room.start(*arguments, "o.mp4"), room.folder / "o.mp4")
    finally:
        for other in others:
            other.kill()
            other.wait()


@dataclass(frozen=True, slots=True)
class Case:
    """status: it should end with; None in this process. kept: what `End.frames` should say, or whether it will do.

    deed: gives None if it can't be done here.
    """

    status: int | None
    kept: str | Callable[[str], bool]
    deed: Callable[[Room], End | None]


def numbers(pattern: str, will_do: Callable[..., bool]) -> Callable[[str], bool]:
    """Whether a text is as the pattern, and the numbers in its groups will do: for what legitimately varies."""

    def check(text: str) -> bool:
        found = re.fullmatch(pattern, text)
        return found is not None and will_do(*map(float, found.groups()))

    return check


def between(least: int, most: int, of: int) -> Callable[[str], bool]:
    return numbers(rf"(\d+) of {of}", lambda n: least <= n <= most)


NONE, ALL = f"0 of {FRAMES}", f"{FRAMES} of {FRAMES}"

# Half of the bytes are less than half of the frames: the one key frame, which comes first, takes those of seven others.
HALF = between(40, 50, FRAMES)

# A demo's frame takes some 15 kB. At least half of what fits must play, and if all were kept, nothing was full.
FULL_3_MB, FULL_2_MB = between(100, 599, 600), between(66, 599, 600)


def begun(name: str) -> Callable[[str], bool]:
    """The frames of the 0.5 MB that were there before the signal, of 15 kB each: at least half of them."""
    return numbers(rf"the first (\d+), in {name}", lambda n: n >= 16)


PART = r"o\.[0-9a-f]{8}\.part\.mp4"  # a draft's name

# Memory may not grow with the film: were its 450 later frames kept, of 18 kB each, it would be 8 MB more, of 150.
FLAT = numbers(
    rf"{HOURS * 3600 // FRAME_S} of {HOURS * 3600 // FRAME_S}; (\d+) MB at most in its first half, (\d+) in its second",
    lambda first, second: second <= 1.04 * first,
)

# pipeline.run waits 0.5 s for the read and then 2 s for the thread, and camera.Source.close 1 s for the device.
SOON = numbers(r"the run ended in (\d+\.\d) s", lambda seconds: seconds <= 5)

# A camera's frames may be dropped while others calculate, but what is shown still moves: 12 pictures a second of 25.
LIVE = between(FRAMES // 2, FRAMES, FRAMES)

CASES = {
    "a file that isn't there": Case(2, NONE, lambda room: room.video("missing.mp4")),
    "a text file called .mp4": Case(2, NONE, lambda room: room.video("notes.mp4")),
    "an empty file": Case(2, NONE, lambda room: room.video("void.mp4")),
    "a folder without images": Case(2, "-", lambda room: room.run("image", "empty")),
    "one damaged image of three": Case(2, "2 of 3", damaged_image),
    "a video cut off at half, index in front": Case(
        2, HALF, lambda room: room.video(cut(video_copy(room, movflags="faststart"), 0.5))
    ),
    "a video cut off at half, index at its end": Case(2, NONE, lambda room: room.video(cut(video_copy(room), 0.5))),
    "40 flipped bits in a video": Case(2, ALL, lambda room: room.video(flip_bits(video_copy(room), 40, seed=3))),
    "an address in place of a file": Case(2, NONE, lambda room: room.video("https://example.com/clip.mp4")),
    "a film on standard input": Case(0, ALL, piped),
    f"a film of {HOURS} hours": Case(0, FLAT, long_film),
    "an mp4 with sound alone": Case(2, NONE, lambda room: room.video(make_clip(room.folder / "song.mp4", 0, sounds=1))),
    "an output folder that can't be written in": Case(
        2, "-", lambda room: room.run("video", room.clip, "--out", "/sys/out.mp4")
    ),
    "a disk that fills up": Case(2, FULL_3_MB, full_disk),
    "a limit on the size of files": Case(2, FULL_2_MB, full_file),
    "the output folder removed during the run": Case(2, "0 of 240", folder_removed),
    "standard output closed by its reader": Case(0, "2, as read", closed_pipe),
    "standard input, output and error all closed": Case(0, ALL, closed_streams),
    "Ctrl-C": Case(130, begun(r"o\.mp4"), lambda room: stopped(room, signal.SIGINT)),
    # The second may come before the draft has its name, or after.
    "Ctrl-C twice": Case(130, begun(rf"(?:o\.mp4|{PART})"), lambda room: stopped(room, signal.SIGINT, signal.SIGINT)),
    "SIGTERM": Case(143, begun(r"o\.mp4"), lambda room: stopped(room, signal.SIGTERM)),
    "SIGHUP, as when its terminal is closed": Case(129, begun(r"o\.mp4"), lambda room: stopped(room, signal.SIGHUP)),
    "SIGKILL": Case(137, begun(PART), lambda room: stopped(room, signal.SIGKILL)),
    "a camera that isn't there": Case(2, "-", lambda room: room.run("webcam", "--camera", "97", "--headless")),
    "a stream nobody sends": Case(
        2, "-", lambda room: room.run("webcam", "--camera", "http://127.0.0.1:9/live", "--headless")
    ),
    "a camera unplugged, and back": Case(
        None, "120 of 120 given", lambda _: watch(["new"] * 61 + ["gone", *["absent"] * 6] + ["new"] * 61, 120)
    ),
    "a camera that repeats one picture for ever": Case(
        None, "125 of 125 given", lambda _: watch(["new"] * 61 + ["same"] * 70, 125, 0.1)
    ),
    "the clock jumps by 8 hours, twice, as of a laptop that slept": Case(None, "120 of 120", slept),
    "a camera whose read never returns, then the user quits": Case(None, SOON, hanging_camera),
    "no display": Case(0, "30 of 30", no_display),
    "an unknown model": Case(2, NONE, lambda room: room.video(room.clip, model="lite-86")),
    "an unknown option": Case(2, "-", lambda room: room.run("video", room.clip, "--colour")),
    "a model file cut off at half": Case(2, NONE, damaged_net),
    "a home that can't be written in": Case(0, ALL, lambda room: room.video(room.clip, home="/sys")),
    "names in 3 alphabets, a path of 600 letters": Case(0, ALL, strange_names),
    "two runs at once": Case(0, f"{ALL} and {ALL}, the same points", two_at_once),
    "two runs at once into one file": Case(0, f"{ALL}, in o.mp4 alone", same_output),
    "killed by Linux at the first socket it asks for": Case(0, ALL, lambda room: room.under(die_by_socket)),
    "12 open files at most": Case(
        0, ALL, lambda room: room.under(partial(resource.setrlimit, resource.RLIMIT_NOFILE, (12, 12)))
    ),
    "nice 19 and one thread": Case(0, ALL, lambda room: room.under(partial(os.nice, 19), "--threads", 1)),
    "a busy machine, a file": Case(0, ALL, lambda room: busy(room, "video", room.clip, "--out")),
    "a busy machine, a camera": Case(
        0, LIVE, lambda room: busy(room, "webcam", "--camera", room.clip, "--headless", "--record")
    ),
}
