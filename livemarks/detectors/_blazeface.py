"""What both detectors share: when which of BlazeFace's two nets looks where, and what its squares say of a face.

BlazeFace (Bazarevsky et al., 2019). The *short range* net (128 px input) places a face well if the face fills a good
part of what it is shown, and is sure of it. On a small face it is neither: half of those at an eighth of the frame's
width score below 0.6, and lie off by half a face. The *full range* one (192 px) finds small faces, but places their
points worse and takes clouds for faces (0.69 in a clip without any). So small faces, whichever net proposed them, are
left to the short range net in a second stage, which is shown their spot alone. Every box returned is that net's, and
one map leads from its notion of a face to ours.

Figures: 300-W's training sets, each face pasted at several sizes, and a clip of clouds. `python bench/detector.py`
measures what comes of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from livemarks.geometry import iou, placed
from livemarks.types import F64, U8, Affine, FaceBox, Frame, LivemarksError

RANGES = ("auto", "short", "full")

_SHORT_NAME, _FULL_NAME = "face_detection_short_range", "face_detection_full_range_sparse"

# A large face is believed in the first stage from this score on: one of 2010 faces at half the frame's width misses it.
_SURE = 0.7
# Small ones, and what was seen less clearly, must reach this in the second stage. Of faces from 5 to 35 % of the
# frame's width 99.5 % do; of some 500 candidates among clouds none, their best is 0.68.
_SURE_REFINED = 0.75
# Least scores of candidates. Short range scores half of the faces at 12 % of the frame's width below the first, but
# below it clouds come to 0.78 in the second stage. Full range proposes 76 % of faces at 7 %; from 0.5 on, 42 %.
_SHORT_CANDIDATE, _FULL_CANDIDATE = 0.5, 0.2
# A face smaller than this, in longer sides of the image, passes both stages even if sure: its box gains 0.05 in IoU.
_LARGE = 0.25
# The second stage is shown this many times a candidate's own side, half of which its face fills.
_REFINE_SIDES = 2.0
# What a net is handed, px along the longer side. MediaPipe copies the image and converts all of it, 3 ms at 4K, before
# it reads at most 192 px of it; and it rounds boxes to whole pixels, which a tiny image can't afford.
_MIN_SIDE, _MAX_SIDE = 256, 640
# Two boxes that share more than this are the same face; MediaPipe's own rule among one net's boxes is 0.3.
SAME_FACE_IOU = 0.3
# Where full range finds nobody in the whole image, it looks at squares of this part of the longer side: two of a 16:9
# frame, four of a 4:3 one. If every face is wanted, at squares of a third: a face of 4 % fills an eighth of one.
# They overlap by the smallest face which a look at the whole image doesn't miss.
_TILE, _CROWD_TILE, _TILE_OVERLAP = 0.6, 1 / 3, 0.1
# Beyond a roll of 90 degrees the nets see few faces. So where nobody is seen, short range looks at the image turned by
# quarters: at a picture by all three, at a film by another one in each frame, which costs a tenth instead of a third.
# Frames less than a second apart are a film's. Turned clouds score up to 0.81; of 323 faces seen so, 90 % score more
# than this.
_SURE_TURNED = 0.83
_QUARTERS = (
    (cv2.ROTATE_180, math.pi),
    (cv2.ROTATE_90_COUNTERCLOCKWISE, math.pi / 2),
    (cv2.ROTATE_90_CLOCKWISE, -math.pi / 2),
)
_FILM_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """What a BlazeFace net sees: a square of `side` around center_xy, and points_xy (6, 2), all px of the image.

    The points: right eye, left eye, nose tip, mouth, right and left tragion (the ear's front); the subject's own sides.
    """

    score: float
    center_xy: F64
    side: float
    points_xy: F64

    @property
    def roll_rad(self) -> float:
        """Angle of the eye line."""
        dx, dy = (self.points_xy[1] - self.points_xy[0]).tolist()
        return math.atan2(dy, dx)

    def overlaps(self, other: Detection) -> bool:
        """Whether both must be the same face."""
        mine, others = (np.concatenate([s.center_xy - s.side / 2, s.center_xy + s.side / 2]) for s in (self, other))
        return float(iou(mine[None], others[None])[0, 0]) > SAME_FACE_IOU

    def moved(self, x: float, y: float) -> Detection:
        """The same from an image whose origin lies at -x, -y in this one."""
        shift = np.array([x, y])
        return Detection(self.score, self.center_xy + shift, self.side, self.points_xy + shift)

    def mapped(self, to_image: Affine) -> Detection:
        """The same from an image that lies so in this one: scaled, and turned by quarters."""
        center_xy = to_image(self.center_xy[None])[0]
        return Detection(self.score, center_xy, self.side * to_image.scale, to_image(self.points_xy))


class Net(Protocol):
    """One of the two nets: what it sees in a BGR image, best first. Of boxes that share SAME_FACE_IOU it gives one."""

    def __call__(self, image: U8) -> list[Detection]: ...

    def close(self) -> object: ...


class TwoStageDetector:
    """Finds faces at any distance.

    range: "short", for faces larger than about a fifth of the frame's longer side; "full", for those from a fifteenth
    on, and for most from a twentieth on if there are no larger ones; "auto", short range first, and full range where it
    finds fewer faces than wanted.

    Who lies on a side or is upside down is found where nobody else is seen: in a picture at once, in a film within
    three frames. So it remembers which quarter of a turn is next, and when it was last called.

    faces: how many are wanted; more are returned if they come for free. None: all, the small ones of a crowd too,
    whatever the time it takes; for photographs.

    open_net(name of the weights, least score) -> Net.
    """

    def __init__(self, open_net: Callable[[str, float], Net], range: str, faces: int | None) -> None:
        if range not in RANGES:
            raise LivemarksError(f"no detector range is called {range!r}; there are: {', '.join(RANGES)}")
        self._range = range
        self._faces = faces
        self._open_net = open_net
        self._short = open_net(_SHORT_NAME, _SHORT_CANDIDATE)
        self._full: Net | None = None  # made when first needed: 20 ms and 10 MB
        self._quarters = itertools.cycle(_QUARTERS)
        self._t_s = -math.inf

    def __call__(self, frame: Frame) -> tuple[FaceBox, ...]:
        in_film = 0 < frame.t_s - self._t_s < _FILM_S
        self._t_s = frame.t_s
        detections = self.detections(frame.image)
        if not detections:
            detections = self._turned_detections(frame.image, [next(self._quarters)] if in_film else _QUARTERS)
        boxes = [face_box(detection) for detection in detections]
        return tuple(sorted(boxes, key=lambda box: -box.score))

    def detections(self, image: U8) -> list[Detection]:
        """What is seen before it is mapped to our notion of a box, one a face."""
        detections = [] if self._range == "full" else self._short_detections(image)
        if self._range != "short" and self._wants_more(detections):
            self._refine(image, self._far_candidates(image, 1.0), detections)
            if self._faces is None:
                self._refine(image, self._far_candidates(image, _CROWD_TILE), detections)
            elif not detections:
                self._refine(image, self._far_candidates(image, _TILE), detections)
        return detections

    def _turned_detections(self, image: U8, quarters: Sequence[tuple[int, float]]) -> list[Detection]:
        """What short range sees in the image turned by these quarters, there and back: (cv2.rotate's code, radians)."""
        height, width = image.shape[:2]
        small, scale = handed(image)
        detections: list[Detection] = []
        for rotate_code, roll_rad in quarters:
            turned = np.asarray(cv2.rotate(small, rotate_code), np.uint8)
            middle_xy = (width - 1) / 2, (height - 1) / 2
            to_image = placed(turned.shape[:2], middle_xy, 1 / scale, roll_rad)
            sure = [found for found in self._short_detections(turned) if found.score >= _SURE_TURNED]
            seen = [found.mapped(to_image) for found in sure]
            detections += [
                detection for detection in seen if not any(detection.overlaps(other) for other in detections)
            ]
        return detections

    def _short_detections(self, image: U8) -> list[Detection]:
        """What short range is sure of, in the first stage or the second."""
        large = _LARGE * max(image.shape[:2])
        candidates = self._short(image)
        detections = [detection for detection in candidates if detection.score >= _SURE and detection.side >= large]
        self._refine(image, [detection for detection in candidates if detection not in detections], detections)
        return detections

    def close(self) -> None:
        """Frees both nets; more than once does no harm."""
        self._short.close()
        if self._full is not None:
            self._full.close()

    def _wants_more(self, detections: list[Detection]) -> bool:
        return self._faces is None or len(detections) < self._faces

    def _far_candidates(self, image: U8, tile: float) -> list[Detection]:
        """Where full range, shown squares of that part of the image, thinks there might be faces; best first."""
        if self._full is None:
            self._full = self._open_net(_FULL_NAME, _FULL_CANDIDATE)
        candidates = []
        for x1, y1, x2, y2 in _tiles(image.shape[1], image.shape[0], tile):
            candidates += [candidate.moved(x1, y1) for candidate in self._full(image[y1:y2, x1:x2])]
        return sorted(candidates, key=lambda candidate: -candidate.score)

    def _refine(self, image: U8, candidates: list[Detection], detections: list[Detection]) -> None:
        """The second stage: adds what short range is sure of at each candidate, until there are enough `detections`."""
        for candidate in candidates:
            if not self._wants_more(detections):
                return
            reach = candidate.side * _REFINE_SIDES / 2
            x1, y1 = np.maximum(candidate.center_xy - reach, 0).astype(int).tolist()
            x2, y2 = np.maximum(candidate.center_xy + reach + 1, 0).astype(int).tolist()
            part = image[y1:y2, x1:x2]
            if part.size == 0 or any(candidate.overlaps(detection) for detection in detections):
                continue
            sure = [found.moved(x1, y1) for found in self._short(part) if found.score >= _SURE_REFINED]
            near = [found for found in sure if np.abs(found.center_xy - candidate.center_xy).max() < candidate.side / 2]
            new = [found for found in near if not any(found.overlaps(detection) for detection in detections)]
            detections += new[:1]


def handed(image: U8) -> tuple[U8, float]:
    """The image as a net is handed it, and how many times as large it is."""
    height, width = image.shape[:2]
    longer = max(height, width)
    scale = min(max(longer, _MIN_SIDE), _MAX_SIDE) / longer
    if scale == 1.0:
        return image, scale
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_LINEAR), np.uint8), scale


