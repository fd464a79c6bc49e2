"""Images land where they should, in their own format, and never on their originals."""

from __future__ import annotations

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
