"""What livemarks does when the world fails it: does each fault to the installed program, and prints a table.

    python bench/faults.py [--model NAME] [--only WORD] > faults.md

A row tells what was done, the exit status, the line that was said, and how many frames of the input were kept. A fault
ended as it should if the status and what was kept are those that _faults.py names, and nothing left a traceback; else
the row says what is wrong, and the script ends with 1. Linux only: it fills a disk, sends signals and takes the home
away.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
from _faults import CASES, Case
from _room import FRAMES, End, Room

from livemarks.commands.demo import PORTRAIT
from livemarks.sources import synthetic

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from media import make_clip


def make_room(folder: Path, clip: Path, model: str) -> Room:
    """With the files in it that the faults are about."""
    room = Room(folder, clip, model)
    (folder / "empty").mkdir()
    (folder / "notes.mp4").write_text("milk, bread\n" * 50)
    (folder / "void.mp4").touch()
    return room


def suffered(case: Case, room: Room) -> End | None:
    """How it ended; None if it can't be done here."""
    try:
        return case.deed(room)
    except Exception as error:  # whatever it is, it is this fault's failure, and must not hide the other faults'
        return End(None, f"{type(error).__name__}: {error}", crashed=True)


def marked(case: Case, end: End) -> tuple[str, str, bool]:
    """The status and what was kept, each with what it should have been; and whether all is as it should be."""
    status, kept = "-" if end.status is None else str(end.status), end.frames
    if end.status != case.status:
        status += f", not {'-' if case.status is None else case.status}"
    if end.crashed:
        status += ", CRASHED"
    as_wanted = kept == case.kept if isinstance(case.kept, str) else case.kept(kept)
    if not as_wanted:
        kept += f", not {case.kept}" if isinstance(case.kept, str) else ", WHICH IS WRONG"
    return status, kept, end.status == case.status and as_wanted and not end.crashed


def perform(cases: Mapping[str, Case], base: Path, clip: Path, model: str) -> int:
    """Prints a table of the faults, and its sums; returns how many did not end as they should."""
    surprises = survived = 0
    kept = {"offline": np.zeros(2, int), "live": np.zeros(2, int)}  # frames that were written, and all
    print("| what was done | status | what livemarks said | frames kept |\n|---|---|---|---|")
    for number, (what, case) in enumerate(cases.items()):
        folder = base / str(number)
        end = suffered(case, make_room(folder, clip, model))
        if end is None:
            print(f"| {what} | - | (not done here: needs root) | - |", flush=True)
            continue
        status, frames, fine = marked(case, end)
        survived += fine
        surprises += not fine
        if end.status == 0:
            for pair in re.findall(r"(\d+) of (\d+)", end.frames):
                kept["live" if "camera" in what else "offline"] += np.array(pair, int)
        said = " ".join(end.said.replace(f"{folder}/", "").replace(f"{base}/", "").split("\n"))
        said = (said if len(said) < 200 else f"{said[:60]} … {said[-110:]}").replace("|", "\\|").replace("*", "\\*")
        print(f"| {what} | {status} | {said} | {frames} |", flush=True)
    print(f"\n{survived} of {survived + surprises} faults ended as they should.")
    for kind, (written, frames_in) in kept.items():
        if frames_in:
            print(f"Frames lost {kind}, where the run came to its end: {frames_in - written} of {frames_in}.")
    return surprises


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite-68", help="a net's name, or an .onnx file")
    parser.add_argument("--only", default="", help="do only the faults with this in their names")
    args = parser.parse_args(arguments)
    cases = {what: case for what, case in CASES.items() if args.only in what}
    if not cases:
        parser.error(f"no fault has {args.only!r} in its name")
    with tempfile.TemporaryDirectory(prefix="faults-") as base:
        clip = Path(base) / "clip.mp4"
        portrait = np.asarray(cv2.imread(str(PORTRAIT)), np.uint8)
        with closing(synthetic.Source(portrait, seconds=FRAMES / 25, fps=25, size_wh=(640, 360))) as source:
            make_clip(clip, [frame.image for frame in source])
        return 1 if perform(cases, Path(base), clip, args.model) else 0


if __name__ == "__main__":
    sys.exit(main())
