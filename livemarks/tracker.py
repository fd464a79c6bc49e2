"""Follows faces through frames. `Tracker.step` is the whole product: state, but no thread, clock, file or window.

A face is followed by its own points: they say where to crop the next frame, and the net says with `presence` whether a
face is still there. The detector looks only when somebody may be missing: no track lives, one has just been lost, fewer
live than were asked for and some time has passed, the whole picture has changed, or it is time to check that tracks are
where faces are.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from livemarks.geometry import box_from_points
from livemarks.landmarker import Landmarker
from livemarks.types import (
    F32,
    F64,
    U8,
    Detector,
    FaceBox,
    FaceTrack,
    Frame,
    Landmarks,
    LivemarksError,
    Result,
    Scheme,
    Smoother,
)

MAX_FACES = 16

# A face may go unseen for two frames, undrawn, and keep its id; in the third its track ends. The same number of looks
# of the detector in a row must miss a doubtful track before it ends.
_PATIENCE = 3
# A detection this many sides from a track's box may be its face: boxes of one size then overlap by 0.2 (IoU). A face
# that went unseen may have moved on.
_REACH_SEEN, _REACH_UNSEEN = 0.67, 1.0
# Two tracks are on one face if they share this much of the smaller box: equal boxes less than 0.3 of a side apart.
_SAME_SHARE = 0.7
# In one frame no face moves further from where it was expected than this many of its sides, or grows more than so much;
# if the points say so, the net has caught something else.
_MAX_JUMP = 0.5
_MAX_GROWTH = 1.6
# A face found this many sides from the middle of its crop is cut and read once more: the net was trained on crops that
# miss by 0.03 (one standard deviation).
_OFF_CENTRE = 0.06
# Frames closer than this in time (a camera's burst, a file's odd stamps) tell nothing of speed: points tremble.
_LEAST_S = 1 / 240
# A film may be slow: what is no longer than this many times the last way from frame to frame is no pause. But a way of
# more than so many seconds is no pace: who is seen after it may be anybody.
_PAUSE, _SLOWEST_S = 1.5, 2.0
# Of two tracks on one face, the intruder is the one that moved and grew less as expected, lately: surprise adds up and
# fades by this much a frame. A newborn track has everything to prove.
_SURPRISE_FADES = 0.8
_SURPRISE_AT_BIRTH = 0.5
# Where faces pass within so many sides of each other, and for some time after, more surprise than this ends a track:
# the net may have slid from one face over to the other, whose name must not change.
_NEAR_SIDES = 1.5
_NEAR_S = 1.0
_ASTRAY = 0.6
# From one frame to the next of a film this many points, spread over the frame, correlate by 0.83 and more, or by 0.33
# to 0.8 where a whole picture is shaken hard; across made-up cuts by 0.39 to 0.64 (five films, measured once by hand).
# A false alarm costs a look of the detector, and whomever that doesn't see. Noise in the dark doesn't correlate either,
# but differs by less.
_CUT_POINTS = 16  # along each side
_CUT_CORRELATION, _CUT_RMS_GREYS = 0.7, 25.0
# A detector takes some faces that are upside down for upright ones. A newborn face of less presence than the first is
# read turned by quarters as well, and that is believed from the second on. Of reads of LFPW's and AFW's faces, rolled
# by 0 to 180 degrees, all 316 that were the right way up reach both, 6 of 63 that weren't the first. Tiles in random
# order came to 0.993 in one of 150 made-up cuts.
_RIGHT_WAY_UP, _SURELY_TURNED = 0.98, 0.995
_QUARTERS_RAD = (math.pi / 2, math.pi, -math.pi / 2)
# Smaller faces have hardly a pixel a point.
_MIN_SIDE_PX = 12
# The 68 points' box is 0.7 to 1.4 times as wide as high on faces of any pose; this leaves room for open mouths.
_MAX_ASPECT = 2.5


@dataclass(slots=True, eq=False)
class _Face:
    """What is remembered of a live track. seen: whether its points were found in this frame."""

    id: int
    born_s: float
    smoother: Smoother
    landmarks: Landmarks
    box: FaceBox
    velocity: F64  # (2,) px/s, of the box's centre
    expected: FaceBox  # where `box` was expected to be
    surprise: float = _SURPRISE_AT_BIRTH
    seen: bool = True
    sure: bool = True  # False from a cut on, until the detector sees it again
    unseen: int = 0  # frames in a row
    unconfirmed: int = 0  # looks of the detector in a row
    met_s: float = -math.inf  # when another face was last near

    def expect(self, dt_s: float) -> None:
        """Moves the box to where the face should be dt_s later."""
        if not self.seen:  # its last movements may have been the net's going astray
            self.velocity = self.velocity * 0.5
        dx, dy = (self.velocity * dt_s).tolist()
        moved = self.box.xyxy + np.array([dx, dy, dx, dy], np.float32)
        self.box = self.expected = FaceBox(moved, self.box.score, self.box.roll_rad)
        self.surprise *= _SURPRISE_FADES
        self.seen = False

    def take(self, landmarks: Landmarks, box: FaceBox, dt_s: float) -> None:
        """It was found here."""
        move = (box.center_xy - self.expected.center_xy).astype(np.float64)
        if dt_s > 0:  # half the surprise is believed: points tremble, and heads stop as fast as they start
            self.velocity = self.velocity + 0.5 * move / max(dt_s, _LEAST_S)
        self.surprise += _jump(self.expected, box) + abs(math.log(_growth(self.expected, box)))
        self.landmarks, self.box, self.seen = landmarks, box, True

    def lose(self) -> None:
        """What was found is somebody else's."""
        self.box, self.seen = self.expected, False


