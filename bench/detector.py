"""How well the detectors find faces, how well their boxes fit, what they cost; and the fit of their box map.

    python bench/detector.py --data DIR [--part PART]    all of the following but fit, or one of them:
        time      ms by frame size, and from `import livemarks` to a first result
        same      whether the two detectors give the same boxes
        recall    share of faces found and box overlap by face size, on helen-test
        fit       no measurement, but a new fit of the map in livemarks/detectors/_blazeface.py, on training sets

A face's size is the longer side of its landmarks' box over the longer side of the frame. Photographs are cut to about
half; smaller faces are made by shrinking the photograph onto its own blur. One face in five is held out of
the fit, with its whole photograph. Clips: those in DIR/video, every tenth frame.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from livemarks import api, plugins
from livemarks.detectors import blazeface
from livemarks.detectors._blazeface import Detection, face_box, features
from livemarks.geometry import box_from_points, iou
from livemarks.schemes.ibug68 import SCHEME
from livemarks.train.samples import Sample, read_sets
from livemarks.types import F32, F64, U8, FaceBox, Frame, LivemarksError

DETECTORS = ("blazeface", "mediapipe")
FRAME_WH = (640, 480)
SIZES = (0.35, 0.2, 0.12, 0.08, 0.05)
TRAIN, TEST = ("helen-train", "lfpw-train", "afw"), ("helen-test",)


def pasted(sample: Sample, size: float, rng: np.random.Generator) -> tuple[U8, F32]:
    """The photograph on a frame, with its face at the given size and anywhere; and its points there."""
    image = sample.read()
    width, height = FRAME_WH
    scale = size * width / float(np.ptp(sample.xy, axis=0).max())
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    scale_xy = np.array(small.shape[1::-1]) / image.shape[1::-1]
    xy = (sample.xy + 0.5) * scale_xy - 0.5
    half = np.minimum(np.ptp(xy, axis=0) / 2, (width / 2, height / 2))
    shift = (rng.uniform(half, FRAME_WH - half) - (xy.min(axis=0) + xy.max(axis=0)) / 2).round()
    blots = cv2.resize(image[::-1], (16, 12), interpolation=cv2.INTER_AREA)  # upside down: no second face in that
    frame = cv2.resize(blots, FRAME_WH, interpolation=cv2.INTER_CUBIC)
    to_frame = np.column_stack([np.eye(2), shift])
    frame = cv2.warpAffine(small, to_frame, FRAME_WH, dst=frame, borderMode=cv2.BORDER_TRANSPARENT)
    return np.asarray(frame, np.uint8), np.asarray(xy + shift, np.float32)


def overlap(detected: tuple, xy: F32) -> float:  # type: ignore[type-arg]
    """Best IoU of the boxes found with the face's own, both upright in the face's roll; 0 if none was found."""
    label = box_from_points(xy, SCHEME)
    return float(iou(label.xyxy[None], np.stack([box.xyxy for box in detected])).max()) if detected else 0.0


def measure(samples: list[Sample]) -> None:
    """Prints a table: detector and range by face size."""
    print("detector   range  size   found %  IoU mean  IoU 5th percentile")
    for range_ in ("auto", "short", "full"):
        for size in (None, *SIZES):
            for name in DETECTORS:
                overlaps = []
                with closing(opened(name, range_)) as detector:
                    rng = np.random.default_rng(0)
                    for sample in samples:
                        image, xy = (sample.read(), sample.xy) if size is None else pasted(sample, size, rng)
                        overlaps.append(overlap(detector(Frame(image, 0, 0.0)), xy))
                found = np.array([v for v in overlaps if v > 0.3])
                mean, low = (found.mean(), np.percentile(found, 5)) if len(found) else (0.0, 0.0)
                label = f"{name:9}  {range_:5}  {'as is' if size is None else size:5}"
                print(f"{label}  {100 * len(found) / len(overlaps):7.1f}  {mean:8.3f}  {low:8.3f}", flush=True)


def opened(name: str, range_: str = "auto") -> Any:
    return plugins.load("detectors", name)(range_)


def images(folder: Path) -> Iterator[tuple[str, U8]]:
    """Every tenth frame of every clip, and the clip's name."""
    if not folder.is_dir():
        raise LivemarksError(f"the clips belong into {folder}, which is no folder")
    for path in sorted(folder.iterdir()):
        with suppress(LivemarksError), closing(api.open_source(path)) as source:  # tables lie there too
            yield from ((path.name, frame.image) for frame in source if frame.index % 10 == 0)


