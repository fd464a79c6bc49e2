"""Readers on small files made here in each publisher's format, whole and broken."""

from __future__ import annotations

import csv
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from livemarks import plugins
from livemarks.train import samples
from livemarks.types import F64, LivemarksError


def points(count: int, width: int = 120, height: int = 100) -> F64:
    """(count, 2) points well inside an image of that size."""
    return np.random.default_rng(count).uniform((20, 20), (width - 20, height - 20), (count, 2)).round(3)


def image_file(path: Path, width: int = 120, height: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 127, np.uint8))
    return path


def pts_text(xy: F64, n_points: int = 68) -> str:
    rows = "\n".join(f"{x:.3f} {y:.3f}" for x, y in xy + 1)  # MATLAB counts from 1
    return f"version: 1\nn_points:  {n_points}\n{{\n{rows}\n}}\n"


def _but_one(x: float) -> F64:
    """68 points of which one is far off."""
    xy = points(68)
    xy[9, 0] = x
    return xy


def asf_text(xy: F64, image: str, extra: str = "", size_wh: tuple[int, int] = (120, 100)) -> str:
    rows = "\n".join(f"0 \t4 \t{x:.8f} \t{y:.8f} \t{i} \t{i} \t{i}{extra}" for i, (x, y) in enumerate(xy / size_wh))
    return f"# AAM Shape File\n#\n\n{len(xy)}\n\n# model points\n{rows}\n\n# host image\n{image}\n"


# --- 300-W -----------------------------------------------------------------------------------------------------------


def test_300w_points_become_0_based(tmp_path: Path) -> None:
    xy = points(68)
    image_file(tmp_path / "image_0001.png")  # LFPW comes as png
    (tmp_path / "image_0001.pts").write_text(pts_text(xy))
    (sample,), problems = samples.read_300w(tmp_path, "lfpw-train")
    np.testing.assert_allclose(sample.xy, xy, atol=1e-3)
    assert (sample.scheme, sample.set, sample.name, problems) == ("ibug68", "lfpw-train", "image_0001.png", [])
    assert sample.xy.dtype == np.float32
    assert sample.read().shape == (100, 120, 3)


def test_faces_of_one_photo_are_one_person(tmp_path: Path) -> None:
    for stem in ("134212_1", "134212_2", "1051618982_1", "image_0001", "image_0002", "image_0002_mirror"):
        image_file(tmp_path / f"{stem}.jpg")
        (tmp_path / f"{stem}.pts").write_text(pts_text(points(68)))
    read, _ = samples.read_300w(tmp_path)
    persons = {sample.name.removesuffix(".jpg"): sample.person for sample in read}
    assert persons["134212_1"] == persons["134212_2"]
    assert persons["image_0002"] == persons["image_0002_mirror"]
    assert len(set(persons.values())) == 4


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (pts_text(points(67)), "134 numbers, not the 136"),
        (pts_text(points(67), 67), "n_points is 67"),
        (pts_text(points(68)).replace("version: 1", "version: 2"), "not a .pts file"),
        (pts_text(points(68)).replace("}", ""), "not a .pts file"),
        (pts_text(points(68)).replace("\n{\n", "\n{\nnose "), "137 numbers"),
        (pts_text(np.full((68, 2), np.nan)), "68 points are NaN"),
        (pts_text(points(68) + 500), "0 of 68 points lie on the 120x100 image; a face takes half"),
        (pts_text(np.full((68, 2), 50.0)), "span no box"),
        (pts_text(_but_one(np.inf)), "bad.pts: a coordinate lies beyond any picture"),
        (pts_text(_but_one(1e39)), "bad.pts: a coordinate lies beyond any picture"),
        (pts_text(_but_one(99999)), "bad.jpg: the face's box is longer than twice the 120x100 image"),
        (pts_text(_but_one(-1000)), "bad.jpg: the face's box is longer than twice the 120x100 image"),
        ("", "not a .pts file"),
    ],
)
def test_a_bad_label_is_named_and_left_out(tmp_path: Path, text: str, complaint: str) -> None:
    for stem in ("bad", "good"):
        image_file(tmp_path / f"{stem}.jpg")
        (tmp_path / f"{stem}.pts").write_text(pts_text(points(68)))
    (tmp_path / "bad.pts").write_text(text)
    read, (problem,) = samples.read_300w(tmp_path)
    assert [sample.name for sample in read] == ["good.jpg"]
    assert "bad." in problem
    assert complaint in problem