class Tracker:
    """Finds and follows up to `faces` faces (1 to 16). Closes the detector and the landmarker with itself.

    smoother: makes each new face's own. presence_floor: a face whose presence falls below isn't shown, and its track
    ends in the third such frame. presence_birth: what a new face must reach. rescan_s: while fewer than `faces` are
    followed, how often the detector looks for more; check_s: how often it looks in any case; rest_s: how often where
    nobody is followed (0: in every frame), which spares the CPU of a camera in an empty room. presence_sure: a track
    that the detector doesn't see in three looks lives on only above this. max_gap_s: a longer pause between frames, or
    jump back in time, ends all tracks, as frames of another size do, but where frames are few it must be longer than
    they are apart as well. All times are frame times.
    """

    def __init__(
        self,
        detector: Detector,
        landmarker: Landmarker,
        smoother: Callable[[Scheme], Smoother],
        *,
        faces: int = 1,
        presence_floor: float = 0.5,
        presence_birth: float = 0.7,
        presence_sure: float = 0.9,
        rescan_s: float = 0.5,
        check_s: float = 2.0,
        rest_s: float = 0.0,
        max_gap_s: float = 0.75,
    ) -> None:
        if not 1 <= faces <= MAX_FACES:
            raise LivemarksError(f"cannot follow {faces} faces: the number must be 1 to {MAX_FACES}")
        self.landmarker = landmarker
        self._detector, self._smoother = detector, smoother
        self._scheme = landmarker.scheme
        self._most = faces
        self._presence_floor, self._presence_birth, self._presence_sure = presence_floor, presence_birth, presence_sure
        self._rescan_s, self._check_s, self._rest_s, self._max_gap_s = rescan_s, check_s, rest_s, max_gap_s
        self._ids = itertools.count(1)
        self._faces: list[_Face] = []  # by id
        self._t_s = self._detected_s = -math.inf
        self._pace_s = math.inf  # the last time from frame to frame; any is believed of a film that has just begun
        self._view: F32 | None = None  # (n,) greys of the last frame
        self._size_wh = (0, 0)
        self._stage_s: dict[str, float] = {}

    def step(self, frame: Frame) -> Result:
        """What is to be seen in the next frame. Frames come in order, as far as their source knows."""
        self._stage_s = {"detect": 0.0, "crop": 0.0, "infer": 0.0, "smooth": 0.0}
        dt_s, self._t_s = frame.t_s - self._t_s, frame.t_s
        longest_s = max(self._max_gap_s, _PAUSE * min(self._pace_s, _SLOWEST_S))
        if not -self._max_gap_s <= dt_s <= longest_s or frame.size_wh != self._size_wh:
            self._faces.clear()
        self._size_wh = frame.size_wh
        self._pace_s = dt_s if dt_s > 0 else self._pace_s
        cut = self._is_cut(frame.image)
        for face in self._faces:
            face.expect(max(dt_s, 0.0))
            face.sure = face.sure and not cut
        if self._scheme.box_pad is not None:
            self._follow(frame, dt_s)
        if self._must_detect():
            self._detect(frame, dt_s)
        self._part()
        self._end()
        with self._timed("smooth"):
            shown = tuple(self._shown(face) for face in self._faces if face.seen)
        return Result(frame, shown, self._stage_s)

    def warm(self) -> None:
        """Runs what is slow the first time. By the thread that will call `step`, since some nets belong to a thread."""
        self._detector(Frame(np.zeros((360, 640, 3), np.uint8), 0, 0.0))
        _ = self.landmarker.knows_absence  # which is found by trying

    def close(self) -> None:
        """Closes the detector and the landmarker."""
        self._detector.close()
        self.landmarker.close()

    def _follow(self, frame: Frame, dt_s: float) -> None:
        """Finds each face's points where they are expected."""
        found = self._read(frame.image, [face.box for face in self._faces])
        # Once more for whoever was caught at the edge of the crop.
        off = [i for i, face in enumerate(self._faces) if _OFF_CENTRE < _jump(face.box, found[i][1]) <= _MAX_JUMP]
        for i, pair in zip(off, self._read(frame.image, [found[i][1] for i in off]), strict=True):
            found[i] = pair
        for face, (landmarks, box) in zip(self._faces, found, strict=True):
            near = _plausible(box, frame) and not _far(face.box, box, _MAX_JUMP)
            if near and face.sure and landmarks.presence >= self._presence_floor:
                face.take(landmarks, box, dt_s)

    def _is_cut(self, image: U8) -> bool:
        """Whether nearly everything looks different from the last frame: the net alone isn't to be trusted then."""
        height, width = image.shape[:2]
        down, right = max(1, height // _CUT_POINTS), max(1, width // _CUT_POINTS)
        new = image[down // 2 :: down, right // 2 :: right, 1].astype(np.float32).ravel()
        old, self._view = self._view, new
        if not self._faces or old is None or len(old) != len(new):
            return False
        gap = new - old
        if float(gap @ gap) < _CUT_RMS_GREYS**2 * len(new):
            return False
        old, new = old - old.mean(), new - new.mean()
        return float(old @ new) < _CUT_CORRELATION * math.sqrt(float(old @ old) * float(new @ new))

    def _must_detect(self) -> bool:
        if self._faces and self._detector_only:
            return True
        if any(not face.seen or 0 < face.unconfirmed < _PATIENCE for face in self._faces):
            return True
        period_s = self._rescan_s if len(self._faces) < self._most else self._check_s
        period_s = period_s if self._faces else self._rest_s
        return not 0 <= self._t_s - self._detected_s < period_s  # "not": time may have jumped back

    @property
    def _detector_only(self) -> bool:
        """Whether only the detector can tell where a face is (a nose tip spans no box), or that it's gone."""
        return self._scheme.box_pad is None or not self.landmarker.knows_absence

    def _detect(self, frame: Frame, dt_s: float) -> None:
        """Lets the detector confirm the tracks, find the unseen ones, and add new ones."""
        self._detected_s = self._t_s
        with self._timed("detect"):
            detections = self._detector(frame)
        match = _matched(self._faces, detections)
        if dt_s > self._max_gap_s:  # in a slow film, who is nowhere near has gone, and keeps no place from who came
            self._faces = [face for i, face in enumerate(self._faces) if face.seen or i in match]
            match = _matched(self._faces, detections)
        unseen = []
        for i, face in enumerate(self._faces):
            face.unconfirmed = 0 if i in match else face.unconfirmed + 1
            face.sure = face.sure or i in match
            if i in match and not face.seen:
                unseen.append(i)
        fresh: list[int] = []
        if len(self._faces) < self._most:
            taken = set(match.values())
            fresh = [j for j in range(len(detections)) if j not in taken][:MAX_FACES]
        found = self._read(frame.image, [detections[j] for j in [*(match[i] for i in unseen), *fresh]])
        if self._scheme.box_pad is not None:
            # Once more, cut around the points found: a detector's box is looser than that of the points.
            likely = [i for i, (landmarks, _) in enumerate(found) if landmarks.presence >= self._presence_floor]
            better = self._read(frame.image, [found[i][1] for i in likely])
            for i, pair in zip(likely, better, strict=True):
                found[i] = pair
        for i, j in enumerate(fresh, len(unseen)):
            if found[i][0].presence < _RIGHT_WAY_UP:
                found[i] = self._rather_turned(frame.image, detections[j], found[i])
        for i, (landmarks, box) in zip(unseen, found, strict=False):
            if landmarks.presence >= self._presence_floor and _plausible(box, frame):
                self._faces[i].take(landmarks, box, dt_s)
        newborn = [
            (landmarks, box)
            for landmarks, box in found[len(unseen) :]
            if landmarks.presence >= self._presence_birth and _plausible(box, frame)
        ]
        newborn.sort(key=lambda pair: -float(pair[1].size_wh.max()))  # nearest first: who stands in front is meant
        for landmarks, box in newborn:
            others = [face.box for face in self._faces if face.seen]
            if len(self._faces) < self._most and not any(_same(box, other) for other in others):
                smoother = self._smoother(self._scheme)
                self._faces.append(_Face(next(self._ids), self._t_s, smoother, landmarks, box, np.zeros(2), box))

    def _rather_turned(self, image: U8, box: FaceBox, found: tuple[Landmarks, FaceBox]) -> tuple[Landmarks, FaceBox]:
        """What was found in the box, or what is surely a face in there if its crop is turned by quarters."""
        turned = [FaceBox(box.xyxy, box.score, box.roll_rad + turn_rad) for turn_rad in _QUARTERS_RAD]
        reads = self._read(image, [span for _, span in self._read(image, turned)])
        best = max(reads, key=lambda read: read[0].presence)
        return best if best[0].presence >= _SURELY_TURNED else found

    def _part(self) -> None:
        """Of two tracks on one face, un-sees the one that came there by surprise."""
        for older, younger in itertools.combinations(self._faces, 2):
            if _jump(older.box, younger.box) < _NEAR_SIDES:
                older.met_s = younger.met_s = self._t_s
                if older.seen and younger.seen and _same(older.box, younger.box):
                    (older if older.surprise > younger.surprise else younger).lose()

    def _end(self) -> None:
        """Counts unseen frames and ends tracks."""
        for face in self._faces:
            face.unseen = 0 if face.seen else face.unseen + 1
        going_on = [face for face in self._faces if not self._is_over(face)]
        if len(going_on) < len(self._faces):
            self._faces, self._detected_s = going_on, -math.inf  # whose face it was is to be found in the next frame

    def _is_over(self, face: _Face) -> bool:
        sure = self.landmarker.knows_absence and face.landmarks.presence >= self._presence_sure
        return (
            face.unseen >= _PATIENCE
            or (face.unconfirmed >= _PATIENCE and not sure)
            or (face.surprise > _ASTRAY and self._t_s - face.met_s < _NEAR_S)
        )

    def _read(self, image: U8, boxes: Sequence[FaceBox]) -> list[tuple[Landmarks, FaceBox]]:
        """The points in each box, and the box that they span, by which the next frame is cropped."""
        if not boxes:
            return []
        with self._timed("crop"):
            crops, homes = self.landmarker.cut(image, boxes)
        with self._timed("infer"):
            found = self.landmarker.read(crops, homes)
        if self._scheme.box_pad is None:
            return list(zip(found, boxes, strict=True))
        return [(landmarks, box_from_points(landmarks.xy, self._scheme, landmarks.presence)) for landmarks in found]

    def _shown(self, face: _Face) -> FaceTrack:
        smooth = face.smoother(face.landmarks, self._t_s)
        # What all points span; where they are 15, what 68 would span (`box_pad`); of one alone, what the detector says.
        if self._scheme.box_pad is None:
            box = _bounds(face.box)
        else:
            box = box_from_points(smooth.xy, self._scheme, smooth.presence, upright=True)
        return FaceTrack(face.id, smooth, face.landmarks, box, face.born_s)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._stage_s[stage] += time.perf_counter() - start


def _plausible(box: FaceBox, frame: Frame) -> bool:
    """Whether a face could look like this: not a speck, not bigger than the picture, centred inside it."""
    x1, y1, x2, y2 = box.xyxy.tolist()
    width, height, x, y = x2 - x1, y2 - y1, (x1 + x2) / 2, (y1 + y2) / 2
    frame_wh = frame.size_wh
    return bool(
        _MIN_SIDE_PX <= max(width, height) <= 2 * max(frame_wh)
        and max(width, height) <= _MAX_ASPECT * min(width, height)
        and -0.5 <= x <= frame_wh[0] - 0.5
        and -0.5 <= y <= frame_wh[1] - 0.5
    )


def _bounds(box: FaceBox) -> FaceBox:
    """What a turned box takes up along the frame's axes."""
    cos, sin = abs(math.cos(box.roll_rad)), abs(math.sin(box.roll_rad))
    half_wh = np.array([[cos, sin], [sin, cos]]) @ box.size_wh / 2
    return FaceBox(np.concatenate([box.center_xy - half_wh, box.center_xy + half_wh]), box.score)


def _jump(expected: FaceBox, found: FaceBox) -> float:
    """Distance of the centres in (mean) sides."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = expected.xyxy.tolist(), found.xyxy.tolist()
    return math.hypot(bx1 + bx2 - ax1 - ax2, by1 + by2 - ay1 - ay2) / (_side(expected) + _side(found))


def _growth(expected: FaceBox, found: FaceBox) -> float:
    return _side(found) / _side(expected)


def _side(box: FaceBox) -> float:
    """The longer one. In plain numbers, as all that is asked in every frame: NumPy takes ten times as long for four."""
    x1, y1, x2, y2 = box.xyxy.tolist()
    return float(max(x2 - x1, y2 - y1))


def _far(expected: FaceBox, found: FaceBox, reach: float) -> bool:
    """Whether a face can't have come from one box to the other: further than so many sides, or grown too much."""
    return _jump(expected, found) > reach or not 1 / _MAX_GROWTH < _growth(expected, found) < _MAX_GROWTH


def _same(a: FaceBox, b: FaceBox) -> bool:
    """Whether two boxes share most of the smaller."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.xyxy.tolist(), b.xyxy.tolist()
    shared = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    return bool(shared >= _SAME_SHARE * min((ax2 - ax1) * (ay2 - ay1), (bx2 - bx1) * (by2 - by1)))


def _matched(faces: Sequence[_Face], detections: Sequence[FaceBox]) -> dict[int, int]:
    """Index of a face -> index of its detection, each used once, seen faces and short ways first."""
    near = []
    for i, face in enumerate(faces):
        reach = _REACH_SEEN if face.seen else _REACH_UNSEEN
        for j, box in enumerate(detections):
            if not _far(face.box, box, reach):
                near.append((not face.seen, _jump(face.box, box), i, j))
    match: dict[int, int] = {}
    for *_, i, j in sorted(near):
        if i not in match and j not in match.values():
            match[i] = j
    return match
