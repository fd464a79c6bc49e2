"""BlazeFace (Bazarevsky et al., 2019), run by MediaPipe's face detector task.

Two nets share the work. The *short range* one (128 px input) places a face well if the face fills a good part of what
it is shown, and is sure of it. On a small face it is neither: half of those at an eighth of the frame's width score
below 0.6, and lie off by half a face. The *full range* one (192 px) finds small faces, but places their points worse
and takes clouds for faces (0.69 in a clip without any). So small faces, whichever net glanced at them, get a closer
look by the short range net at their spot alone. Every box returned is that net's, and one map leads from its notion of
a face to ours.

Figures: 300-W's training sets, each face pasted at several sizes, and a clip of clouds. `python bench/detector.py`
measures what comes of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions
from mediapipe.tasks.python.vision import FaceDetector, FaceDetectorOptions

from livemarks import weights
from livemarks.geometry import iou
from livemarks.types import F64, U8, FaceBox, Frame, LivemarksError

RANGES = ("auto", "short", "full")

_SHORT_FILE = "face_detection_short_range.tflite"
_FULL_FILE = "face_detection_full_range_sparse.tflite"

# A large face is believed at first glance from this score on: one of 2010 faces at half the frame's width misses it.
_SURE = 0.7
# Small ones, and what was seen less clearly, must reach this on a closer look. Of faces from 5 to 35 % of the frame's
# width 99.5 % do; of some 500 glances at clouds none, their best is 0.68.
_SURE_CLOSER = 0.75
# Glances worth a closer look. Short range scores half of the faces at 12 % of the frame's width below the first, but
# below it clouds come to 0.78 on a closer look. Full range glances at 76 % of faces at 7 %; from 0.5 on, at 42 %.
_SHORT_GLANCE, _FULL_GLANCE = 0.5, 0.2
# A face smaller than this, in longer sides of the image, is looked at again even if sure: its box gains 0.05 in IoU.
_LARGE = 0.25
# A glance is followed by a closer look within this many times its own side, which makes its face fill half of the look.
_LOOK_SIDES = 2.0
# What the nets are handed, px along the longer side. MediaPipe copies the image and converts all of it, 3 ms at 4K,
# before it reads at most 192 px of it; and it rounds boxes to whole pixels, which a tiny image can't afford.
_MIN_SIDE, _MAX_SIDE = 256, 640
# Two boxes that share more than this are the same face; MediaPipe's own rule among one net's boxes is 0.3.
_SAME_FACE_IOU = 0.3
# When every face is wanted: squares of a third of the longer side, so that a face of 4 % of it fills an eighth of one.
# They overlap by the smallest face which a look at the whole image doesn't miss.
_TILE, _TILE_OVERLAP = 1 / 3, 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
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

    def overlaps(self, other: Sight) -> bool:
        """Whether both must be the same face."""
        mine, others = (np.concatenate([s.center_xy - s.side / 2, s.center_xy + s.side / 2]) for s in (self, other))
        return float(iou(mine[None], others[None])[0, 0]) > _SAME_FACE_IOU

    def moved(self, x: float, y: float) -> Sight:
        """The same from an image whose origin lies at -x, -y in this one."""
        shift = np.array([x, y])
        return Sight(self.score, self.center_xy + shift, self.side, self.points_xy + shift)


class Detector:
    """Finds faces at any distance.

    range: "short", for faces larger than about a fifth of the frame's longer side; "full", for those from a fifteenth
    on; "auto", short range first, and full range where it finds fewer faces than wanted.
    faces: how many are wanted; more are returned if they come for free. None: all, the small ones of a crowd too,
    whatever the time it takes; for photographs.

    A frame costs about 2 ms on one core, 5 ms more where full range is asked, and 2 ms more for each closer look.
    """

    def __init__(self, range: str = "auto", faces: int | None = 1) -> None:
        if range not in RANGES:
            raise LivemarksError(f"no detector range is called {range!r}; there are: {', '.join(RANGES)}")
        self._range = range
        self._faces = faces
        self._short = BlazeFace(_SHORT_FILE, _SHORT_GLANCE)
        self._full: BlazeFace | None = None  # made when first needed: 20 ms and 10 MB

    def __call__(self, frame: Frame) -> tuple[FaceBox, ...]:
        boxes = [face_box(sight) for sight in self.sights(frame.image)]
        return tuple(sorted(boxes, key=lambda box: -box.score))

    def sights(self, image: U8) -> list[Sight]:
        """What is seen before it is mapped to our notion of a box, one sight a face."""
        large = _LARGE * max(image.shape[:2])
        glances = [] if self._range == "full" else self._short(image)
        sights = [sight for sight in glances if sight.score >= _SURE and sight.side >= large]
        self._look_closer(image, [sight for sight in glances if sight not in sights], sights)
        if self._range != "short" and self._wants_more(sights):
            self._look_closer(image, self._far_glances(image), sights)
        return sights

    def close(self) -> None:
        """Frees both nets; more than once does no harm."""
        self._short.close()
        if self._full is not None:
            self._full.close()

    def _wants_more(self, sights: list[Sight]) -> bool:
        return self._faces is None or len(sights) < self._faces

    def _far_glances(self, image: U8) -> list[Sight]:
        """Where full range thinks there might be faces, best first."""
        if self._full is None:
            self._full = BlazeFace(_FULL_FILE, _FULL_GLANCE)
        glances = self._full(image)
        if self._faces is None:
            for x1, y1, x2, y2 in _tiles(image.shape[1], image.shape[0]):
                glances += [glance.moved(x1, y1) for glance in self._full(image[y1:y2, x1:x2])]
        return sorted(glances, key=lambda glance: -glance.score)

    def _look_closer(self, image: U8, glances: list[Sight], sights: list[Sight]) -> None:
        """Adds to `sights` what short range is sure of on a closer look at each glance, until enough are found."""
        for glance in glances:
            if not self._wants_more(sights):
                return
            reach = glance.side * _LOOK_SIDES / 2
            x1, y1 = np.maximum(glance.center_xy - reach, 0).astype(int).tolist()
            x2, y2 = np.maximum(glance.center_xy + reach + 1, 0).astype(int).tolist()
            part = image[y1:y2, x1:x2]
            if part.size == 0 or any(glance.overlaps(sight) for sight in sights):
                continue
            looks = [look.moved(x1, y1) for look in self._short(part) if look.score >= _SURE_CLOSER]
            near = [look for look in looks if np.abs(look.center_xy - glance.center_xy).max() < glance.side / 2]
            new = [look for look in near if not any(look.overlaps(sight) for sight in sights)]
            sights += new[:1]


def _tiles(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Overlapping squares that cover an image: left, top, right, bottom."""
    longer = max(width, height)
    side, step = longer * _TILE, longer * (_TILE - _TILE_OVERLAP)

    def starts(length: int) -> list[int]:
        count = max(1, math.ceil((length - side) / step) + 1)
        return [round(start) for start in np.linspace(0, max(length - side, 0), count).tolist()]

    for y in starts(height):
        for x in starts(width):
            yield x, y, x + math.ceil(side), y + math.ceil(side)


