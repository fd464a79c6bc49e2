"""Images land where they should, in their own format, and never on their originals."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from livemarks.sinks.images import Sink
from livemarks.types import U8, Frame, LivemarksError, Result, Tally


def written(folder: Path, paths: list[str], image: U8) -> list[str]:
    """Names, below `folder`, of what a sink makes of these originals."""
    sink = Sink(str(folder), paths)
    for index in range(len(paths)):
        sink.write(Result(Frame(image, index, 0.0), (), {}), image, Tally())
    sink.close()
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))


def test_folders_that_differ_are_kept_apart(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    paths = [str(tmp_path / name) for name in ("in/a/x.png", "in/b/x.png", "in/y.JPG")]
    assert written(tmp_path / "out", paths, image) == ["a/x.png", "b/x.png", "y.JPG"]


def test_formats_without_a_writer_become_png_without_colliding(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    names = written(tmp_path / "out", ["x.ppm", "x.png", "über.heic"], image)
    assert names == ["x.png", "x.ppm.png", "über.heic.png"]
    read = cv2.imdecode(np.fromfile(tmp_path / "out" / "x.ppm.png", np.uint8), cv2.IMREAD_COLOR)
    assert read is not None
    assert (read == image).all()


@pytest.mark.parametrize("folder", ["", "../here"])
def test_an_original_is_never_overwritten(folder: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "x.png").write_bytes(b"precious")
    with pytest.raises(LivemarksError, match="original"):
        Sink(str(here / folder), [str(here / "x.png")])
    assert (here / "x.png").read_bytes() == b"precious"
