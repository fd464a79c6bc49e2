"""Labelled faces as square canvases in memory, and one file that carries them to another machine.

A canvas is cut with `geometry`'s own crop around the tight box of the labels, upright along the picture's axes, wide
enough that training can shift, turn and scale its crops inside. Beyond the picture it is black, as live crops are.

    python -m livemarks.train.pack --data DIR --sets helen-train,lfpw-train,afw --canvas 256 --quality 88 --out w300.npz
"""

from __future__ import annotations

import argparse
import math
import sys
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from livemarks import plugins
from livemarks.geometry import box_from_points, crop_affine, face_crop
from livemarks.numbers import within
from livemarks.sinks._output import Draft
from livemarks.train._files import whole
from livemarks.train.samples import Sample, read_sets
from livemarks.types import F32, U8, FaceBox, LivemarksError

CANVAS_PX = 192
CANVAS_MARGIN = 2.0  # canvas side over the longer side of the labels' tight box

# 300-W does not tell who is who, and LFPW's training set has photographs under several names: 102 of its 803 faces.
# Middles of canvases that correlate more than this show one photograph: when it was chosen, all 105 such pairs did.
_TWIN_CORRELATION = 0.94
_NAMELESS_SETS = ("helen-train", "helen-test", "lfpw-train", "afw")


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """n labelled faces of one scheme.

    canvases: (n, C, C, 3) uint8 BGR. xy: (n, N, 2) float32 canvas px; NaN where a label is missing.
    persons, sets, names: (n,) str, as `samples.Sample` says. scheme: its name.
    """

    canvases: U8
    xy: F32
    persons: tuple[str, ...]
    sets: tuple[str, ...]
    names: tuple[str, ...]
    scheme: str

    def __post_init__(self) -> None:
        n, points = len(self.names), len(plugins.load("schemes", self.scheme))
        if self.canvases.shape[:1] + self.canvases.shape[3:] != (n, 3) or self.canvases.dtype != np.uint8:
            raise ValueError(f"canvases must be ({n}, C, C, 3) uint8, not {self.canvases.shape} {self.canvases.dtype}")
        if self.xy.shape != (n, points, 2) or not len(self.persons) == len(self.sets) == n:
            raise ValueError(f"{n} faces of {points} points, but xy is {self.xy.shape}")

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Faces(n={len(self)}, canvas={self.canvases.shape[2]} px, {self.scheme}, {sorted(set(self.sets))})"

    def select(self, indices: Sequence[int]) -> Faces:
        """The faces at these indices, in that order; pixels are copied."""
        picked = list(indices)
        return Faces(
            self.canvases[picked],
            self.xy[picked],
            tuple(self.persons[i] for i in picked),
            tuple(self.sets[i] for i in picked),
            tuple(self.names[i] for i in picked),
            self.scheme,
        )


def whole_picture(image: U8, margin: float) -> FaceBox:
    """The box whose crop at that margin shows a whole picture that is a face crop already."""
    height, width = image.shape[:2]
    center_xy = np.array([width - 1, height - 1], np.float32) / 2
    half = max(width, height) / margin / 2
    return FaceBox(np.concatenate([center_xy - half, center_xy + half]))


def canvas_of(sample: Sample, canvas_px: int, canvas_margin: float) -> tuple[U8, F32]:
    """The (C, C, 3) canvas of one face, and its (N, 2) points in canvas px."""
    image = sample.read()
    if sample.set == "kaggle":  # its pictures are crops already, and points may be missing: show the whole picture
        box = whole_picture(image, canvas_margin)
    else:
        box = box_from_points(sample.xy, plugins.load("schemes", sample.scheme), upright=True)
    to_image = crop_affine(box, (canvas_px, canvas_px), canvas_margin)
    # Bilinear sampling alone would alias wherever the canvas shrinks the picture. Sampling at k times the size, at most
    # one image pixel apart, and averaging k x k is the exact area average, and keeps pixel centres where they are.
    k = max(1, math.ceil(to_image.scale))
    canvas = face_crop(image, box, (k * canvas_px, k * canvas_px), canvas_margin).image
    if k > 1:
        canvas = np.asarray(cv2.resize(canvas, (canvas_px, canvas_px), interpolation=cv2.INTER_AREA), np.uint8)
    return canvas, to_image.inverse()(sample.xy).astype(np.float32)


def cut(samples: Sequence[Sample], canvas_px: int = CANVAS_PX, canvas_margin: float = CANVAS_MARGIN) -> Faces:
    """The canvases of all samples, which must share one scheme. Takes 3 * canvas_px**2 bytes a face."""
    schemes = {sample.scheme for sample in samples}
    if len(schemes) != 1:
        raise LivemarksError(f"sets labelled in different schemes can't be mixed: {', '.join(sorted(schemes))}")
    with ThreadPoolExecutor() as pool:
        cuts = list(pool.map(lambda sample: canvas_of(sample, canvas_px, canvas_margin), samples))
    canvases = np.stack([canvas for canvas, _ in cuts])
    return Faces(
        canvases,
        np.stack([xy for _, xy in cuts]),
        _join_twins(canvases, samples),
        tuple(s.set for s in samples),
        tuple(s.name for s in samples),
        schemes.pop(),
    )