def compare(samples: list[Sample], clips: Path) -> None:
    """Prints how far the two detectors' boxes lie apart, by set."""
    print(
        "\nset                         frames  faces seen by either  other number of faces  score and edges apart:",
        end="",
    )
    print(" mean, 99th percentile, most (edges in % of the box's longer side)")
    sets: dict[str, list[U8]] = {}
    for name, image in (*(("helen-test", sample.read()) for sample in samples), *images(clips)):
        sets.setdefault(name, []).append(image)
    ours, theirs = map(opened, DETECTORS)
    for name, pictures in sets.items():
        faces, others, apart = [0, 0], 0, []
        for image in pictures:
            mine, other = ours(Frame(image, 0, 0.0)), theirs(Frame(image, 0, 0.0))
            faces = [faces[0] + len(mine), faces[1] + len(other)]
            others += len(mine) != len(other)
            if len(mine) == len(other):
                apart += [difference(a, b) for a, b in zip(mine, other, strict=True)]
        text = ""
        if apart:
            score, edge = np.array(apart).T
            text = "   ".join(f"{v.mean():.4f} {np.percentile(v, 99):.4f} {v.max():.4f}" for v in (score, 100 * edge))
        print(f"{name:26}  {len(pictures):6}  {faces[0]:9} {faces[1]:9}  {others:21}   {text}", flush=True)
    ours.close()
    theirs.close()


def difference(a: FaceBox, b: FaceBox) -> tuple[float, float]:
    """Of the scores, and the largest of the four edges', over the box's longer side."""
    return abs(a.score - b.score), float(np.abs(a.xyxy - b.xyxy).max() / b.size_wh.max())


def time_sizes(sample: Sample) -> None:
    """Prints ms a frame by range, who is there, and frame size, the detectors by turns."""
    print("\nrange  sees    frame      p50 and p95, ms, of 100 frames:", ", ".join(DETECTORS))
    random = np.random.default_rng(0)
    pictures = {"a face": pasted(sample, 0.3, random)[0], "nobody": random.integers(90, 110, (720, 1280, 3), np.uint8)}
    for range_, sees in (("short", "a face"), ("full", "a face"), ("auto", "nobody")):
        detectors = [opened(name, range_) for name in DETECTORS]
        for size_wh in ((640, 360), (960, 540), (1280, 720), (1920, 1080), (3840, 2160)):
            frame = Frame(np.asarray(cv2.resize(pictures[sees], size_wh), np.uint8), 0, 0.0)
            took_ms: list[list[float]] = [[] for _ in detectors]
            for _ in range(10):
                for detector, times in zip(detectors, took_ms, strict=True):
                    for _ in range(10):
                        start = time.perf_counter()
                        detector(frame)
                        times.append(1e3 * (time.perf_counter() - start))
            cells = "  ".join("{:6.2f} {:6.2f}".format(*np.percentile(times, (50, 95))) for times in took_ms)
            print(f"{range_:5}  {sees}  {size_wh[0]:4}x{size_wh[1]:<4}  {cells}", flush=True)
        for detector in detectors:
            detector.close()


FIRST_RESULT = """
import time
start = time.perf_counter()
import numpy, livemarks
from livemarks.types import Frame
tracker = livemarks.open_tracker(detector={name!r})
tracker.step(Frame(numpy.zeros((360, 640, 3), numpy.uint8), 0, 0.0))
took_s = time.perf_counter() - start
tracker.close()
print(took_s)
"""


