"""Canvases show a face where their points say, and survive the journey in a pack."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from livemarks import plugins
from livemarks.train import pack
from livemarks.train.samples import Sample
from livemarks.types import F32, U8, LivemarksError


def dotted(folder: Path, side: int, dot_xy: tuple[float, float], radius: float) -> Sample:
    """A face whose point 0 is a round Gaussian dot on a dark image of side x side px."""
    rows, columns = np.mgrid[:side, :side]
    square = (columns - dot_xy[0]) ** 2 + (rows - dot_xy[1]) ** 2
    image = np.repeat((200 * np.exp(-square / (2 * radius**2)))[:, :, None], 3, axis=2).round().astype(np.uint8)
    path = folder / f"{side}.png"
    cv2.imwrite(str(path), image)
    xy = np.random.default_rng(1).uniform(0.3 * side, 0.6 * side, (68, 2)).astype(np.float32)
    xy[0], xy[1], xy[2] = dot_xy, (0.25 * side, 0.3 * side), (0.65 * side, 0.7 * side)  # 1 and 2 span the box
    return Sample(path, "ibug68", xy, "somebody", "afw", path.name)


def centroid(canvas: U8) -> F32:
    weight = canvas[:, :, 0].astype(np.float64)
    rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(columns * weight).sum(), (rows * weight).sum()], np.float32) / np.float32(weight.sum())


# From magnifying four times to shrinking by 1.3, 2.6 and 8.6.
@pytest.mark.parametrize("side", [60, 205, 410, 1370])
def test_a_dot_stays_under_its_point(tmp_path: Path, side: int) -> None:
    sample = dotted(tmp_path, side, (0.4137 * side, 0.5261 * side), radius=max(1.5, side / 60))
    canvas, xy = pack.canvas_of(sample, 128, 2.0)
    assert canvas.shape == (128, 128, 3)
    np.testing.assert_allclose(centroid(canvas), xy[0], atol=0.1)
    tight = xy.max(axis=0) - xy.min(axis=0)
    assert tight.max() == pytest.approx(64, abs=1e-3)  # the box fills half of the canvas
    np.testing.assert_allclose((xy.max(axis=0) + xy.min(axis=0)) / 2, [63.5, 63.5], atol=1e-3)


def test_shrinking_averages(tmp_path: Path) -> None:
    sample = dotted(tmp_path, 410, (200, 200), radius=5)
    rows, columns = np.mgrid[:410, :410]
    stripes = np.where((rows + columns) % 2, 255, 0).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "410.png"), stripes)
    canvas, _ = pack.canvas_of(sample, 100, 2.0)  # 3.3 px to one
    middle = canvas[20:80, 20:80].astype(float)
    assert middle.std() < 8  # sampling without averaging would leave a moire of up to 127
    assert middle.mean() == pytest.approx(127.5, abs=3)


def test_outside_the_picture_is_black(tmp_path: Path) -> None:
    sample = dotted(tmp_path, 100, (50, 50), radius=4)
    cv2.imwrite(str(tmp_path / "100.png"), np.full((100, 100, 3), 255, np.uint8))
    canvas, xy = pack.canvas_of(sample, 96, 4.0)
    assert canvas[0].max() == 0
    assert canvas[tuple(xy[0].round().astype(int)[::-1])].min() == 255


def test_a_kaggle_canvas_is_the_whole_picture() -> None:
    greys = np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8)
    xy = np.full((15, 2), np.nan, np.float32)
    xy[10] = 40.25, 50.5
    sample = Sample(greys, "kaggle15", xy, "line 2", "kaggle", "line 2")
    canvas, moved = pack.canvas_of(sample, 96, 2.0)
    np.testing.assert_array_equal(canvas[:, :, 0], greys)
    np.testing.assert_allclose(moved, xy, atol=1e-4)


def faces(n: int = 5, side: int = 64) -> pack.Faces:
    """Smooth colour pictures, the last one grey."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (n, 4, 4, 3), np.uint8)
    canvases = np.stack([cv2.resize(s, (side, side), interpolation=cv2.INTER_CUBIC) for s in small]).astype(np.uint8)
    canvases[-1] = canvases[-1][:, :, :1]
    xy = rng.uniform(0, side, (n, 68, 2)).astype(np.float32)
    persons = tuple(f"person {i // 2}" for i in range(n))
    return pack.Faces(canvases, xy, persons, ("afw",) * (n - 1) + ("lfw-pseudo",), tuple("abcdefghij"[:n]), "ibug68")


