"""Hard cases, each by itself: which labelled faces are hard, and how easy ones are made so; for bench/accuracy.py.

Turned heads and closed eyes are told by the labels. The others are made: each labelled face is set into the middle of a
webcam's frame, and that is spoilt by one thing, with random numbers that depend on the face's place in its set alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from _faces import LOW_PRESENCE, Answers, Detect, Truth, best_overlap, score, watched
from rich.table import Table

from livemarks.geometry import box_from_points, resample
from livemarks.landmarker import Landmarker
from livemarks.types import F64, U8, Affine, FaceBox, Frame, Landmarks

SIZE_WH = (640, 360)
_INTEROCULAR_PX = 60.0  # a face at arm's length before a webcam
_RIGHT_EYE, _LEFT_EYE = 36, 42  # where each eye's six points begin: outer or inner corner, two above, corner, two below
_OUTER_CORNERS, _NOSE_TIP = (36, 45), 30
# How far the nose's tip stands out before the outer eye corners, in halves of their distance. Fitted on the labels of
# 300-W's training sets (2010 faces): a turn of tan(yaw) = shift / 0.93 explains best by how much eyes narrow (cos yaw)
# against the height from eyes to mouth.
_NOSE_DEPTH = 0.93
_PROFILE_DEG, _TURNED_DEG = 45.0, 30.0
_MOST_ROLL_OFF_RAD = math.radians(45)  # a crop that is turned further shows a net nothing that it knows
_CLOSED = 0.2  # aspect ratio of a closed eye (Soukupova and Cech, 2016)

Random = np.random.Generator


def yaw_deg(xy: F64) -> float:
    """How far a head with these 68 labels is turned to either side, by its nose's shift between the eye corners."""
    right, left = xy[list(_OUTER_CORNERS)]
    across = left - right
    shift = 2 * float((xy[_NOSE_TIP] - (right + left) / 2) @ across) / float(across @ across)
    return math.degrees(math.atan(abs(shift) / _NOSE_DEPTH))


def eye_aspect(xy: F64) -> float:
    """Height over width of both eyes' openings, their mean."""
    ratios = []
    for first in (_RIGHT_EYE, _LEFT_EYE):
        eye = xy[first : first + 6]
        height = np.linalg.norm(eye[[1, 2]] - eye[[5, 4]], axis=1).mean()
        ratios.append(float(height / np.linalg.norm(eye[3] - eye[0])))
    return sum(ratios) / 2


# --- what spoils a picture: (image, points, random) -> image ----------------------------------------------------------


def _hand(image: U8, xy: F64, random: Random) -> U8:
    """A hand of the face's own colour, palm and five spread fingers, before a random one of the face's points.

    As in people, it is about as wide as the eyes are apart.
    """
    unit = float(np.linalg.norm(xy[_OUTER_CORNERS[1]] - xy[_OUTER_CORNERS[0]]))
    palm = xy[random.integers(len(xy))]
    upward = -math.pi / 2 + random.uniform(-1, 1)
    hand = np.zeros(image.shape[:2], np.uint8)

    def at(angle: float, reach: float) -> tuple[int, int]:
        x, y = palm + reach * unit * np.array([math.cos(angle), math.sin(angle)])
        return round(float(x)), round(float(y))

    axes = (round(0.55 * unit), round(0.45 * unit))
    cv2.ellipse(hand, at(0, 0), axes, math.degrees(upward), 0, 360, 255, -1)
    for angle, reach in ((-0.42, 1.25), (-0.14, 1.4), (0.14, 1.35), (0.42, 1.15), (1.15, 0.9)):
        cv2.line(hand, at(upward + 0.7 * angle, 0.3), at(upward + angle, reach), 255, max(1, round(0.2 * unit)))
    face = np.zeros_like(hand)
    cv2.fillConvexPoly(face, np.rint(cv2.convexHull(xy.astype(np.float32))).astype(np.int32), 255)
    colour = np.median(image[face > 0], axis=0) * random.uniform(0.75, 1.05)
    cover = cv2.GaussianBlur(hand, (0, 0), 1.0)[..., None] / 255
    return _to_u8(image + cover * (colour + random.normal(size=image.shape) * 4 - image))


def _low_light(image: U8, _xy: F64, random: Random) -> U8:
    """A tenth of the light: shot noise (its root) and the camera's own, both raised by a gain of 2.5."""
    light = image * 0.1
    return _to_u8(2.5 * (light + random.normal(size=image.shape) * np.sqrt(light + 4)))


def _motion(image: U8, xy: F64, random: Random) -> U8:
    """The camera moved by a quarter of the eyes' distance in some direction while the picture was taken."""
    reach = 0.25 * float(np.linalg.norm(xy[_OUTER_CORNERS[1]] - xy[_OUTER_CORNERS[0]]))
    angle = random.uniform(0, math.pi)
    half = math.ceil(reach / 2) + 1
    dy, dx = np.mgrid[-half : half + 1, -half : half + 1]
    along, across = dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)
    line = np.clip(reach / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(across), 0, 1)
    return np.asarray(cv2.filter2D(image, -1, line / line.sum(), borderType=cv2.BORDER_REPLICATE), np.uint8)


def _noise(image: U8, _xy: F64, random: Random) -> U8:
    return _to_u8(image + random.normal(size=image.shape) * 25)


def _jpeg(image: U8, _xy: F64, _random: Random) -> U8:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 10])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _as_it_is(image: U8, _xy: F64, _random: Random) -> U8:
    return image


def _to_u8(values: F64) -> U8:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


