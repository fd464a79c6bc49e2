"""Damaged and hostile files by the thousand: whatever is in one, it loads, or it costs one LivemarksError.

Worker processes do the loading, so that a crash or a hang is told as the fault of one mutant. Mutant 77 of the images:

    python tests/test_fuzz.py images FOLDER 77 78

where FOLDER/samples holds the whole files, as a run of the test leaves them in pytest's temporary folder.
"""

from __future__ import annotations

import faulthandler
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeTime
from media import copy, make_clip, numbered, write_image

from livemarks.types import LivemarksError

SEED = 20240
COUNTS = {"films": 1600, "images": 800, "nets": 2000, "recipes": 2000}

WORKERS = min(2, os.cpu_count() or 1)
# For one mutant. The slowest takes some 2 s; the rest is patience with busy machines.
LIMIT_S = 60.0
# Address space of a worker. FFmpeg refuses pictures of more than 268 million pixels, which is 0.8 GB as BGR.
MEMORY_BYTES = 6 << 30
# Encoding what a damaged header calls a film of 60000x60000 would only test our patience.
FILM_PX = 1 << 20

# In place of a recipe's values.
VALUES = [
    *('""', "0", "-1", "3", "1e999", "nan", "-inf", "true", "[]", "{}", "[[1]]", "[nan, nan]", "[1e9, 1e9]", '[""]'),
    *(
        "9" * 5000,
        "9223372036854775808",
        "1979-05-27",
        '"\\u0000"',
        '"../../x"',
        f'"{"x" * 5000}"',
        "[" * 3000,
        "{a = 1}",
    ),
]

# What no file may make Python do, by the names of its audit events (docs.python.org/3/library/audit_events.html).
FORBIDDEN = re.compile(r"pickle\.|subprocess\.|socket\.|os\.(system|exec|posix_spawn|fork|chmod|chown|link)")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


# --- Mutants ----------------------------------------------------------------------------------------------------------


def mutant(kind: str, folder: Path, number: int) -> Path:
    """Writes mutant `number` of a kind, always the same from the same samples, and returns its path."""
    random = np.random.default_rng([SEED, sorted(COUNTS).index(kind), number])
    samples = sorted((folder / "samples" / kind).iterdir())
    sample = samples[number % len(samples)]
    data = bytearray(sample.read_bytes())
    for _ in range(int(random.choice([1, 2, 3, 10, 40]))):
        mutate = swap_value if kind == "recipes" and random.random() < 0.7 else CHANGES[random.integers(len(CHANGES))]
        mutate(data, random, samples[random.integers(len(samples))].read_bytes())
    path = folder / "mutants" / kind / f"{number}{sample.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def place(data: bytes | bytearray, random: np.random.Generator) -> int:
    """Half of the time near an end, where most formats keep their headers."""
    size = len(data) + 1
    near = int(random.integers(min(size, 512)))
    anywhere = int(random.integers(size))
    return [near, size - 1 - near, anywhere, anywhere][random.integers(4)]


def flip_bit(data: bytearray, random: np.random.Generator, _: bytes) -> None:
    at = place(data, random)
    data[at : at + 1] = bytes(byte ^ 1 << int(random.integers(8)) for byte in data[at : at + 1])


def overwrite(data: bytearray, random: np.random.Generator, _: bytes) -> None:
    at, size = place(data, random), int(random.choice([1, 2, 4, 8]))
    noise = random.integers(256, size=size, dtype=np.uint8).tobytes()
    data[at : at + size] = [noise, b"\x00" * size, b"\xff" * size, b"\x7f" + b"\xff" * (size - 1)][random.integers(4)]


def cut_out(data: bytearray, random: np.random.Generator, _: bytes) -> None:
    at = place(data, random)
    del data[at : at + int(random.choice([1, 7, 100, 5000]))]


def cut_off(data: bytearray, random: np.random.Generator, _: bytes) -> None:
    if random.random() < 0.2:  # or little would be left after a few rounds
        del data[place(data, random) :]


