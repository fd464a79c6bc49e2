"""Images land where they should, in their own format, and never on their originals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from livemarks.sinks.images import Sink
from livemarks.types import U8, Frame, LivemarksError, Result, Tally

NOISE: U8 = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def written(folder: Path, names: list[str]) -> list[str]:
    """Names of the files that a sink makes of these originals."""
    sink = Sink(str(folder), names)
    for index in range(len(names)):
        sink.write(Result(Frame(NOISE, index, 0.0), (), {}), NOISE, Tally())
    sink.close()
    return sorted(path.name for path in folder.iterdir())


def test_images_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    names = written(tmp_path / "out", ["a/x.png", "b/x.png", "c/X.PNG", "y.JPG"])
    assert names == ["X-3.PNG", "x-2.png", "x.png", "y.JPG"]


def test_formats_that_can_not_be_written_become_png(tmp_path: Path) -> None:
    assert written(tmp_path / "out", ["x.ppm", "x.png", "über.heic"]) == ["x.png", "x.ppm.png", "über.heic.png"]
    read = cv2.imdecode(np.fromfile(tmp_path / "out" / "x.ppm.png", np.uint8), cv2.IMREAD_COLOR)
    assert read is not None
    assert (read == NOISE).all()


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    assert written(tmp_path, ["x.bmp"]) == written(tmp_path, ["x.bmp"]) == ["x.bmp"]


@pytest.mark.parametrize("folder", ["", "../here"])
def test_an_original_is_never_overwritten(folder: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "x.png").write_bytes(b"precious")
    with pytest.raises(LivemarksError, match="original"):
        written(here / folder, [str(here / "x.png")])
    assert (here / "x.png").read_bytes() == b"precious"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other.png").write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.png").symlink_to("../other.png")
    with pytest.raises(LivemarksError, match=r"x\.png is a link"):
        written(tmp_path / "out", ["x.png"])
    assert (tmp_path / "other.png").read_bytes() == b"precious"
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_size_that_the_format_does_not_hold_becomes_png_or_one_line(tmp_path: Path) -> None:
    wide = np.zeros((2, 66_000, 3), np.uint8)
    sink = Sink(str(tmp_path), ["wide.jpg", "wide.webp", "wide.bmp", "wider.png"])
    for index in range(3):
        sink.write(Result(Frame(wide, index, 0.0), (), {}), wide, Tally())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wide.bmp", "wide.jpg.png", "wide.webp.png"]
    wider = np.zeros((1, 1_000_001, 3), np.uint8)
    with pytest.raises(LivemarksError, match=r"can't write .*wider.png.png: no format holds 1000001x1 pixels"):
        sink.write(Result(Frame(wider, 3, 0.0), (), {}), wider, Tally())
    assert len(list(tmp_path.iterdir())) == 3


# A run in a process of its own, whose files may have so many bytes and no more.
RUN = """
import resource, sys
import numpy as np
from livemarks.sinks.images import Sink
from livemarks.types import Frame, LivemarksError, Result, Tally
sink = Sink(sys.argv[1], ["x.png"])
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
image = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
try:
    sink.write(Result(Frame(image, 0, 0.0), (), {}), image, Tally())
except LivemarksError as error:
    print(error)
sink.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"precious")
    run = subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout == f"can't write {path}: File too large; what came before is kept\n"
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]