def _tiles(width: int, height: int, tile: float) -> Iterator[tuple[int, int, int, int]]:
    """Overlapping squares of that part of the longer side that cover an image: left, top, right, bottom."""
    longer = max(width, height)
    side, step = longer * tile, longer * (tile - _TILE_OVERLAP)

    def starts(length: int) -> list[int]:
        count = max(1, math.ceil((length - side) / step) + 1)
        return [round(start) for start in np.linspace(0, max(length - side, 0), count).tolist()]

    for y in starts(height):
        for x in starts(width):
            yield x, y, x + math.ceil(side), y + math.ceil(side)


# --- From BlazeFace's notion of a face to ours ------------------------------------------------------------------------

# The tight box of the 68 points, in the face's own axes, in sides of BlazeFace's square and from its centre: centre x,
# then a row each for centre y, width and height, linear in what `features` lists, so that a mirrored face gets the
# mirrored box. Fitted by `python bench/detector.py --part fit` on 300-W's training sets: of held-out faces, the box
# shares 0.89 (IoU) with the one of the labels, BlazeFace's own square 0.78.
_CENTER_X = np.array([1.284, -0.914, 0.355, 0.086])
_REST = np.array(
    [
        [0.074, -0.408, 0.34, 0.541, -0.106, 0.469, -0.039],
        [-2.13, 2.478, -2.006, 0.927, 1.887, -0.836, 0.461],
        [-0.72, -0.781, -1.846, 2.914, 0.3, 0.047, 0.16],
    ]
)


