"""The default: BlazeFace on ONNX Runtime, decoded here as MediaPipe's graphs decode it. It calls nobody.

The nets are MediaPipe's own (livemarks/train/blazeface.py converts them), and so is what surrounds them: mediapipe/
modules/face_detection/*.pbtxt, and the calculators that they name. mediapipe.py gives the same boxes.
"""

from __future__ import annotations

import math
import os

import cv2
import numpy as np

# As in backends/onnx.py: no reports to Microsoft. Read once, when it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

from livemarks import weights
from livemarks.detectors._blazeface import SAME_FACE_IOU, Detection, TwoStageDetector, handed
from livemarks.geometry import iou
from livemarks.types import F64, U8

# SsdAnchorsCalculator's options by the net's input side: (cells along a side, boxes a cell), in the order of the boxes.
_GRIDS = {128: ((16, 2), (8, 6)), 192: ((48, 1),)}


class Detector(TwoStageDetector):
    """Finds faces at any distance; range and faces as TwoStageDetector has them.

    A frame costs about 1.1 ms on one core, 2 ms more where full range is asked, and 1.1 ms more for each candidate
    of the second stage, and each turn of the image where nobody is seen.
    """

    def __init__(self, range: str = "auto", faces: int | None = 1) -> None:
        super().__init__(BlazeFace, range, faces)


class BlazeFace:
    """One of the two nets."""

    def __init__(self, name: str, min_score: float) -> None:
        path = weights.shipped(f"{name}.onnx")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal alone: errors are raised as well
        options.intra_op_num_threads = 1  # 1 to 2 ms of small layers: a second thread wins nothing
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._side: int = self._session.get_inputs()[0].shape[1]
        self._anchors_xy = np.concatenate([_cells(*grid) for grid in _GRIDS[self._side]])  # (N, 2)
        self._min_logit = math.log(min_score / (1 - min_score))

    def __call__(self, image: U8) -> list[Detection]:
        image, scale = handed(image)
        height, width = image.shape[:2]
        longer = max(height, width)
        corner_xy = np.array([(width - longer) / 2, (height - longer) / 2])  # of the square around the image
        logits, values = self._session.run(["scores", "boxes"], {"images": self._square(image, corner_xy, longer)})
        chosen = np.flatnonzero(logits[0] >= self._min_logit)
        scores = 1 / (1 + np.exp(-logits[0, chosen].astype(np.float64)))
        # (n, 8, 2), in sides of the square: centre, size, six points; all but the size from the anchor
        shapes = values[0, chosen].reshape(-1, 8, 2).astype(np.float64) / self._side
        shapes[:, [0, *range(2, 8)]] += self._anchors_xy[chosen, None]
        detections = []
        for score, shape in _merged(scores, shapes):
            center_xy, size_wh, *points_xy = shape * longer
            # Cut off to whole pixels, and at the left and top edges, as MediaPipe gives them: face_box's map was fitted
            # to such, and the second stage starts from them.
            low_xy = np.maximum(np.trunc(center_xy - size_wh / 2 + corner_xy), 0)
            size_wh = np.trunc(size_wh)
            # MediaPipe's pixels have their corners at whole numbers, ours their centres
            center_xy = (low_xy + size_wh / 2) / scale - 0.5
            points_xy = (np.stack(points_xy) + corner_xy) / scale - 0.5
            detections.append(Detection(score, center_xy, float(size_wh[0]) / scale, points_xy))
        return detections

    def _square(self, image: U8, corner_xy: F64, longer: int) -> U8:
        """(1, side, side, 3): the image in the middle of a black square, shrunk or magnified."""
        # As MediaPipe reads it: at corners of pixels, not at their centres, and to 1/32 px; halves of that go up, by
        # the last term. Next to a threshold a box hangs on such details: one of Helen's 330 test faces moved by 2 %.
        along = np.arange(self._side) * (longer / self._side) + 1e-3
        at_x, at_y = np.meshgrid(*(along + corner_xy[:, None]).astype(np.float32))
        maps = cv2.convertMaps(at_x, at_y, cv2.CV_16SC2)
        square = cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        return np.asarray(square, np.uint8)[None]

    def close(self) -> None:
        """The session frees itself with the last reference."""


def _cells(count: int, boxes: int) -> F64:
    """Centres of the cells of a grid over the unit square, row by row, each as often as it has boxes: (N, 2)."""
    along = (np.arange(count) + 0.5) / count
    return np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2).repeat(boxes, axis=0)


def _merged(scores: F64, shapes: F64) -> list[tuple[float, F64]]:
    """One (8, 2) shape a face, best first: the mean of those that overlap the best one, weighted by their scores.

    MediaPipe's NonMaxSuppressionCalculator, WEIGHTED. The score is that of the best.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[(shapes[order, 1] >= 0).all(axis=1)]  # sizes below zero are no boxes
    corners = np.concatenate([shapes[:, 0] - shapes[:, 1] / 2, shapes[:, 0] + shapes[:, 1] / 2], axis=1)
    merged = []
    while len(order):
        same = iou(corners[order], corners[order[:1]])[:, 0] > SAME_FACE_IOU
        same[0] = True  # even if its area is 0
        group = order[same]
        merged.append((float(scores[group[0]]), np.average(shapes[group], axis=0, weights=scores[group])))
        order = order[~same]
    return merged