# --- From BlazeFace's notion of a face to ours ------------------------------------------------------------------------

# The tight box of the 68 points, in the face's own axes, in sides of BlazeFace's square and from its centre: centre x,
# then a row each for centre y, width and height, linear in what `features` lists, so that a mirrored face gets the
# mirrored box. Fitted by `python bench/detector.py --fit` on 300-W's training sets: of held-out faces, the box shares
# 0.89 (IoU) with the one of the labels, BlazeFace's own square 0.78.
_CENTER_X = np.array([1.284, -0.914, 0.355, 0.086])
_REST = np.array(
    [
        [0.074, -0.408, 0.34, 0.541, -0.106, 0.469, -0.039],
        [-2.13, 2.478, -2.006, 0.927, 1.887, -0.836, 0.461],
        [-0.72, -0.781, -1.846, 2.914, 0.3, 0.047, 0.16],
    ]
)


def features(sight: Sight) -> tuple[F64, F64]:
    """What the map of a face's box is made of: (4,) numbers that flip sign in the mirror, and (7,) that don't."""
    cos, sin = math.cos(sight.roll_rad), math.sin(sight.roll_rad)
    own = (sight.points_xy - sight.center_xy) @ np.array([[cos, -sin], [sin, cos]]) / sight.side
    eyes, nose, mouth, ears = (own[0] + own[1]) / 2, own[2], own[3], (own[4] + own[5]) / 2
    eye_span, ear_span = own[1, 0] - own[0, 0], own[5, 0] - own[4, 0]
    odd = np.array([eyes[0], nose[0], mouth[0], ears[0]])
    even = np.array([eye_span, eyes[1], nose[1], mouth[1], ear_span, ears[1], 1.0])
    return odd, even


