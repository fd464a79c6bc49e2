"""What livemarks does when the world fails it: does each fault to the installed program, and prints a table.

    python bench/faults.py [--model NAME] [--only WORD] > faults.md

A row tells what was done, the exit status, the line that was said, and how many frames of the input were kept. Ends
with 1 if a fault had another end than it should. Linux only: it fills a disk, sends signals and takes the home away.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import psutil
from _room import FRAMES, End, Room, count, die_by_socket

from livemarks import pipeline, weights
from livemarks.commands.demo import PORTRAIT
from livemarks.sinks.video import Sink
from livemarks.sources import camera, synthetic, video
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
    return End(end.status, end.said, f"{len(list((room.folder / 'drawn').iterdir()))} of 3")


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
    return End(end.status, "(nothing)", end.frames)


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
    half, last = max(used_mb[: len(used_mb) // 2]), max(used_mb)
    end = room.end(process, room.folder / "o.mp4", frames)
    return End(end.status, f"{end.said}; {half:.0f} MB at most in its first half, {last:.0f} in all", end.frames)


def closed_pipe(room: Room) -> End:
    process = room.start("video", room.clip, "--landmarks", "-")
    assert process.stdout is not None
    lines = list(itertools.islice(process.stdout, 3))
    process.stdout.close()
    process.stdout = None
    end = room.end(process)
    return End(end.status, end.said, f"{len(lines) - 1}, as read")


def stopped(room: Room, *signals: int) -> End:
    process = room.started(room.folder / "o.mp4", "demo", "--seconds", "3600")
    for signum in signals:
        process.send_signal(signum)
        time.sleep(0.02)
    end = room.end(process)
    film = next(room.folder.glob("o.*"))
    return End(end.status, end.said or "(nothing)", f"the first {count(film)}, in {film.name}")


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
    return End(None, f"{source.notices[-1]} (the run ended in {took_s:.1f} s)")


def no_display(room: Room) -> End:
    process = room.start("demo", "--seconds", "1")
    assert process.stderr is not None
    first = process.stderr.readline().strip().removeprefix("livemarks: ")
    end = room.end(process, room.folder / "demo.mp4", 30)
    return End(end.status, first, end.frames)


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


def two_at_once(room: Room) -> End:
    paths = [(room.folder / f"{i}.mp4", room.folder / f"{i}.jsonl") for i in range(2)]
    both = [room.start("video", room.clip, "--out", out, "--landmarks", points) for out, points in paths]
    first, second = (room.end(process, out) for process, (out, _) in zip(both, paths, strict=True))
    same = paths[0][1].read_bytes() == paths[1][1].read_bytes()
    frames = f"{first.frames} and {second.frames}, {'the same' if same else 'OTHER'} points"
    return End(first.status or second.status, first.said, frames)


def same_output(room: Room) -> End:
    both = [room.start("video", room.clip, "--out", "o.mp4") for _ in range(2)]
    first, second = (room.end(process, room.folder / "o.mp4") for process in both)
    left = sorted(path.name for path in room.folder.glob("o.*"))
    return End(first.status or second.status, first.said, f"{second.frames}, in {', '.join(left)} alone")


def busy(room: Room, *arguments: object) -> End:
    """While twice as many others calculate as there are cores."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        return room.end(room.start(*arguments, "o.mp4"), room.folder / "o.mp4")
    finally:
        for other in others:
            other.kill()
            other.wait()


