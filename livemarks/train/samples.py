"""Labelled faces, read from the files their publishers hand out.

Every reader returns `(samples, problems)`: a face whose image or label is missing, unreadable, of the wrong length, NaN
or off the picture becomes one line in `problems` that names its file, and is never trained on. A table that is missing,
or that a stray quote makes unreadable, is a LivemarksError.

`read_sets` looks for each set in the folders of `PLACES` below a data folder. Unpack 300-W's `afw.zip`, `helen.zip` and
`lfpw.zip` into it (or into its `300w/`), IMM's `imm_face_db.tar.gz` as `imm_face_db/`, and Kaggle's csv files into
`kaggle/`. The YouTube-Faces frames come as `training/` beside `training_frames_keypoints.csv`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from livemarks.schemes import imm58, kaggle15
from livemarks.types import F32, U8, LivemarksError

_WIDEST_PX = 2**20  # OpenCV opens no picture that is wider or higher

T = TypeVar("T")
Read = tuple[list["Sample"], list[str]]  # good samples, and one line for each face left out


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One labelled face.

    image: the file, or (H, W) uint8 greys where the label file holds the pixels (Kaggle). scheme: the scheme's name.
    xy: (N, 2) float32 image px, 0-based, integer at pixel centres; NaN where Kaggle's label is missing.
    person: the same string for pictures of one person, so that a split can keep them together; the photo's name where
    the person is unknown. set: key of `PLACES`. name: the image's file name (Kaggle: file and line).
    """

    image: Path | U8
    scheme: str
    xy: F32
    person: str
    set: str
    name: str

    def read(self) -> U8:
        """(H, W, 3) uint8 BGR. Raises LivemarksError if the file can't be read as an image."""
        if isinstance(self.image, Path):
            return read_image(self.image)
        return np.asarray(cv2.cvtColor(self.image, cv2.COLOR_GRAY2BGR), np.uint8)


def read_image(path: Path) -> U8:
    """(H, W, 3) uint8 BGR as stored: labels were clicked on the stored pixels, so EXIF orientation is left alone."""
    if not path.is_file():
        raise LivemarksError(f"{path}: no such image")
    data = np.fromfile(path, np.uint8)  # cv2.imread can't open every file name on Windows
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    except cv2.error:  # its header tells of more pixels than OpenCV takes
        image = None
    if image is None:
        raise LivemarksError(f"{path}: not an image, or damaged")
    return np.asarray(image, np.uint8)


def _collect(items: Iterable[T], make: Callable[[T], Sample]) -> Read:
    """Makes and checks a sample of every item; LivemarksErrors become problems."""

    def attempt(item: T) -> Sample | str:
        try:
            sample = make(item)
            _check(sample)
        except LivemarksError as error:
            return str(error)
        return sample

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(attempt, items))
    return [s for s in found if isinstance(s, Sample)], [p for p in found if isinstance(p, str)]


def _check(sample: Sample) -> None:
    """Raises LivemarksError unless the image opens and the points lie on it."""
    height, width = sample.read().shape[:2]
    labelled = sample.xy[~np.isnan(sample.xy).any(axis=1)]
    if len(labelled) < len(sample.xy) and sample.scheme != kaggle15.SCHEME.name:
        raise LivemarksError(f"{sample.name}: {len(sample.xy) - len(labelled)} points are NaN")
    if len(labelled) == 0:
        return  # a row of Kaggle's test.csv
    # A chin or an ear may lie beyond the frame, and 300-W labels it there; half a face may not.
    inside = ((labelled > -0.5) & (labelled < (width - 0.5, height - 0.5))).all(axis=1)
    if inside.mean() < 0.5:
        few = f"{inside.sum()} of {len(labelled)} points lie on the {width}x{height} image"
        raise LivemarksError(f"{sample.name}: {few}; a face takes half")
    spans = np.ptp(labelled, axis=0)
    if spans.max() > 2 * max(width, height):  # one wild point would make the face tiny in its canvas
        raise LivemarksError(f"{sample.name}: the face's box is longer than twice the {width}x{height} image")
    # Kaggle's pictures are crops, which need no box: two eyes at one height are labels enough.
    if len(labelled) > 1 and spans.min() < 1 and sample.set != "kaggle":
        raise LivemarksError(f"{sample.name}: the points span no box")


