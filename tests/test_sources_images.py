"""The image source: which files, in what order, and how their pixels are to be understood."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import media
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from livemarks.sources.images import Source
from livemarks.types import U8, LivemarksError


def read(*paths: Path | str) -> tuple[list[U8], Source]:
    source = Source([str(path) for path in paths])
    frames = list(source)
    source.close()
    assert [(frame.index, frame.t_s) for frame in frames] == [(i, float(i)) for i in range(len(frames))]
    assert len(source.names) == len(frames)
    return [frame.image for frame in frames], source


def test_a_folder_in_the_order_people_count_in(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    for name in ("a10.png", "a9.jpg", "A1.bmp", "b.tiff", ".hidden.png", "notes.txt"):
        media.write_image(tmp_path / name, media.numbered(1)) if name != "notes.txt" else (tmp_path / name).touch()
    media.write_image(tmp_path / "c.jpg", media.numbered(1)).rename(tmp_path / "c.JFIF")
    images, source = read(tmp_path)
    assert [Path(name).name for name in source.names] == ["A1.bmp", "a9.jpg", "a10.png", "b.tiff", "c.JFIF"]
    assert source.info.frames == 5
    assert source.notices == []
    assert source.info.size_wh is None
    assert not source.info.live
    assert {media.number(image) for image in images} == {1}


def test_globs_and_names_with_brackets(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png", "[1].png"):
        media.write_image(tmp_path / name, media.numbered(1))
    _, source = read(tmp_path / "**" / "*.png", tmp_path / "[1].png")
    assert [Path(name).name for name in source.names] == ["[1].png", "a.png", "b.png", "[1].png"]


@pytest.mark.parametrize("name", ["ü 世界.png", "100%.jpg", "%03d.jpg", "a:b.png", "-"])
def test_strange_names(tmp_path: Path, name: str) -> None:
    media.write_image(tmp_path / "plain.png", media.numbered(5)).rename(tmp_path / name)
    (image,), source = read(tmp_path / name)
    assert media.number(image) == 5
    assert source.names == [(tmp_path / name).as_posix()]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm"])
def test_pixels(tmp_path: Path, suffix: str, astronaut: U8) -> None:
    (image,), _ = read(media.write_image(tmp_path / f"a{suffix}", astronaut))
    assert image.shape == (512, 512, 3)
    error = np.abs(image.astype(int) - astronaut).mean()
    assert error < 3 if suffix in (".jpg", ".webp") else error == 0


# As Exif 2.32 numbers them: what to do to the stored pixels.
SHOWN: dict[int, Callable[[U8], U8]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_honoured(tmp_path: Path, orientation: int, astronaut: U8) -> None:
    stored = np.ascontiguousarray(astronaut[:256])
    shown = SHOWN[orientation](stored)
    (image,), _ = read(media.with_exif(media.write_image(tmp_path / "a.jpg", stored), orientation))
    assert image.shape == shown.shape
    assert np.abs(image.astype(int) - shown).mean() < 3


# What OpenCV reads: suffix, colours, how Pillow saves it, and the mean difference in grey levels. libtiff shows Lab's
# white, which is D50, as it is, yellowish.
OPENCVS: dict[str, tuple[str, str, dict[str, Any], float]] = {
    "JPEG in TIFF": (".tif", "RGB", {"compression": "jpeg", "quality": 95}, 3),
    "YCbCr": (".tif", "YCbCr", {}, 3),
    "Lab": (".tif", "LAB", {}, 15),
    "moving WebP": (".webp", "RGB", {"save_all": True, "quality": 95, "method": 0}, 3),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", OPENCVS)
def test_what_opencv_reads_is_turned_once(
    tmp_path: Path, kind: str, orientation: int, astronaut: U8, capfd: pytest.CaptureFixture[str]
) -> None:
    suffix, colours, options, off = OPENCVS[kind]
    stored = np.ascontiguousarray(astronaut[:128, 100:300])
    photo = Image.fromarray(np.ascontiguousarray(stored[:, :, ::-1])).convert(colours)
    exif = Image.Exif()
    exif[0x0112] = orientation
    others = [photo.rotate(90)] if suffix == ".webp" else []
    photo.save(tmp_path / f"a{suffix}", exif=exif, append_images=others, **options)
    (image,), _ = read(tmp_path / f"a{suffix}")
    want = SHOWN[orientation](stored)
    assert image.shape == want.shape
    assert np.abs(image.astype(int) - want).mean() < off
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("dtype", "options"), [(np.float32, {}), (np.int32, {}), (np.uint8, {"compression": "zstd"})])
def test_rare_tiffs_are_not_called_damaged(tmp_path: Path, dtype: Any, options: dict[str, Any]) -> None:
    Image.fromarray(np.full((8, 8), 0.5 * 255, dtype)).save(tmp_path / "a.tif", **options)
    with pytest.raises(LivemarksError, match="it is of a rare kind that nothing here reads; save it as PNG"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["grey", "grey, 16 bits", "alpha", "16 bits"])
def test_everything_becomes_bgr(tmp_path: Path, kind: str) -> None:
    bgr = np.full((40, 60, 3), (50, 100, 150), np.uint8)
    grey = np.full((40, 60), 77, np.uint8)
    kinds: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
        "grey": (grey, (77, 77, 77)),
        "grey, 16 bits": (grey.astype(np.uint16) * 257, (77, 77, 77)),
        "alpha": (cv2.merge([bgr, grey]), (50, 100, 150)),
        "16 bits": (bgr.astype(np.uint16) * 257, (50, 100, 150)),
    }
    stored, want = kinds[kind]
    (image,), _ = read(media.write_image(tmp_path / "a.png", stored))
    assert image.shape == (40, 60, 3)
    assert image[20, 30].tolist() == pytest.approx(want, abs=1)


@pytest.mark.parametrize("progressive", [0, 1])
def test_a_jpeg_with_another_behind_it(tmp_path: Path, progressive: int, astronaut: U8) -> None:
    """As some cameras' are. The first tells nothing of itself by JFIF or Exif; the other one was held sideways."""
    bare = []
    for image in (astronaut, astronaut[:64, :64]):
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1].tobytes()
        bare.append(data[:2] + data[4 + int.from_bytes(data[4:6], "big") :])
    (tmp_path / "b.jpg").write_bytes(bare[1])
    (tmp_path / "a.jpg").write_bytes(bare[0] + media.with_exif(tmp_path / "b.jpg", 6).read_bytes())
    (image,), _ = read(tmp_path / "a.jpg")
    assert image.shape == astronaut.shape
    assert np.abs(image.astype(int) - astronaut).mean() < 3


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_of_moving_pictures_the_first_is_read(tmp_path: Path, suffix: str) -> None:
    first, *others = (Image.fromarray(media.numbered(i)) for i in (5, 6, 7))
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=others)
    (image,), _ = read(tmp_path / f"a{suffix}")
    assert media.number(image) == 5