# What is done; the exit status it should have, None in-process; the deed, which gives None if it can't be done here.
CASES: dict[str, tuple[int | None, Callable[[Room], End | None]]] = {
    "a file that isn't there": (2, lambda room: room.video("missing.mp4")),
    "a text file called .mp4": (2, lambda room: room.video("notes.mp4")),
    "an empty file": (2, lambda room: room.video("void.mp4")),
    "a folder without images": (2, lambda room: room.run("image", "empty")),
    "one damaged image of three": (2, damaged_image),
    "a video cut off at half, index in front": (
        2,
        lambda room: room.video(cut(video_copy(room, movflags="faststart"), 0.5)),
    ),
    "a video cut off at half, index at its end": (2, lambda room: room.video(cut(video_copy(room), 0.5))),
    "40 flipped bits in a video": (2, lambda room: room.video(flip_bits(video_copy(room), 40, seed=3))),
    "an address in place of a file": (2, lambda room: room.video("https://example.com/clip.mp4")),
    "a film on standard input": (0, piped),
    f"a film of {HOURS} hours": (0, long_film),
    "an mp4 with sound alone": (2, lambda room: room.video(make_clip(room.folder / "song.mp4", 0, sounds=1))),
    "an output folder that can't be written in": (
        2,
        lambda room: room.run("video", room.clip, "--out", "/sys/out.mp4"),
    ),
    "a disk that fills up": (2, full_disk),
    "a limit on the size of files": (2, full_file),
    "the output folder removed during the run": (2, folder_removed),
    "standard output closed by its reader": (0, closed_pipe),
    "standard input, output and error all closed": (0, closed_streams),
    "Ctrl-C": (130, lambda room: stopped(room, signal.SIGINT)),
    "Ctrl-C twice": (130, lambda room: stopped(room, signal.SIGINT, signal.SIGINT)),
    "SIGTERM": (143, lambda room: stopped(room, signal.SIGTERM)),
    "SIGKILL": (137, lambda room: stopped(room, signal.SIGKILL)),
    "a camera that isn't there": (2, lambda room: room.run("webcam", "--camera", "97", "--headless")),
    "a stream nobody sends": (2, lambda room: room.run("webcam", "--camera", "http://127.0.0.1:9/live", "--headless")),
    "a camera unplugged, and back": (
        None,
        lambda _: watch(["new"] * 61 + ["gone", *["absent"] * 6] + ["new"] * 61, 120),
    ),
    "a camera that repeats one picture for ever": (None, lambda _: watch(["new"] * 61 + ["same"] * 70, 125, 0.1)),
    "the clock jumps by 8 hours, twice, as of a laptop that slept": (None, slept),
    "a camera whose read never returns, then the user quits": (None, hanging_camera),
    "no display": (0, no_display),
    "an unknown model": (2, lambda room: room.video(room.clip, model="lite-86")),
    "an unknown option": (2, lambda room: room.run("video", room.clip, "--colour")),
    "a model file cut off at half": (2, damaged_net),
    "a home that can't be written in": (0, lambda room: room.video(room.clip, home="/sys")),
    "names in 3 alphabets, a path of 600 letters": (0, strange_names),
    "two runs at once": (0, two_at_once),
    "two runs at once into one file": (0, same_output),
    "killed by Linux at the first socket it asks for": (0, lambda room: room.under(die_by_socket)),
    "12 open files at most": (
        0,
        lambda room: room.under(partial(resource.setrlimit, resource.RLIMIT_NOFILE, (12, 12))),
    ),
    "nice 19 and one thread": (0, lambda room: room.under(partial(os.nice, 19), "--threads", 1)),
    "a busy machine, a file": (0, lambda room: busy(room, "video", room.clip, "--out")),
    "a busy machine, a camera": (0, lambda room: busy(room, "webcam", "--camera", room.clip, "--headless", "--record")),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite-68", help="a net's name, or an .onnx file")
    parser.add_argument("--only", default="", help="do only the faults with this in their names")
    args = parser.parse_args()
    surprises = survived = 0
    kept = {"offline": np.zeros(2, int), "live": np.zeros(2, int)}  # frames that were written, and all
    print("| what was done | status | what livemarks said | frames kept |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="faults-") as base:
        clip = Path(base) / "clip.mp4"
        portrait = np.asarray(cv2.imread(str(PORTRAIT)), np.uint8)
        with closing(synthetic.Source(portrait, seconds=FRAMES / 25, fps=25, size_wh=(640, 360))) as source:
            make_clip(clip, [frame.image for frame in source])
        for number, (what, (want, deed)) in enumerate(CASES.items()):
            if args.only not in what:
                continue
            folder = Path(base) / str(number)
            room = Room(folder, clip, args.model)
            (folder / "empty").mkdir()
            (folder / "notes.mp4").write_text("milk, bread\n" * 50)
            (folder / "void.mp4").touch()
            end = deed(room)
            if end is None:
                print(f"| {what} | - | (not done here: needs root) | - |", flush=True)
                continue
            survived += end.status == want
            if end.status == 0 and (whole := re.match(r"(\d+) of (\d+)", end.frames)):
                counts = np.array([int(whole[1]), int(whole[2])])
                kept["live" if "camera" in what else "offline"] += counts
            surprises += end.status != want or "TRACEBACK" in end.said
            said = end.said.replace(f"{folder}/", "").replace(f"{base}/", "")
            said = (said if len(said) < 200 else f"{said[:60]} … {said[-110:]}").replace("|", "\\|").replace("*", "\\*")
            status = "-" if end.status is None else f"{end.status}{'' if end.status == want else f', not {want}'}"
            print(f"| {what} | {status} | {said} | {end.frames} |", flush=True)
    print(f"\n{survived} of {survived + surprises} faults ended as they should.")
    for kind, (written, frames) in kept.items():
        if frames:
            print(f"Frames lost {kind}, where the run came to its end: {frames - written} of {frames}.")
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main())