def test_a_bad_image_is_named_and_left_out(tmp_path: Path) -> None:
    for stem in ("empty", "gone", "text"):
        (tmp_path / f"{stem}.pts").write_text(pts_text(points(68)))
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    read, problems = samples.read_300w(tmp_path)
    assert read == []
    assert [problem.split(".")[0].rpartition("/")[2] for problem in problems] == ["empty", "gone", "text"]


def test_a_picture_that_says_it_is_huge_is_named_and_left_out(tmp_path: Path) -> None:
    size = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    (tmp_path / "huge.png").write_bytes(png)
    (tmp_path / "huge.pts").write_text(pts_text(points(68)))
    read, (problem,) = samples.read_300w(tmp_path)
    assert read == []
    assert "huge.png: not an image, or damaged" in problem
    assert "\n" not in problem


# --- YouTube Faces, LFW ----------------------------------------------------------------------------------------------


def ytfaces(folder: Path) -> F64:
    xy = points(68)
    with (folder / "training_frames_keypoints.csv").open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["", *range(136)])
        for name in ("Al_Smith-Roe_00.jpg", "Al_Smith-Roe_51.jpg", "Bo_12.jpg"):
            image_file(folder / "training" / name)
            rows.writerow([name, *xy.ravel()])
        rows.writerow(["Gone_00.jpg", *xy.ravel()])
        rows.writerow(["Bo_12.jpg", *xy.ravel()[:-1]])
    return xy


def test_ytfaces_rows_are_0_based_and_grouped_by_person(tmp_path: Path) -> None:
    xy = ytfaces(tmp_path)
    read, problems = samples.read_ytfaces(tmp_path)
    assert [(sample.person, sample.set) for sample in read] == [("Al_Smith-Roe", "ytfaces")] * 2 + [("Bo", "ytfaces")]
    np.testing.assert_allclose(read[0].xy, xy, atol=1e-3)
    assert len(problems) == 2
    assert "Gone_00.jpg" in problems[0]
    assert "Bo_12.jpg: 135 numbers" in problems[1]


def test_held_out_people_are_a_set_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "ytfaces68"
    folder.mkdir()
    ytfaces(folder)
    (folder / "validation_people.txt").write_text("Bo\n")
    train, _ = samples.read_sets(tmp_path, ["ytfaces"])
    held_out, _ = samples.read_sets(tmp_path, ["ytfaces-val"])
    assert {sample.person for sample in train} == {"Al_Smith-Roe"}
    assert {sample.person for sample in held_out} == {"Bo"}


def test_lfw_pseudo(tmp_path: Path) -> None:
    image_file(tmp_path / "images" / "Ann_Lee_0002.jpg")
    numbers = ",".join(str(value) for value in points(68).ravel())
    (tmp_path / "labels.csv").write_text(f"image,{','.join(map(str, range(136)))}\nAnn_Lee_0002.jpg,{numbers}\n")
    (sample,), problems = samples.read_lfw_pseudo(tmp_path)
    assert (sample.person, sample.set, problems) == ("Ann_Lee", "lfw-pseudo", [])


# --- IMM -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["", "\t0.00\t0.00\t0.00"])  # a few of the set's files have ten columns
def test_imm_points_are_relative_to_the_image(tmp_path: Path, extra: str) -> None:
    xy = points(58)
    image_file(tmp_path / "07-3m.jpg")
    (tmp_path / "07-3m.asf").write_text(asf_text(xy, "07-3m.jpg", extra))
    (sample,), problems = samples.read_imm(tmp_path)
    np.testing.assert_allclose(sample.xy, xy, atol=1e-4)
    assert (sample.person, sample.scheme, sample.name, problems) == ("07", "imm58", "07-3m.jpg", [])
    np.testing.assert_array_equal(samples.to_nose1(sample.xy), sample.xy[52:53])