def insert(data: bytearray, random: np.random.Generator, _: bytes) -> None:
    at = place(data, random)
    data[at:at] = random.integers(256, size=int(random.integers(1, 64)), dtype=np.uint8).tobytes()


def repeat(data: bytearray, random: np.random.Generator, _: bytes) -> None:
    start, at, size = place(data, random), place(data, random), int(random.integers(1, 2000))
    data[at:at] = data[start : start + size]


def splice(data: bytearray, random: np.random.Generator, other: bytes) -> None:
    start, at, size = place(other, random), place(data, random), int(random.integers(1, 2000))
    data[at : at + size] = other[start : start + size]


CHANGES: list[Callable[[bytearray, np.random.Generator, bytes], None]] = [
    *(flip_bit, flip_bit, overwrite, overwrite, cut_out, cut_off, insert, repeat, splice)
]


def swap_value(data: bytearray, random: np.random.Generator, other: bytes) -> None:
    """A recipe's line gets another value, or takes the place of another line."""
    lines, others = data.decode(errors="replace").split("\n"), other.decode(errors="replace").split("\n")
    at = random.integers(len(lines))
    key, equals, _ = lines[at].partition(" = ")
    if equals and random.random() < 0.8:
        lines[at] = f"{key} = {VALUES[random.integers(len(VALUES))]}"
    else:
        lines[at] = others[random.integers(len(others))]
    data[:] = "\n".join(lines).encode()


# --- The worker -------------------------------------------------------------------------------------------------------


def use_film(path: Path, out: Path) -> None:
    """Every frame and the sound, into a file in `out`; and played as if it were a camera, but without waiting."""
    from livemarks.sinks.video import Sink
    from livemarks.sources import camera, video

    try:
        source = video.Source(str(path))
        width, height = source.info.size_wh or (0, 0)
        if width * height <= FILM_PX:
            copy(source, Sink(str(out / f"{path.stem}.mp4"), source.info))
        else:
            list(source)
            source.close()
    finally:
        time = FakeTime()
        player = camera.Source(str(path), clock=time.clock, sleep=time.sleep)
        sum(1 for _ in player)
        player.close()


def use_image(path: Path, _: Path) -> None:
    from livemarks.sources import images

    sum(1 for _ in images.Source([str(path)]))


def use_net(path: Path, _: Path) -> None:
    from livemarks import api

    net = api.open_net(path, backend="onnx", threads=1)
    net.runner(np.zeros((1, *net.card.size_hw, 3), np.uint8))
    net.runner.close()


def use_recipe(path: Path, _: Path) -> None:
    from livemarks.train import recipe

    recipe.load(str(path))


USES = {"films": use_film, "images": use_image, "nets": use_net, "recipes": use_recipe}


def work(kind: str, folder: Path, numbers: Iterable[int]) -> None:
    """Prints each number before its mutant is used, and then how that ended."""
    out = folder / "out"
    USES[kind](next((folder / "samples" / kind).iterdir()), out)  # what libraries do at first is no file's fault
    watch(folder)
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for number in numbers:
        path = mutant(kind, folder, number)
        print(number, end=" ", flush=True)
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)
        try:
            USES[kind](path, out)
            ending = "loaded"
        except LivemarksError as error:
            ending = "refused" if len(str(error).splitlines()) == 1 else f"FAULT several lines: {str(error)!r}"
        except Exception as error:  # what the test looks for
            ending = f"FAULT {type(error).__name__}: {str(error)!r}"
        faulthandler.cancel_dump_traceback_later()
        print(ending, flush=True)
        for file in out.iterdir():
            file.unlink()
        if "FAULT" not in ending:
            path.unlink()