# --- slices ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slice:
    """A hard case. holds: whether a face with these labels belongs to it. roll_deg: how far the picture is turned."""

    name: str
    holds: Callable[[F64], bool] = lambda _: True
    spoil: Callable[[U8, F64, Random], U8] = _as_it_is
    interocular_px: float = _INTEROCULAR_PX
    roll_deg: float = 0.0


SLICES = (
    Slice("none of them", lambda xy: yaw_deg(xy) < _TURNED_DEG and eye_aspect(xy) >= _CLOSED),
    Slice("turned 30 to 45 degrees", lambda xy: _TURNED_DEG <= yaw_deg(xy) < _PROFILE_DEG),
    Slice("profile, over 45 degrees", lambda xy: yaw_deg(xy) >= _PROFILE_DEG),
    Slice("eyes closed", lambda xy: eye_aspect(xy) < _CLOSED),
    Slice("all, before a webcam"),
    Slice("a hand before the face", spoil=_hand),
    Slice("low light", spoil=_low_light),
    Slice("motion blur", spoil=_motion),
    Slice("camera noise", spoil=_noise),
    Slice("JPEG, quality 10", spoil=_jpeg),
    Slice("small: eyes 20 px apart", interocular_px=20.0),
    Slice("far: eyes 12 px apart", interocular_px=12.0),
    Slice("on a side: rolled by 90 degrees", roll_deg=90.0),
    Slice("rolled by 135 degrees", roll_deg=135.0),
    Slice("upside down", roll_deg=180.0),
)


def view(image: U8, face: Truth, interocular_px: float, roll_deg: float = 0.0) -> tuple[U8, F64]:
    """The frame with the face in its middle, clockwise by roll_deg, and the labels there."""
    scale, roll_rad = interocular_px / face.interocular_px, math.radians(roll_deg)
    cos, sin = scale * math.cos(roll_rad), scale * math.sin(roll_rad)
    turn = np.array([[cos, -sin], [sin, cos]])
    middle = face.xy.astype(np.float64).mean(axis=0)
    place = Affine(np.column_stack([turn, np.array(SIZE_WH) / 2 - turn @ middle]))
    return resample(image, place.inverse(), SIZE_WH[::-1]), place(face.xy.astype(np.float64))


def measure(landmarker: Landmarker, faces: Sequence[Truth], detect: Detect) -> Iterator[dict[str, Any]]:
    """One row for each slice that holds a face: errors, how often the detector misses and a track would be lost.

    Points are those of a track that goes well: cut once around the label's box, once more around what was found there.
    missed: faces that no box of the detector's lies on, or one that is rolled by 45 degrees too much or too little.
    lost: presence so low that a track isn't shown.
    """
    seen: dict[str, list[tuple[Truth, Landmarks, bool]]] = {case.name: [] for case in SLICES}
    for i, face in enumerate(watched(faces, "hard cases")):
        image = face.sample.read()
        for case in SLICES:
            if not case.holds(face.xy.astype(np.float64)):
                continue
            frame, true = view(image, face, case.interocular_px, case.roll_deg)
            frame = case.spoil(frame, true, np.random.default_rng(i))
            box = box_from_points(true, landmarker.scheme, upright=case.roll_deg == 0)
            missed = _misses(detect(Frame(frame, i, float(i))), box_from_points(true, landmarker.scheme))
            (first,) = landmarker(frame, [box])
            (found,) = landmarker(frame, [box_from_points(first.xy, landmarker.scheme)])
            there = Truth(face.sample, true.astype(np.float32), case.interocular_px)
            seen[case.name].append((there, found, missed))
    for name, rows in seen.items():
        if rows:
            yield {"slice": name} | _row([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def _misses(boxes: Sequence[FaceBox], wanted: FaceBox) -> bool:
    i = best_overlap(boxes, wanted)
    return i is None or math.cos(boxes[i].roll_rad - wanted.roll_rad) < math.cos(_MOST_ROLL_OFF_RAD)


def _row(faces: Sequence[Truth], found: Sequence[Landmarks], missed: Sequence[bool]) -> dict[str, Any]:
    presence = np.array([landmarks.presence for landmarks in found])
    xy, sigma = np.stack([points.xy for points in found]), np.stack([points.sigma for points in found])
    answers = Answers(xy.astype(np.float64), sigma.astype(np.float64), presence)
    scores = score(answers, faces, found[0].scheme.name)
    row = {
        "faces": len(faces),
        "missed": sum(missed) / len(faces),
        "lost": float((presence < LOW_PRESENCE).mean()),
    }
    return row | {key: scores[key] for key in ("nme_percent", "median_percent", "failures_10", "sigma_coverage")}


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows as people read them."""
    headings = ("model", "set", "slice", "faces", "missed", "lost", "NME", "median", ">10 %", "1 sigma", "2 sigma")
    result = Table(
        title="Hard cases: faces that the detector misses and that a track would lose; errors in % of the outer eye"
        " corners' distance; share of coordinates within 1 and 2 sigma (a Gaussian's: 68, 95 %)"
    )
    for heading in headings:
        result.add_column(heading, justify="left" if heading in ("model", "set", "slice") else "right")
    for row in rows:
        values = (row["missed"], row["lost"], row["nme_percent"], row["median_percent"], row["failures_10"])
        forms = (".1%", ".1%", ".2f", ".2f", ".1%")
        cells = [format(value, form) for value, form in zip(values, forms, strict=True)]
        cells += [f"{share:.0%}" for share in row["sigma_coverage"]["all"]]
        result.add_row(row["model"], row["set"], row["slice"], str(row["faces"]), *cells)
    return result
