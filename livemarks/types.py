"""The values that pass between the rooms of livemarks, and the protocols of its plug-ins.

Imports numpy and nothing else. Every value is frozen; those that plug-ins and users make (Frame, FaceBox, Affine,
Scheme, Landmarks, Card) check themselves once, when they are made; after that nobody checks again. Coordinates are
frame pixels unless a name says otherwise, and integer coordinates are pixel *centres*, so an image of width W covers x
from -0.5 to W - 0.5.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


class LivemarksError(Exception):
    """Something the user can mend: bad input, a missing file, a camera in use.

    The message is one line that says what happened and what to do. The command line prints it and exits with status 2.
    """


class Stop(Exception):
    """Raised by a sink to end the run cleanly (the window's q key). Not an error: nothing is lost and status is 0."""


def _frozen_array(value: Any, dtype: Any, shape: tuple[int | None, ...], name: str) -> NDArray[Any]:
    """`value` as a read-only array of `dtype`; a one-line ValueError unless its shape fits (None fits any length)."""
    array = np.array(value, dtype)  # a copy: the caller keeps the right to change its own
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = "(" + ", ".join("N" if n is None else str(n) for n in shape) + ")"
        raise ValueError(f"{name} must have shape {wanted}, not {array.shape}")
    array.setflags(write=False)
    return array


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture in time.

    image: (H, W, 3) uint8 BGR, at least one pixel; a read-only view, not a copy. The caller's own array stays writable,
        but changing it changes the frame.
    index: 0-based, counts every frame *produced*, so a gap between two frames is a drop.
    t_s: media time in seconds for a file, monotonic capture time for a camera.
    """

    image: U8
    index: int
    t_s: float

    def __post_init__(self) -> None:
        if not isinstance(self.image, np.ndarray):
            raise ValueError(f"image must be an (H, W, 3) uint8 array, not a {type(self.image).__name__}")
        shape = self.image.shape
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or self.image.dtype != np.uint8:
            raise ValueError(f"image must be (H, W, 3) uint8, H and W above 0, not {shape} {self.image.dtype}")
        try:
            t_s = float(self.t_s) if math.isfinite(self.t_s) else None  # isfinite takes numbers only; float "1" as well
        except (TypeError, ValueError, OverflowError):
            t_s = None
        if t_s is None:
            raise ValueError(f"t_s must be a finite number of seconds, not {self.t_s!r}")
        try:
            index = operator.index(self.index)
        except TypeError:
            raise ValueError(f"index must be a whole number, not {self.index!r}") from None
        view = self.image.view()
        view.setflags(write=False)
        for name, value in (("image", view), ("index", index), ("t_s", t_s)):
            object.__setattr__(self, name, value)

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[1], self.image.shape[0]

    def __repr__(self) -> str:
        return f"Frame({self.image.shape[1]}x{self.image.shape[0]}, index={self.index}, t_s={self.t_s:.3f})"


@dataclass(frozen=True, slots=True, eq=False)
class FaceBox:
    """The tight box of one face's landmarks, whatever the detector that found it calls a face.

    xyxy: (4,) float32 frame px, left, top, right, bottom; turned by roll_rad about its own centre.
    score: the detector's confidence, 0..1.
    roll_rad: in-plane angle of the face, positive when its eye line falls to the right of the image; 0 where unknown.
    """

    xyxy: F32
    score: float = 1.0
    roll_rad: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "xyxy", _frozen_array(self.xyxy, np.float32, (4,), "xyxy"))
        x1, y1, x2, y2 = self.xyxy.tolist()
        if not (-math.inf < x1 < x2 < math.inf and -math.inf < y1 < y2 < math.inf):  # also refuses NaN
            raise ValueError(f"xyxy must have finite x1 < x2 and y1 < y2, not {x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f}")
        if not (0 <= self.score <= 1 and math.isfinite(self.roll_rad)):
            raise ValueError(f"score must be 0..1 and roll_rad finite, not {self.score} and {self.roll_rad}")

    @property
    def center_xy(self) -> F32:
        """(2,) middle of the box."""
        center: F32 = (self.xyxy[:2] + self.xyxy[2:]) * np.float32(0.5)
        return center

    @property
    def size_wh(self) -> F32:
        """(2,) width and height."""
        return self.xyxy[2:] - self.xyxy[:2]

    def __repr__(self) -> str:
        x1, y1, x2, y2 = self.xyxy.tolist()
        return f"FaceBox({x1:.0f} {y1:.0f} {x2:.0f} {y2:.0f}, score={self.score:.2f}, roll_rad={self.roll_rad:.2f})"


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """A plane affine map, `y = A x + b`. matrix: (2, 3) float64, [A | b]."""

    matrix: F64

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", _frozen_array(self.matrix, np.float64, (2, 3), "matrix"))

    def __call__(self, xy: NDArray[Any]) -> F64:
        """Maps (N, 2) points to (N, 2)."""
        mapped: F64 = xy @ self.matrix[:, :2].T + self.matrix[:, 2]
        return mapped

    @property
    def scale(self) -> float:
        """By how much lengths grow, averaged over directions: the root of |det A|."""
        (a, b, _), (c, d, _) = self.matrix.tolist()
        return float(abs(a * d - b * c) ** 0.5)

    def inverse(self) -> Affine:
        """The map back. Raises ValueError where there is none."""
        (a, b, tx), (c, d, ty) = self.matrix.tolist()
        det = a * d - b * c
        if det == 0.0 or not math.isfinite(det):
            raise ValueError("this affine map is flat and has no inverse")
        return Affine(np.array([[d, -b, b * ty - d * tx], [-c, a, c * tx - a * ty]]) / det)

    def then(self, after: Affine) -> Affine:
        """First this map, then `after`."""
        linear = after.matrix[:, :2] @ self.matrix[:, :2]
        shift = after.matrix[:, :2] @ self.matrix[:, 2] + after.matrix[:, 2]
        return Affine(np.column_stack([linear, shift]))


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """One face cut out of a frame. image: (H, W, 3) uint8 BGR. to_frame: crop px -> frame px, its own way home."""

    image: U8
    to_frame: Affine

    def __repr__(self) -> str:
        return f"Crop({self.image.shape[1]}x{self.image.shape[0]}, scale={self.to_frame.scale:.2f})"


@dataclass(frozen=True, slots=True, eq=False)
class Scheme:
    """A set of named landmarks, and everything that depends on their order.

    points: N names; left and right are the subject's own.
    mirror: (N,) the index each point takes when the image is mirrored; its own inverse.
    edges: pairs of indices to join when drawing.
    norm: two groups of indices; the distance between their mean points normalises NME (inter-ocular distance).
        None where the scheme has no such pair (a nose tip alone).
    roll: two groups of indices, subject's right and left eye, whose mean points give the face's roll; or None.
    box_pad: (left, top, right, bottom), what to add to these points' tight box, in fractions of its own width and
        height, to reach the tight box of the 68-point markup, which is what crops are cut around. None where the
        points cannot tell (a nose tip): such a face is found by the detector in every frame.
    light: indices of points on eyelids and lips, which move fast in blinks and speech and are smoothed lightly.
    """

    name: str
    points: tuple[str, ...]
    mirror: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    norm: tuple[tuple[int, ...], tuple[int, ...]] | None
    roll: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    box_pad: tuple[float, float, float, float] | None = (0.0, 0.0, 0.0, 0.0)
    light: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.points)
        if len(set(self.points)) != n:
            raise ValueError(f"scheme {self.name}: two points share a name")
        if len(self.mirror) != n or any(self.mirror[self.mirror[i]] != i for i in range(n)):
            raise ValueError(f"scheme {self.name}: mirror must be its own inverse over {n} points")
        groups = [*(self.norm or ()), *(self.roll or ()), self.light, *self.edges]
        if any(not 0 <= i < n for group in groups for i in group):
            raise ValueError(f"scheme {self.name}: an index is outside 0..{n - 1}")

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return f"Scheme({self.name}, {len(self.points)} points)"


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """The points of one face in one frame.

    xy: (N, 2) float32 frame px, in the scheme's order. sigma: (N,) float32 frame px, one standard deviation of each
    point along one axis. presence: 0..1, that there is a face in the crop at all.
    """

    scheme: Scheme
    xy: F32
    sigma: F32
    presence: float = 1.0

    def __post_init__(self) -> None:
        n = len(self.scheme)
        object.__setattr__(self, "xy", _frozen_array(self.xy, np.float32, (n, 2), "xy"))
        object.__setattr__(self, "sigma", _frozen_array(self.sigma, np.float32, (n,), "sigma"))
        if not (np.isfinite(self.xy).all() and 0 <= self.sigma.min() <= self.sigma.max() < math.inf):
            raise ValueError("xy must be finite, and sigma finite and not below 0")
        if not 0 <= self.presence <= 1:
            raise ValueError(f"presence must be 0..1, not {self.presence}")

    def __repr__(self) -> str:
        return f"Landmarks({self.scheme.name}, xy={self.xy.shape}, presence={self.presence:.2f})"


@dataclass(frozen=True, slots=True, eq=False)
class FaceTrack:
    """One face followed through time, as it stands in one frame.

    id: 1, 2, 3, … never used twice by a tracker. landmarks: smoothed. raw: as the net gave them. box: along the frame's
    axes, what its landmarks span now; of 15 points, what the 68 they imply would; of a nose tip, the detector's bounds.
    born_s: the t_s of the frame in which it was first seen.
    """

    id: int
    landmarks: Landmarks
    raw: Landmarks
    box: FaceBox
    born_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a tracker says of one frame. faces is empty when nobody is there; stage_s: seconds spent per stage."""

    frame: Frame
    faces: tuple[FaceTrack, ...]
    stage_s: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Card:
    """What a weights file says about itself; stored inside the file as JSON.

    name: public name, `lite-68`. architecture: the module under models/ that builds the net, and `options` its keyword
    arguments. scheme: the scheme's name. size_hw: input height and width in px. margin: the crop's height over the
    longer side of the face box. data, terms, command: what it was trained on, under which licence terms the weights may
    be used, and the command that trained them. scores: measured figures by name ("helen_test_nme_percent"). notes:
    choices worth telling. gflop: the arithmetic for one crop, in 10^9 multiplications and additions; 0 if unknown.
    """

    name: str
    architecture: str
    scheme: str
    size_hw: tuple[int, int]
    margin: float
    options: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    terms: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    command: str = ""
    notes: str = ""
    gflop: float = 0.0

    def __post_init__(self) -> None:
        height, width = self.size_hw
        if not (8 <= height <= 1024 and 8 <= width <= 1024):  # bounds memory before any is taken
            raise ValueError(f"card {self.name}: input size {width}x{height} is outside 8..1024 px")
        if not 0.5 <= self.margin <= 10:
            raise ValueError(f"card {self.name}: margin {self.margin} is outside 0.5..10")


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a source before its first frame.

    name: what to call it in messages. size_wh: pixels, after rotation; None if frames differ (images). fps: nominal
    rate, None if there is none. frames: how many are expected, None if unknown. live: True if frames arrive at their
    own pace and an old one is worthless, so that a full channel forgets its oldest; False if every frame counts and
    the producer waits. path: the file that is read, where there is one: no sink may overwrite it, and one that is not
    live has audio to copy. time_base: the tick that frame times are multiples of.
    """

    name: str
    size_wh: tuple[int, int] | None
    fps: Fraction | None
    frames: int | None
    live: bool
    path: str | None = None
    time_base: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts and rates of a run so far, handed to sinks with every result.

    captured, processed, dropped: frames; captured = processed + dropped + those in flight. fps: processed frames per
    second over the last second or so. age_s: how old the frame is now, for live sources; 0 for files.
    faces: frames with at least one face. stage_s: mean seconds per stage so far; the first one is `decode`, or
    `capture` for live sources, which holds the wait for their next frame.
    """

    captured: int = 0
    processed: int = 0
    dropped: int = 0
    fps: float = 0.0
    age_s: float = 0.0
    faces: int = 0
    stage_s: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Source(Protocol):
    """Where frames come from: an iterator of Frame.

    `iter()` is called once, and iterated by one thread (the capture thread). It ends when there are no more frames and
    raises LivemarksError for trouble the user can mend. `notices` collects, while it runs, lines the user should read
    afterwards (a damaged file's lost frames). `close` may be called from any thread, at any time and more than once; it
    releases the device and makes a blocked read end soon.

    Optional: `damaged`, whether something is missing (without it, any notice of a source that isn't live means so, and
    exit status 2); `status`, a line on what is wrong at the moment; `names`, of images, by index.
    """

    info: SourceInfo
    notices: list[str]

    def __iter__(self) -> Iterator[Frame]: ...
    def close(self) -> None: ...


@runtime_checkable
class Detector(Protocol):
    """Finds faces. Called by one thread, with frames in order; `close` by the same thread or after it has ended."""

    def __call__(self, frame: Frame) -> tuple[FaceBox, ...]:
        """Every face found, best score first; an empty tuple if none."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Runner(Protocol):
    """A loaded net on some backend: a pure function from crops to points in crop pixels.

    label: what users read, "onnx (cpu, 2 threads)". Called by one thread at a time.
    """

    label: str

    def __call__(self, crops: U8) -> tuple[F32, F32, F32]:
        """crops (B, H, W, 3) uint8 BGR, B >= 1 -> xy (B, N, 2) and sigma (B, N), above 0, in crop px, presence (B,) in
        0..1; all finite."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Smoother(Protocol):
    """Smooths one face's points over time; it has state, and time comes in as t_s only."""

    def __call__(self, landmarks: Landmarks, t_s: float) -> Landmarks: ...


@runtime_checkable
class Sink(Protocol):
    """Where results go. All calls come from the main thread.

    wants_pixels: True if `write` needs the drawn image; otherwise it may get None and no time is spent on drawing.
    `write` may raise Stop to end the run. `close` finishes what was written and is called exactly once, also after an
    error; a sink that wrote nothing leaves nothing behind. Optional: `notices`, as of a Source; `stage`, its name in
    timings; `idle`, see pipeline.Idler.
    """

    wants_pixels: bool

    def write(self, result: Result, image: U8 | None, tally: Tally) -> None: ...
    def close(self) -> None: ...