def _points(values: Sequence[str], count: int, where: str) -> F32:
    """2 x count decimal numbers, x and y in turn, as (count, 2)."""
    if len(values) != 2 * count:
        raise LivemarksError(f"{where}: {len(values)} numbers, not the {2 * count} of {count} points")
    try:
        xy = np.array(values, np.float64).reshape(count, 2)
    except ValueError:
        raise LivemarksError(f"{where}: a coordinate is no number") from None
    if (np.abs(xy) > _WIDEST_PX).any():  # infinity as well
        raise LivemarksError(f"{where}: a coordinate lies beyond any picture")
    return xy.astype(np.float32)


def read_rows(table: Path) -> Iterator[list[str]]:
    """The rows of a csv. Raises LivemarksError if it is missing, or a quote in it never ends, which swallows rows."""
    if not table.is_file():
        raise LivemarksError(f"{table}: no such file")
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as lines:  # Excel begins UTF-8 with a mark
        rows = csv.reader(lines, strict=True)
        try:
            yield from rows
        except csv.Error as error:
            raise LivemarksError(f"{table} line {rows.line_num}: {error}; is there a stray quote?") from None


# --- 300-W -----------------------------------------------------------------------------------------------------------


def read_300w(folder: Path, set: str = "300w") -> Read:
    """iBUG 300-W: a 1-based .pts beside each .jpg or .png. A photo's faces (`134212_1`, `134212_2`) are one person."""

    def make(pts: Path) -> Sample:
        images = [p for p in (pts.with_suffix(suffix) for suffix in (".jpg", ".png", ".jpeg")) if p.is_file()]
        if not images:
            raise LivemarksError(f"{pts.name}: no image of that name beside it")
        # The last number of a name that has two counts the faces of a photo; dlib's archive adds mirrored copies.
        photo = re.sub(r"(?<=\d)_\d+$", "", pts.stem.removesuffix("_mirror"))
        return Sample(images[0], "ibug68", read_pts(pts), photo, set, images[0].name)

    return _collect(sorted(folder.glob("*.pts")), make)


def read_pts(path: Path) -> F32:
    """(68, 2) points of a .pts file, 0-based. Raises LivemarksError if it isn't one or has another count."""
    header, brace, rest = path.read_text("utf-8", errors="replace").partition("{")
    body, end, _ = rest.partition("}")
    declared = dict(re.findall(r"^\s*(\w+)\s*:\s*(\d+)\s*$", header, re.MULTILINE))
    if not (brace and end) or declared.get("version") != "1":
        raise LivemarksError(f"{path.name}: not a .pts file of version 1")
    if declared.get("n_points") != "68":
        raise LivemarksError(f"{path.name}: n_points is {declared.get('n_points', 'missing')}, not 68")
    return _points(body.split(), 68, path.name) - np.float32(1)  # MATLAB's first pixel is 1


# --- YouTube Faces, LFW ----------------------------------------------------------------------------------------------


def read_ytfaces(folder: Path) -> Read:
    """YouTube-Faces frames: `training_frames_keypoints.csv`, 0-based, and `training/`; PERSON_VF.jpg, video V, frame F.

    Samples of the people in `validation_people.txt`, if there is one, belong to the set "ytfaces-val". (The published
    test split shares every person with training.)
    """
    held_out_file = folder / "validation_people.txt"
    held_out = set(held_out_file.read_text("utf-8").split()) if held_out_file.is_file() else set()
    samples, problems = _read_csv68(folder / "training_frames_keypoints.csv", folder / "training", "ytfaces")
    return [replace(s, set="ytfaces-val") if s.person in held_out else s for s in samples], problems


def read_lfw_pseudo(folder: Path) -> Read:
    """LFW faces with pseudo-labels: `labels.csv`, 0-based, and `images/`; for pre-training, never for evidence."""
    return _read_csv68(folder / "labels.csv", folder / "images", "lfw-pseudo")