def _join_twins(canvases: U8, samples: Sequence[Sample]) -> tuple[str, ...]:
    """Each sample's person, one and the same for pictures made from one photograph, so that no split parts them."""
    persons = [sample.person for sample in samples]
    nameless = [i for i, sample in enumerate(samples) if sample.set in _NAMELESS_SETS]
    if not nameless:
        return tuple(persons)
    quarter = canvases.shape[1] // 4
    middles = canvases[nameless, quarter:-quarter, quarter:-quarter].mean(axis=3)
    small = np.stack([cv2.resize(middle, (24, 24), interpolation=cv2.INTER_AREA).reshape(-1) for middle in middles])
    small -= small.mean(axis=1, keepdims=True)
    small /= np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)  # (n, 576)
    for a, b in np.argwhere(np.triu(small @ small.T, 1) > _TWIN_CORRELATION).tolist():
        keep, give_up = persons[nameless[a]], persons[nameless[b]]
        persons = [keep if person == give_up else person for person in persons]
    return tuple(persons)


def load_faces(
    data: Path, sets: Sequence[str] = (), canvas_px: int = CANVAS_PX, canvas_margin: float = CANVAS_MARGIN
) -> tuple[Faces, list[str]]:
    """Faces of the named sets, from a data folder (see `samples.read_sets`) or a pack file, and the problems met.

    A pack keeps the canvas it was cut with; no `sets` means all it holds. Raises LivemarksError as `read_sets` does.
    """
    if data.is_dir():
        samples, problems = read_sets(data, sets)
        return cut(samples, canvas_px, canvas_margin), problems
    faces = read_pack(data)
    missing = sorted(set(sets) - set(faces.sets))
    if missing:
        raise LivemarksError(f"{data.name} holds {', '.join(sorted(set(faces.sets)))}, but not {', '.join(missing)}")
    return (faces.select([i for i, s in enumerate(faces.sets) if s in sets]) if sets else faces), []


def write_pack(path: Path, faces: Faces, quality: int = 88) -> None:
    """All faces in one .npz: canvases as JPEG, one after the other (grey ones with one channel), and their labels.

    Raises LivemarksError, and leaves an earlier file as it was, if it can't be written.
    """
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]

    def encode(canvas: U8) -> U8:
        grey = bool((canvas == canvas[:, :, :1]).all())
        image = np.ascontiguousarray(canvas[:, :, 0]) if grey else canvas
        return np.asarray(cv2.imencode(".jpg", image, flags)[1], np.uint8)

    with ThreadPoolExecutor() as pool:
        jpegs = list(pool.map(encode, faces.canvases))
    with whole(path) as out:
        np.savez_compressed(  # names and points shrink; the JPEGs do not
            out,
            jpegs=np.concatenate(jpegs),
            ends=np.cumsum([len(jpeg) for jpeg in jpegs]),
            xy=faces.xy,
            persons=np.array(faces.persons),
            sets=np.array(faces.sets),
            names=np.array(faces.names),
            scheme=np.array(faces.scheme),
        )


def read_pack(path: Path) -> Faces:
    """What `write_pack` wrote, but for JPEG's losses. Raises LivemarksError if it isn't such a file, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as pack:
            jpegs, ends, xy = pack["jpegs"], pack["ends"], pack["xy"]
            persons, sets, names = (tuple(pack[key].tolist()) for key in ("persons", "sets", "names"))
            scheme = str(pack["scheme"])
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(lambda jpeg: cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.split(jpegs, ends[:-1]))
            canvases = np.stack([np.asarray(canvas, np.uint8) for canvas in decoded])
        faces = Faces(canvases, xy, persons, sets, names, scheme)
        if np.isinf(xy).any() or np.isnan(xy).any(axis=2).all(axis=1).any():
            raise ValueError("a face in it has no labels")
    except FileNotFoundError:
        raise LivemarksError(f"{path}: no such data folder or pack file") from None
    except Exception as error:  # NumPy, zipfile and OpenCV let through whatever their parsers meet
        raise LivemarksError(f"{path}: not a pack file, or damaged; make it anew with livemarks.train.pack") from error
    return faces


def is_pack(path: Path) -> bool:
    """Whether a file is a pack, or may be a damaged one: False of archives that are whole and hold something else."""
    try:
        with zipfile.ZipFile(path) as archive:
            return not {"jpegs.npy", "ends.npy"}.isdisjoint(archive.namelist())
    except Exception:  # zipfile lets through whatever its parser meets
        return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Packs what the arguments name; 2, and one line, if that can't be."""
    parser = argparse.ArgumentParser(
        prog="python -m livemarks.train.pack", description="Packs labelled faces in one file."
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the data sets")
    parser.add_argument("--sets", required=True, help="names, separated by commas")
    parser.add_argument(
        "--canvas", type=within(int, 16, 1024), default=CANVAS_PX, metavar="PX", help="side of a canvas (%(default)s)"
    )
    parser.add_argument(
        "--margin", type=within(float, 0.5, 10), default=CANVAS_MARGIN, help="canvas side over face box (%(default)s)"
    )
    parser.add_argument("--quality", type=within(int, 1, 100), default=88, help="of the JPEGs (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    options = parser.parse_args(arguments)
    try:
        Draft(str(options.out), None).drop()  # whether it can be written, before any work
        faces, problems = load_faces(options.data, options.sets.split(","), options.canvas, options.margin)
        write_pack(options.out, faces, options.quality)
    except (LivemarksError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(f"{options.out}: {faces}, {options.out.stat().st_size / 2**20:.1f} MiB, {len(problems)} faces left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