def face_box(sight: Sight) -> FaceBox:
    """The tight box of the face's landmarks, turned along its eye line."""
    odd, even = features(sight)
    x = float(_CENTER_X @ odd)
    y, width, height = (_REST @ even).tolist()
    cos, sin = math.cos(sight.roll_rad), math.sin(sight.roll_rad)
    center_xy = sight.center_xy + sight.side * np.array([cos * x - sin * y, sin * x + cos * y])
    half_wh = sight.side * np.maximum((width, height), 0.1) / 2  # no face is that slim: six odd points, one odd box
    return FaceBox(np.concatenate([center_xy - half_wh, center_xy + half_wh]), sight.score, sight.roll_rad)


# --- MediaPipe --------------------------------------------------------------------------------------------------------


class BlazeFace:
    """One of the two nets: what it sees in an image, best first. To be closed; the end of the program does so too."""

    def __init__(self, file_name: str, min_score: float) -> None:
        path = weights.shipped(file_name)
        options = FaceDetectorOptions(BaseOptions(model_asset_path=str(path)), min_detection_confidence=min_score)
        with _without_chatter():
            try:
                self._task = FaceDetector.create_from_options(options)
            except OSError as error:  # its shared library wants libraries of the system, of which servers lack some
                cure = "on Debian and Ubuntu: apt install libegl1 libgles2"
                raise LivemarksError(f"MediaPipe cannot be loaded ({error}); {cure}") from error
            except (RuntimeError, ValueError) as error:
                raise LivemarksError(f"MediaPipe cannot open {path.name}: {error}; install livemarks again") from error
        self.close = weakref.finalize(self, _close, self._task)

    def __call__(self, image: U8) -> list[Sight]:
        height, width = image.shape[:2]
        longer = max(height, width)
        scale = min(max(longer, _MIN_SIDE), _MAX_SIDE) / longer
        if scale != 1.0:
            size_wh = max(1, round(width * scale)), max(1, round(height * scale))
            image = np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_LINEAR), np.uint8)
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        with contextlib.nullcontext() if _has_said_all.is_set() else _without_chatter():
            found = self._task.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=rgb))
        sights = []
        for face in found.detections:
            box = face.bounding_box
            center_xy = np.array([box.origin_x + box.width / 2, box.origin_y + box.height / 2]) / scale
            points_xy = np.array([(point.x * width, point.y * height) for point in face.keypoints])
            # MediaPipe's pixels have their corners at whole numbers, ours their centres
            score = float(face.categories[0].score)
            sights.append(Sight(score, center_xy - 0.5, box.width / scale, points_xy - 0.5))
        return sorted(sights, key=lambda sight: -sight.score)


def _close(task: FaceDetector) -> None:
    """Frees a task. Must not hold the BlazeFace whose finalizer it is."""
    with _without_chatter():
        try:
            task.close()
        except RuntimeError:
            # The program is ending without a close(), and the task's own thread has ended before. Its __del__ would
            # complain later on, in a half-dismantled interpreter; so it never gets there.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(task))


_CHATTER = re.compile(rb"\[?\w+\.cc:\d+\] |INFO: Created TensorFlow |WARNING: Logging before InitGoogle")
_chatter_lock = threading.Lock()
# Once in a program's life, at the first look for which malloc happens to place a tensor so, MediaPipe says that it "is
# not aligned". Until then every look is listened to, for 0.1 ms.
_LAST_WORDS = b"not aligned"
_has_said_all = threading.Event()


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Keeps MediaPipe's C++ logs off stderr: some fifty lines that no setting turns off.

    They are written to file descriptor 2, so that is where they are caught, for as long as the block takes. What else
    was written meanwhile, by whatever thread, is passed on afterwards.
    """
    with _chatter_lock, tempfile.TemporaryFile() as caught:
        sys.stderr.flush()
        try:
            stderr = os.dup(2)
        except OSError:  # there is no stderr (pythonw), so nobody reads it
            yield
            return
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            for line in caught:
                if not _CHATTER.search(line):
                    os.write(2, line)
                elif _LAST_WORDS in line:
                    _has_said_all.set()