def _read_csv68(table: Path, images: Path, set: str) -> Read:
    """A csv with a header line, then the image's name and 136 numbers a row. PERSON_NUMBER.jpg names the person."""

    def make(row: list[str]) -> Sample:
        xy = _points(row[1:], 68, row[0])
        return Sample(images / row[0], "ibug68", xy, re.sub(r"_\d+$", "", Path(row[0]).stem), set, row[0])

    return _collect([row for row in list(read_rows(table))[1:] if row], make)


# --- IMM -------------------------------------------------------------------------------------------------------------


def read_imm(folder: Path) -> Read:
    """The IMM face database: NN-Vx.asf beside its .jpg; person NN is 1..40, view V 1..6.

    The .asf holds x / width and y / height. AAM-API, which wrote it, samples images at these products themselves, with
    pixel centres at integers; so they are taken as 0-based, and no half pixel is added.
    """

    def make(asf: Path) -> Sample:
        lines = [line.strip() for line in asf.read_text("utf-8", errors="replace").splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]  # count, points, image name
        count = len(imm58.SCHEME)
        if len(lines) != count + 2 or lines[0] != str(count):
            raise LivemarksError(f"{asf.name}: not an .asf file of {count} points")
        rows = [line.split() for line in lines[1:-1]]  # path, type, x, y, number, from, to; some files add three 0.00
        if any(len(row) not in (7, 10) for row in rows):
            raise LivemarksError(f"{asf.name}: a point's line has neither 7 nor 10 columns")
        relative = _points([value for row in rows for value in row[2:4]], count, asf.name)
        image = asf.parent / lines[-1]
        height, width = read_image(image).shape[:2]
        xy = relative * np.array([width, height], np.float32)
        return Sample(image, "imm58", xy, asf.stem.partition("-")[0], "imm", image.name)

    return _collect(sorted(folder.glob("*.asf")), make)


def to_nose1(xy58: NDArray[Any]) -> F32:
    """IMM's (..., 58, 2) points -> the nose tip alone, (..., 1, 2)."""
    return np.asarray(xy58[..., 52:53, :], np.float32)


# --- Kaggle Facial Keypoints Detection -------------------------------------------------------------------------------

KAGGLE_COLUMNS = [f"{point}_{axis}" for point in kaggle15.SCHEME.points for axis in "xy"]
_KAGGLE_SIDE = 96  # px


def read_kaggle(table: Path) -> Read:
    """Kaggle's training.csv (30 columns of x and y, then Image) or test.csv (ImageId, Image), 96x96 greys.

    A missing label is an empty cell: NaN in `xy`; training takes two points at least. Rows of test.csv carry no label
    and their ImageId as name.
    """
    header, *rows = list(read_rows(table)) or [[]]
    if header not in ([*KAGGLE_COLUMNS, "Image"], ["ImageId", "Image"]):
        raise LivemarksError(f"{table.name}: neither the columns of Kaggle's training.csv nor of its test.csv")
    labelled = header[0] != "ImageId"

    def make(numbered: tuple[int, list[str]]) -> Sample:
        line, row = numbered
        name = f"{table.name} line {line}"
        if len(row) != len(header):
            raise LivemarksError(f"{name}: {len(row)} cells, not {len(header)}")
        name = name if labelled else row[0]
        cells = [cell or "nan" for cell in row[:-1]] if labelled else ["nan"] * len(KAGGLE_COLUMNS)
        xy = _points(cells, len(kaggle15.SCHEME), name)
        missing = np.isnan(xy).any(axis=1)
        xy[missing] = np.nan  # half a point is no point
        known = int((~missing).sum())
        if labelled and known < 2:
            raise LivemarksError(f"{name}: {known} of {len(xy)} points are labelled; a face takes two")
        return Sample(_greys(row[-1], name), "kaggle15", xy, name, "kaggle", name)

    return _collect(enumerate(rows, 2), make)


def _greys(text: str, where: str) -> U8:
    try:
        values = np.array(text.split(), np.int64)
    except ValueError:
        raise LivemarksError(f"{where}: a grey is no whole number") from None
    if values.size != _KAGGLE_SIDE**2 or values.min() < 0 or values.max() > 255:
        raise LivemarksError(f"{where}: Image is not {_KAGGLE_SIDE**2} greys of 0..255")
    return values.astype(np.uint8).reshape(_KAGGLE_SIDE, _KAGGLE_SIDE)