def test_broken_imm_files_are_named(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    (tmp_path / "count.asf").write_text(asf_text(points(57), "a.jpg"))
    (tmp_path / "image.asf").write_text(asf_text(points(58), "b.jpg"))
    (tmp_path / "text.asf").write_text("58\n")
    read, problems = samples.read_imm(tmp_path)
    assert read == []
    assert ["count.asf" in problems[0], "b.jpg" in problems[1], "text.asf" in problems[2]] == [True] * 3


# --- Kaggle ----------------------------------------------------------------------------------------------------------

KAGGLE_HEADER = (
    "left_eye_center_x,left_eye_center_y,right_eye_center_x,right_eye_center_y,left_eye_inner_corner_x,"
    "left_eye_inner_corner_y,left_eye_outer_corner_x,left_eye_outer_corner_y,right_eye_inner_corner_x,"
    "right_eye_inner_corner_y,right_eye_outer_corner_x,right_eye_outer_corner_y,left_eyebrow_inner_end_x,"
    "left_eyebrow_inner_end_y,left_eyebrow_outer_end_x,left_eyebrow_outer_end_y,right_eyebrow_inner_end_x,"
    "right_eyebrow_inner_end_y,right_eyebrow_outer_end_x,right_eyebrow_outer_end_y,nose_tip_x,nose_tip_y,"
    "mouth_left_corner_x,mouth_left_corner_y,mouth_right_corner_x,mouth_right_corner_y,mouth_center_top_lip_x,"
    "mouth_center_top_lip_y,mouth_center_bottom_lip_x,mouth_center_bottom_lip_y,Image"
)
GREYS = np.arange(9216) % 256


def kaggle_row(xy: F64, greys: str = " ".join(map(str, GREYS))) -> str:
    return ",".join("" if np.isnan(value) else repr(float(value)) for value in xy.ravel()) + "," + greys


def test_kaggle_training(tmp_path: Path) -> None:
    xy = points(15, 96, 96)
    xy[3], xy[14, 1] = np.nan, np.nan  # half a label is none
    table = tmp_path / "training.csv"
    table.write_text(f"{KAGGLE_HEADER}\n{kaggle_row(xy)}\n")
    (sample,), problems = samples.read_kaggle(table)
    xy[14] = np.nan
    np.testing.assert_allclose(sample.xy, xy, atol=1e-4)
    np.testing.assert_array_equal(sample.read()[:, :, 1], GREYS.reshape(96, 96))
    assert (sample.scheme, sample.name, problems) == ("kaggle15", "training.csv line 2", [])


def test_broken_kaggle_rows_are_named_by_line(tmp_path: Path) -> None:
    xy = points(15, 96, 96)
    rows = [kaggle_row(xy), kaggle_row(xy, "1 2 3"), kaggle_row(xy)[5:].replace(",", "", 1), kaggle_row(xy + 200)]
    rows += [kaggle_row(xy, " ".join(["256"] * 9216)), kaggle_row(xy, "x"), "abc" + kaggle_row(xy)]
    table = tmp_path / "training.csv"
    table.write_text("\n".join([KAGGLE_HEADER, *rows]) + "\n")
    read, problems = samples.read_kaggle(table)
    assert len(read) == 1
    assert ["training.csv line" in problem for problem in problems] == [True] * 6
    table.write_text("a,b\n1,2\n")
    with pytest.raises(LivemarksError, match="columns"):
        samples.read_kaggle(table)


def test_kaggle_training_rows_with_too_few_labels_are_named(tmp_path: Path) -> None:
    xy = points(15, 96, 96)
    none, one = np.full_like(xy, np.nan), np.full_like(xy, np.nan)
    one[10] = xy[10]
    table = tmp_path / "training.csv"
    table.write_text("\n".join([KAGGLE_HEADER, kaggle_row(none), kaggle_row(xy), kaggle_row(one)]) + "\n")
    read, problems = samples.read_kaggle(table)
    assert [sample.name for sample in read] == ["training.csv line 3"]
    assert problems == [
        "training.csv line 2: 0 of 15 points are labelled; a face takes two",
        "training.csv line 4: 1 of 15 points are labelled; a face takes two",
    ]


def test_kaggles_faces_need_no_box_and_its_table_may_come_from_excel(tmp_path: Path) -> None:
    eyes = np.full((15, 2), np.nan)
    eyes[:2] = [[66.0, 39.1], [30.2, 39.6]]
    table = tmp_path / "training.csv"
    table.write_text(f"{KAGGLE_HEADER}\n{kaggle_row(eyes)}\n", encoding="utf-8-sig")
    read, problems = samples.read_kaggle(table)
    assert (len(read), problems) == (1, [])


def test_a_blank_line_of_kaggles_is_named(tmp_path: Path) -> None:
    greys = " ".join(map(str, GREYS))
    (tmp_path / "test.csv").write_text(f"ImageId,Image\n1,{greys}\n\n2,{greys}\n")
    read, problems = samples.read_kaggle(tmp_path / "test.csv")
    assert [sample.name for sample in read] == ["1", "2"]
    assert problems == ["test.csv line 3: 0 cells, not 2"]


@pytest.mark.parametrize("rows", [2, 30])
def test_a_stray_quote_is_one_line_and_swallows_no_faces(tmp_path: Path, rows: int) -> None:
    row = kaggle_row(points(15, 96, 96))
    kaggle, faces = tmp_path / "training.csv", tmp_path / "labels.csv"
    kaggle.write_text("\n".join([KAGGLE_HEADER, row, '"' + row, *[row] * rows]) + "\n")
    with pytest.raises(LivemarksError, match=r"training.csv line \d+: .*stray quote") as caught:
        samples.read_kaggle(kaggle)
    assert "\n" not in str(caught.value)
    row = "Ann_Lee_0002.jpg," + ",".join(str(value) for value in points(68).ravel())
    image_file(tmp_path / "images" / "Ann_Lee_0002.jpg")
    faces.write_text("\n".join(["image", row, '"' + row, *[row] * rows]) + "\n")
    with pytest.raises(LivemarksError, match=r"labels.csv line \d+: .*stray quote"):
        samples.read_lfw_pseudo(tmp_path)


def test_kaggle_test_rows(tmp_path: Path) -> None:
    rows = "".join(f"{i},{' '.join(map(str, GREYS))}\n" for i in (1, 2))
    (tmp_path / "test.csv").write_text(f"ImageId,Image\n{rows}")
    read, problems = samples.read_kaggle(tmp_path / "test.csv")
    assert [sample.name for sample in read] == ["1", "2"]
    assert all(np.isnan(sample.xy).all() for sample in read)
    assert problems == []


def test_kaggles_15_points_from_the_68() -> None:
    ibug, kaggle = plugins.load("schemes", "ibug68"), plugins.load("schemes", "kaggle15")
    xy = points(68)
    derived = dict(zip(kaggle.points, samples.to_kaggle15(xy), strict=True))
    source = dict(zip(ibug.points, xy, strict=True))
    for name, ibug_name in {
        "left_eye_inner_corner": "left_eye_0",
        "left_eye_outer_corner": "left_eye_3",
        "right_eye_inner_corner": "right_eye_3",
        "right_eye_outer_corner": "right_eye_0",
        "left_eyebrow_inner_end": "left_brow_0",
        "right_eyebrow_outer_end": "right_brow_0",
        "nose_tip": "nose_bridge_3",
        "mouth_left_corner": "outer_lip_6",
        "mouth_center_top_lip": "outer_lip_3",
        "mouth_center_bottom_lip": "outer_lip_9",
    }.items():
        np.testing.assert_allclose(derived[name], source[ibug_name], rtol=1e-6, err_msg=name)
    # mirroring the 68 and deriving is deriving and mirroring the 15
    np.testing.assert_allclose(samples.to_kaggle15(xy[list(ibug.mirror)]), samples.to_kaggle15(xy)[list(kaggle.mirror)])
    assert samples.to_kaggle15(np.stack([xy, xy])).shape == (2, 15, 2)


# --- sets by name ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["300w/afw", "afw"])
def test_a_set_is_found_in_either_layout(tmp_path: Path, place: str) -> None:
    image_file(tmp_path / place / "1_1.jpg")
    (tmp_path / place / "1_1.pts").write_text(pts_text(points(68)))
    (tmp_path / place / "2_1.pts").write_text(pts_text(points(68)))
    (sample,), (problem,) = samples.read_sets(tmp_path, ["afw"])
    assert sample.set == "afw"
    assert problem.startswith("afw: 2_1.pts")


def test_unknown_missing_and_empty_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LivemarksError, match=r"'cofw'; there are: afw, .*helen-train"):
        samples.read_sets(tmp_path, ["cofw"])
    with pytest.raises(LivemarksError, match="put it into 300w/helen/testset"):
        samples.read_sets(tmp_path, ["helen-test"])
    (tmp_path / "afw").mkdir()
    with pytest.raises(LivemarksError, match="no readable labelled face"):
        samples.read_sets(tmp_path, ["afw"])


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "count", "people"),
    [("helen-test", 330, 298), ("afw", 337, 185), ("imm", 240, 40), ("ytfaces-val", 516, 52)],
)
def test_the_real_sets_are_read_whole(data_dir: Path, name: str, count: int, people: int) -> None:
    read, problems = samples.read_sets(data_dir, [name])
    assert (len(read), len({sample.person for sample in read}), problems) == (count, people, [])
    assert {sample.scheme for sample in read} == {samples.scheme_of(name)}