def bomb(path: Path, width: int, height: int) -> Path:
    """A small file that says it is a vast picture."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def jpeg_in_tiff(path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, compression="jpeg")
    return path


def moving(path: Path) -> Path:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    noise.save(path, save_all=True, append_images=[noise.rotate(90)])
    return path


BAD: dict[str, Callable[[Path], object]] = {
    "text.jpg": lambda path: path.write_text("no image at all"),
    "empty.png": lambda path: path.touch(),
    "cut.png": lambda path: media.cut(
        media.write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), 0.5
    ),
    "flipped.jpg": lambda path: path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8),
    "huge.png": lambda path: bomb(path, 30_000, 30_000),
    "video.bmp": lambda path: media.make_clip(path, 5, format="mp4"),
    "link.png": lambda path: path.symlink_to("nowhere.png"),
    "huge.webp": lambda path: path.write_bytes(
        b"RIFF\0\0\0\0WEBPVP8X" + bytes([10, 0, 0, 0, 2, 0, 0, 0]) + b"\xff\xff\0" * 2
    ),
    "cut.webp": lambda path: media.cut(moving(path), 0.3),
    "cut.tif": lambda path: media.cut(jpeg_in_tiff(path), 0.5),
    "zeroed.tif": lambda path: path.write_bytes(
        (data := jpeg_in_tiff(path).read_bytes())[:8] + bytes(300) + data[308:]
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_among_good_ones_is_skipped_and_noted(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    BAD[name](tmp_path / name)
    media.write_image(tmp_path / "a.png", media.numbered(1))
    media.write_image(tmp_path / "z.png", media.numbered(2))
    images, source = read(tmp_path)
    assert [media.number(image) for image in images] == [1, 2]
    assert [Path(path).name for path in source.names] == ["a.png", "z.png"]
    (notice,) = source.notices
    assert notice.startswith(f"{tmp_path / name} ")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("brand", ["heic", "mif1", "avif"])
def test_the_pictures_of_phones_are_named(tmp_path: Path, brand: str) -> None:
    """An mp4 that says it was one, since nothing here can make a real one."""
    data = bytearray(media.make_clip(tmp_path / "a.mp4", 2).read_bytes())
    data[8:12] = brand.encode()
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(LivemarksError, match=r"is HEIC or AVIF, .*; save it as JPEG or PNG"):
        read(tmp_path / "a.png")


def test_what_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    media.write_image(tmp_path / "a.png", media.numbered(1))
    with (tmp_path / "b.png").open("wb") as file:
        file.truncate((1 << 30) + 1)
    images, source = read(tmp_path)
    assert len(images) == 1
    assert source.notices == [f"{tmp_path / 'b.png'} can't be read as an image: it is larger than 1 GiB"]


@pytest.mark.parametrize("suffix", [".tga", ".ico"])
def test_unknown_kinds_are_told_as_such(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(media.numbered(1)).save(tmp_path / f"a{suffix}")
    with pytest.raises(LivemarksError, match=r"of no kind that is read here, |of a kind that is read here; "):
        read(tmp_path / f"a{suffix}")


def test_too_many_pixels_are_told(tmp_path: Path) -> None:
    with pytest.raises(LivemarksError, match="or has more than 268 million pixels"):
        read(bomb(tmp_path / "a.png", 30_000, 30_000))


def test_no_image_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, why in (
        ("empty", "there is no image in"),
        ("*.jpg", "no file matches"),
        ("missing.jpg", "there is no file"),
    ):
        with pytest.raises(LivemarksError, match=why):
            Source([str(tmp_path / path)])
    (tmp_path / "bad").mkdir()
    for name in ("1.png", "2.png", "3.png"):
        (tmp_path / "bad" / name).touch()
    with pytest.raises(LivemarksError, match=r"1.png can't be read as an image: .*, nor any of 2 others"):
        read(tmp_path / "bad")


def test_after_a_loop_that_was_broken_off_the_next_goes_on(tmp_path: Path) -> None:
    for i in range(3):
        media.write_image(tmp_path / f"{i}.png", media.numbered(i))
    source = Source([str(tmp_path)])
    next(iter(source))
    assert [(frame.index, media.number(frame.image)) for frame in source] == [(1, 1), (2, 2)]
    assert source.names == [file.as_posix() for file in source.files]
    assert list(source) == []


def test_close_ends_the_iteration(tmp_path: Path) -> None:
    for i in range(3):
        media.write_image(tmp_path / f"{i}.png", media.numbered(i))
    source = Source([str(tmp_path)])
    frames = iter(source)
    next(frames)
    source.close()
    assert list(frames) == []