def to_kaggle15(xy68: NDArray[Any]) -> F32:
    """iBUG's (..., 68, 2) points -> Kaggle's 15, (..., 15, 2). An eye's centre is the mean of its six lid points."""
    left, right = xy68[..., 42:48, :].mean(axis=-2), xy68[..., 36:42, :].mean(axis=-2)
    centers = np.stack([left, right], axis=-2)
    # corners: left inner, outer, right inner, outer; brows likewise; nose tip; mouth left, right, top, bottom
    others = xy68[..., [42, 45, 39, 36, 22, 26, 21, 17, 30, 54, 48, 51, 57], :]
    return np.concatenate([centers, others], axis=-2).astype(np.float32)


# Schemes whose points another scheme's labels tell: (from, to) -> the function that derives them.
DERIVED: dict[tuple[str, str], Callable[[NDArray[Any]], F32]] = {
    ("ibug68", "kaggle15"): to_kaggle15,
    ("imm58", "nose1"): to_nose1,
}


# --- sets by name ----------------------------------------------------------------------------------------------------

_READERS: dict[str, Callable[[Path], Read]] = {
    "helen-train": lambda folder: read_300w(folder, "helen-train"),
    "helen-test": lambda folder: read_300w(folder, "helen-test"),
    "lfpw-train": lambda folder: read_300w(folder, "lfpw-train"),
    "afw": lambda folder: read_300w(folder, "afw"),
    "ytfaces": read_ytfaces,
    "ytfaces-val": read_ytfaces,
    "lfw-pseudo": read_lfw_pseudo,
    "imm": read_imm,
    "kaggle": lambda folder: read_kaggle(folder / "training.csv"),
}

# Where each set may lie below the data folder; the first that exists is read.
PLACES: dict[str, tuple[str, ...]] = {
    "helen-train": ("300w/helen/trainset", "helen/trainset"),
    "helen-test": ("300w/helen/testset", "helen/testset"),
    "lfpw-train": ("300w/lfpw/trainset", "lfpw/trainset"),
    "afw": ("300w/afw", "afw"),
    "ytfaces": ("ytfaces68", "data", "."),  # the exercise's archive unpacks as data/
    "ytfaces-val": ("ytfaces68", "data", "."),
    "lfw-pseudo": ("lfw_pseudo68",),
    "imm": ("imm_face_db", "imm"),
    "kaggle": ("kaggle", "facial-keypoints-detection"),
}


def scheme_of(set: str) -> str:
    """Name of the scheme a set is labelled in. Raises LivemarksError, naming the known, if there is no such set."""
    if set not in PLACES:
        raise LivemarksError(f"no data set is called {set!r}; there are: {', '.join(sorted(PLACES))}")
    return {"imm": "imm58", "kaggle": "kaggle15"}.get(set, "ibug68")


def read_sets(data_dir: Path, names: Sequence[str]) -> Read:
    """The named sets, in order. Raises LivemarksError if a name is unknown, or its folder missing or without a face."""
    samples: list[Sample] = []
    problems: list[str] = []
    for name in names:
        scheme_of(name)  # an unknown set has none
        folder = next((data_dir / place for place in PLACES[name] if _holds(data_dir / place, name)), None)
        if folder is None:
            looked = " or ".join(PLACES[name])
            raise LivemarksError(f"data set {name} isn't in {data_dir}: put it into {looked} there")
        read, trouble = _READERS[name](folder)
        read = [sample for sample in read if sample.set == name]
        if not read:
            raise LivemarksError(f"data set {name}: {folder} holds no readable labelled face")
        samples += read
        problems += [f"{name}: {line}" for line in trouble]
    return samples, problems


def _holds(folder: Path, set: str) -> bool:
    table = {"ytfaces": "training_frames_keypoints.csv", "ytfaces-val": "training_frames_keypoints.csv"}.get(set)
    return (folder / table).is_file() if table else folder.is_dir()