def test_a_pack_comes_back(tmp_path: Path) -> None:
    there = faces()
    pack.write_pack(tmp_path / "x.npz", there, quality=95)
    back, problems = pack.load_faces(tmp_path / "x.npz")
    np.testing.assert_array_equal(back.xy, there.xy)
    assert (back.persons, back.sets, back.names, back.scheme) == (there.persons, there.sets, there.names, "ibug68")
    difference = np.abs(back.canvases.astype(int) - there.canvases)
    assert difference.mean() < 3
    assert (back.canvases[-1] == back.canvases[-1][:, :, :1]).all()  # grey stays grey
    assert problems == []
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]

    some, _ = pack.load_faces(tmp_path / "x.npz", ["lfw-pseudo"])
    assert some.names == ("e",)
    with pytest.raises(LivemarksError, match="holds afw, lfw-pseudo, but not imm"):
        pack.load_faces(tmp_path / "x.npz", ["imm"])


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    pack.write_pack(path, faces())
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(LivemarksError, match="not a pack file, or damaged"):
            pack.load_faces(path)
    dice = np.random.default_rng(0)
    for _ in range(300):  # a byte or ten, anywhere
        torn = bytearray(whole)
        for at in dice.integers(0, len(whole), dice.integers(1, 11)):
            torn[at] = dice.integers(256)
        path.write_bytes(torn)
        with contextlib.suppress(LivemarksError):
            pack.load_faces(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(LivemarksError, match="not a pack file"):
        pack.load_faces(path)
    with pytest.raises(LivemarksError, match="no such data folder or pack"):
        pack.load_faces(tmp_path / "gone.npz")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ends", np.array([0, 0, 5, 9, 20])),
        ("ends", np.array([], int)),
        ("xy", np.zeros((5, 15, 2), np.float32)),
        ("xy", np.full((5, 68, 2), np.nan, np.float32)),
        ("names", np.array(["a"])),
        ("jpegs", np.zeros(9, np.uint8)),
    ],
)
def test_a_pack_whose_parts_do_not_fit_is_refused(key: str, value: NDArray[Any], tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    pack.write_pack(path, faces())
    with np.load(path) as parts:
        np.savez(path, **{**parts, key: value})
    with pytest.raises(LivemarksError, match=r"x\.npz: not a pack file, or damaged") as caught:
        pack.load_faces(path)
    assert "\n" not in str(caught.value)


def test_faces_of_two_schemes_are_not_mixed(tmp_path: Path) -> None:
    one = dotted(tmp_path, 60, (30, 30), 2)
    other = Sample(one.image, "imm58", one.xy[:58], "somebody", "imm", "x")
    with pytest.raises(LivemarksError, match="ibug68, imm58"):
        pack.cut([one, other])


def test_one_photograph_under_two_names_is_one_person(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    small = [rng.integers(0, 256, (8, 8, 3), np.uint8) for _ in range(2)]
    pictures = [cv2.resize(s, (100, 100), interpolation=cv2.INTER_CUBIC) for s in (small[0], small[1], small[0])]
    pictures[2] = cv2.convertScaleAbs(pictures[2], alpha=0.7, beta=40)  # a copy, printed paler
    one = dotted(tmp_path, 100, (50, 50), 4)
    samples = []
    for i, picture in enumerate(pictures):
        path = tmp_path / f"image_{i}.png"
        cv2.imwrite(str(path), picture)
        samples.append(Sample(path, "ibug68", one.xy, path.stem, "lfpw-train", path.name))
    assert pack.cut(samples, 96).persons == ("image_0", "image_1", "image_0")


def test_faces_check_themselves() -> None:
    good = faces()
    with pytest.raises(ValueError, match="of 68 points"):
        pack.Faces(good.canvases, good.xy[:, :5], good.persons, good.sets, good.names, "ibug68")
    assert repr(good) == "Faces(n=5, canvas=64 px, ibug68, ['afw', 'lfw-pseudo'])"
    assert good.select([3, 0]).names == ("d", "a")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "afw"
    folder.mkdir()
    sample = dotted(folder, 100, (50, 50), 4)
    rows = "\n".join(f"{x} {y}" for x, y in sample.xy + 1)
    (folder / "100.pts").write_text(f"version: 1\nn_points: 68\n{{\n{rows}\n}}\n")
    (folder / "200.pts").write_text("")
    pack.main(["--data", str(tmp_path), "--sets", "afw", "--canvas", "64", "--out", str(tmp_path / "x.npz")])
    said = capsys.readouterr()
    assert "Faces(n=1, canvas=64 px" in said.out
    assert "left out: afw: 200.pts" in said.err
    assert pack.main(["--data", str(tmp_path), "--sets", "cofw", "--out", str(tmp_path / "y.npz")]) == 2
    assert capsys.readouterr().err.startswith("error: no data set is called 'cofw'")
    assert not (tmp_path / "y.npz").exists()


def test_an_output_that_cannot_be_written_is_told_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "load_faces", lambda *_: pytest.fail("it worked"))
    for out in (tmp_path / "none" / "x.npz", tmp_path):
        assert pack.main(["--data", str(tmp_path), "--sets", "afw", "--out", str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: can't write {out}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--canvas=0", "--canvas=big", "--margin=0", "--margin=nan", "--quality=101"])
def test_numbers_out_of_range_are_refused_by_their_option(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        pack.main(["--data", ".", "--sets", "afw", "--out", "x.npz", option])
    assert ended.value.code == 2
    assert f"argument {option.partition('=')[0]}: {option.partition('=')[2]!r} is not a" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_costs_no_earlier_pack_and_leaves_nothing(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "x.npz"
    pack.write_pack(path, faces(2))
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(LivemarksError, match=r"can't write .*x\.npz: File too large"):
            pack.write_pack(path, faces(5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]
    assert path.read_bytes() == before


@pytest.mark.data
def test_real_faces_lie_within_their_canvas(data_dir: Path) -> None:
    found, problems = pack.load_faces(data_dir, ["helen-test"], canvas_px=96)
    assert problems == []
    assert found.canvases.shape == (330, 96, 96, 3)
    span = np.ptp(found.xy, axis=1).max(axis=1)
    np.testing.assert_allclose(span, 48, atol=1e-3)
    assert len(plugins.load("schemes", found.scheme)) == found.xy.shape[1]