def watch(folder: Path) -> None:
    """Ends the process at once if Python opens a file for writing outside `folder`, or does something FORBIDDEN."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        outside = False
        if event == "open" and isinstance(arguments[0], str) and arguments[2] & WRITING:
            outside = not Path(arguments[0]).resolve().is_relative_to(folder) and arguments[0] != os.devnull
        if outside or FORBIDDEN.match(event):
            print(f"FAULT {event} {arguments!r}", flush=True)
            os._exit(3)

    sys.addaudithook(hook)


# --- The test ---------------------------------------------------------------------------------------------------------


def make_samples(folder: Path, net: Path) -> None:
    """The whole files that mutants are made from: small ones, so that most changes hit something that matters."""
    from livemarks.train.recipe import FOLDER

    films, images, nets, recipes = ((folder / "samples" / kind) for kind in COUNTS)
    for path in (films, images, nets, recipes):
        path.mkdir(parents=True)
    make_clip(films / "plain.mp4", 8, sounds=1)
    make_clip(films / "fragments.mp4", 8, container_options={"movflags": "frag_keyframe+empty_moov"})
    make_clip(films / "sound.mkv", 8, sounds=2, stamps=[0, 1, 2, 7, 8, 9, 15, 16])
    make_clip(films / "old.avi", 8, codec="mpeg4", options={"g": "4"})
    make_clip(films / "pictures.mov", 8, codec="mjpeg", pix_fmt="yuvj420p", options={"q": "20"})
    make_clip(films / "stream.ts", 8, fps=Fraction(30), sounds=1)
    for name in ("a.jpg", "a.png", "a.bmp", "a.webp", "a.tiff"):
        write_image(images / name, numbered(7, (40, 24)))
    (nets / net.name).write_bytes(net.read_bytes())
    for path in FOLDER.glob("*.toml"):
        (recipes / path.name).write_bytes(path.read_bytes())


def run_worker(kind: str, folder: Path, first: int, step: int) -> tuple[Counter[str], list[str]]:
    """Uses every step-th mutant, with a new process after each crash; returns how many ended how, and the faults."""
    places = {name: folder / name for name in ("home", "temp", "cwd", "out")}
    environment = {
        **os.environ,
        "HOME": str(places["home"]),
        "TMPDIR": str(places["temp"]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    endings: Counter[str] = Counter()
    faults: list[str] = []
    while first < COUNTS[kind]:
        command = [sys.executable, __file__, kind, str(folder), str(first), str(COUNTS[kind]), str(step)]
        done = subprocess.run(command, cwd=places["cwd"], env=environment, capture_output=True, text=True)
        number = first - step
        for line in done.stdout.splitlines():
            begun = re.match(r"(\d+) (loaded$|refused$)?", line)
            number = int(begun[1]) if begun else number
            if begun and begun[2]:
                endings[begun[2]] += 1
            else:  # also if a library spoke: landmarks may go to standard output
                faults.append(f"mutant {line if begun else f'{number}: {line}'}")
        if done.returncode:
            faults.append(f"mutant {number}: the process died ({done.returncode}): {done.stderr.strip()[-2000:]}")
        if number < first or len(faults) > 20:
            break
        first = number + step
    return endings, faults


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", COUNTS)
def test_damaged_files_load_or_cost_one_line(kind: str, tmp_path: Path, still_model: Callable[..., Path]) -> None:
    make_samples(tmp_path, still_model())
    folders = [tmp_path / str(worker) for worker in range(WORKERS)]
    for folder in folders:
        for name in ("home", "temp", "cwd", "out"):
            (folder / name).mkdir(parents=True)
        (folder / "samples").symlink_to(tmp_path / "samples")
    with ThreadPoolExecutor(WORKERS) as pool:
        parts = list(pool.map(lambda i: run_worker(kind, folders[i], i, WORKERS), range(WORKERS)))
    endings = sum((counter for counter, _ in parts), Counter[str]())
    faults = [fault for _, some in parts for fault in some]
    told = f"{COUNTS[kind]} {kind}, seed {SEED}: {dict(endings)}, {len(faults)} faults"
    print(told)
    assert not faults, "\n".join([told, *faults])
    assert sum(endings.values()) == COUNTS[kind], told
    assert min(endings["loaded"], endings["refused"]) > COUNTS[kind] // 40, f"{told}; the mutants test one side only"
    left = [path for folder in folders for path in folder.rglob("*") if path.is_file() and "samples" not in path.parts]
    assert not left, f"{told}; left behind: {left}"


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]).resolve(), range(*map(int, sys.argv[3:])))