def features(detection: Detection) -> tuple[F64, F64]:
    """What the map of a face's box is made of: (4,) numbers that flip sign in the mirror, and (7,) that don't."""
    cos, sin = math.cos(detection.roll_rad), math.sin(detection.roll_rad)
    own = (detection.points_xy - detection.center_xy) @ np.array([[cos, -sin], [sin, cos]]) / detection.side
    eyes, nose, mouth, ears = (own[0] + own[1]) / 2, own[2], own[3], (own[4] + own[5]) / 2
    eye_span, ear_span = own[1, 0] - own[0, 0], own[5, 0] - own[4, 0]
    odd = np.array([eyes[0], nose[0], mouth[0], ears[0]])
    even = np.array([eye_span, eyes[1], nose[1], mouth[1], ear_span, ears[1], 1.0])
    return odd, even


def face_box(detection: Detection) -> FaceBox:
    """The tight box of the face's landmarks, turned along its eye line."""
    odd, even = features(detection)
    x = float(_CENTER_X @ odd)
    y, width, height = (_REST @ even).tolist()
    cos, sin = math.cos(detection.roll_rad), math.sin(detection.roll_rad)
    center_xy = detection.center_xy + detection.side * np.array([cos * x - sin * y, sin * x + cos * y])
    half_wh = detection.side * np.maximum((width, height), 0.1) / 2  # no face is that slim: six odd points, one odd box
    return FaceBox(np.concatenate([center_xy - half_wh, center_xy + half_wh]), detection.score, detection.roll_rad)