def time_start(times: int = 5) -> None:
    """Prints ms from `import livemarks` to the first result, each in a fresh interpreter."""
    print(f"\ndetector   ms from `import livemarks` to a first result: median of {times}, least")
    for name in DETECTORS:
        command = [sys.executable, "-c", FIRST_RESULT.format(name=name)]
        runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(times)]
        took_ms = [1e3 * float(run.stdout) for run in runs]
        print(f"{name:9}  {np.median(took_ms):6.0f}  {min(took_ms):6.0f}")


def target(detection: Detection, xy: F32) -> F64:
    """Centre and size of the points' tight box as the map is to give them: along the eye line, in sides."""
    cos, sin = np.cos(detection.roll_rad), np.sin(detection.roll_rad)
    own = (xy - detection.center_xy) @ np.array([[cos, -sin], [sin, cos]]) / detection.side
    low, high = own.min(axis=0), own.max(axis=0)
    return np.concatenate([(low + high) / 2, high - low])


def fit(samples: list[Sample]) -> None:
    """Prints the map's two tables and how well they do on faces held out."""
    rng = np.random.default_rng(0)
    detector = blazeface.Detector("short")
    rows = []
    for sample in samples:
        for image, xy in ((sample.read(), sample.xy), pasted(sample, rng.uniform(0.2, 0.4), rng)):
            seen = detector.detections(image)
            center_xy = (xy.min(axis=0) + xy.max(axis=0)) / 2
            near = [s for s in seen if np.abs(s.center_xy - center_xy).max() < s.side / 2]
            if near:
                held_out = zlib.crc32(sample.person.encode()) % 5 == 0
                rows.append((held_out, *features(near[0]), target(near[0], xy), overlap((face_box(near[0]),), xy)))
    detector.close()
    kept = np.array([not row[0] for row in rows])
    odd, even, want = (np.stack([row[i] for row in rows])[kept] for i in (1, 2, 3))
    center_x = np.linalg.lstsq(odd, want[:, 0], rcond=None)[0]
    rest = np.linalg.lstsq(even, want[:, 1:], rcond=None)[0].T
    print(f"{len(samples)} faces, {len(rows)} detections, {np.sum(~kept)} of them held out")
    print("_CENTER_X =", np.array2string(center_x, precision=3, separator=", "))
    print("_REST =", np.array2string(rest, precision=3, separator=", "))
    odd, even, want = (np.stack([row[i] for row in rows])[~kept] for i in (1, 2, 3))
    mapped = np.column_stack([odd @ center_x, even @ rest.T])
    print("held out: rms error of centre x, y, width, height in sides:", ((mapped - want) ** 2).mean(axis=0) ** 0.5)
    square = np.tile([0.0, 0.0, 1.0, 1.0], (len(want), 1))
    for name, boxes in (("BlazeFace's own square", square), ("this map", mapped)):
        shared = [iou(_corners(a), _corners(b))[0, 0] for a, b in zip(boxes, want, strict=True)]
        print(f"held out: IoU of {name} {np.mean(shared):.3f}")
    print(f"held out: IoU of the map that is in the code {np.mean([row[4] for row in rows if row[0]]):.3f}")


def _corners(box: F64) -> F64:
    return np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])[None]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled sets")
    parser.add_argument("--part", choices=("time", "same", "recall", "fit"), help="this alone")
    args = parser.parse_args(arguments)
    try:
        samples, _ = read_sets(args.data, TRAIN if args.part == "fit" else TEST)
        if args.part in (None, "time"):
            time_sizes(samples[0])
            time_start()
        if args.part in (None, "same"):
            compare(samples, args.data / "video")
        if args.part in (None, "recall"):
            measure(samples)
        if args.part == "fit":
            fit(samples)
    except LivemarksError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
