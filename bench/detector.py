"""How well the detector finds faces, how well its boxes fit, what it costs; and the fit of its box map.

    python bench/detector.py --data DIR           recall and box overlap on helen-test by face size, ms by frame size
    python bench/detector.py --data DIR --fit     fits the map in livemarks/detectors/mediapipe.py, on training sets

A face's size is the longer side of its landmarks' box over the longer side of the frame. Photographs are cut to about
half; smaller faces are made by shrinking the photograph onto its own blur. One face in five is held out of
the fit, with its whole photograph.
"""

from __future__ import annotations

import argparse
import time
import zlib
from pathlib import Path

import cv2
import numpy as np

from livemarks.detectors.mediapipe import Detector, Sight, face_box, features
from livemarks.geometry import box_from_points, iou
from livemarks.schemes.ibug68 import SCHEME
from livemarks.train.samples import Sample, read_sets
from livemarks.types import F32, F64, U8, Frame

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
    """Prints a table: range by face size."""
    print("range  size   found %  IoU mean  IoU 5th percentile")
    for name in ("short", "full", "auto"):
        detector = Detector(name)
        for size in (None, *SIZES):
            rng = np.random.default_rng(0)
            overlaps = []
            for sample in samples:
                image, xy = (sample.read(), sample.xy) if size is None else pasted(sample, size, rng)
                overlaps.append(overlap(detector(Frame(image, 0, 0.0)), xy))
            found = np.array([v for v in overlaps if v > 0.3])
            mean, low = (found.mean(), np.percentile(found, 5)) if len(found) else (0.0, 0.0)
            share = 100 * len(found) / len(overlaps)
            print(f"{name:5}  {'as is' if size is None else size:5}  {share:7.1f}  {mean:8.3f}  {low:8.3f}")
        detector.close()


def time_sizes(sample: Sample) -> None:
    """Prints ms a frame by range and frame size."""
    print("range  frame      p50 ms  p95 ms  (100 frames)")
    face = pasted(sample, 0.3, np.random.default_rng(0))[0]
    for name in ("short", "full"):
        detector = Detector(name)
        for size_wh in ((640, 360), (1280, 720), (1920, 1080), (3840, 2160)):
            frame = Frame(np.asarray(cv2.resize(face, size_wh), np.uint8), 0, 0.0)
            took_ms = []
            for _ in range(100):
                start = time.perf_counter()
                detector(frame)
                took_ms.append(1e3 * (time.perf_counter() - start))
            p50, p95 = np.percentile(took_ms, (50, 95))
            print(f"{name:5}  {size_wh[0]:4}x{size_wh[1]:<4}  {p50:6.2f}  {p95:6.2f}")
        detector.close()


def target(sight: Sight, xy: F32) -> F64:
    """Centre and size of the points' tight box as the map is to give them: along the eye line, in sides."""
    cos, sin = np.cos(sight.roll_rad), np.sin(sight.roll_rad)
    own = (xy - sight.center_xy) @ np.array([[cos, -sin], [sin, cos]]) / sight.side
    low, high = own.min(axis=0), own.max(axis=0)
    return np.concatenate([(low + high) / 2, high - low])


def fit(samples: list[Sample]) -> None:
    """Prints the map's two tables and how well they do on faces held out."""
    rng = np.random.default_rng(0)
    detector = Detector("short")
    rows = []
    for sample in samples:
        for image, xy in ((sample.read(), sample.xy), pasted(sample, rng.uniform(0.2, 0.4), rng)):
            seen = detector.sights(image)
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
    print(f"{len(samples)} faces, {len(rows)} sights, {np.sum(~kept)} of them held out")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled sets")
    parser.add_argument("--fit", action="store_true", help="fit the box map instead of measuring")
    args = parser.parse_args()
    samples, _ = read_sets(args.data, TRAIN if args.fit else TEST)
    if args.fit:
        fit(samples)
    else:
        measure(samples)
        time_sizes(samples[0])


if __name__ == "__main__":
    main()
