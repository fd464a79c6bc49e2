"""The second opinion: BlazeFace run by MediaPipe itself.

The default, blazeface.py, gives the same answers without it. MediaPipe 1.2 needs OpenGL's libraries, starts threads,
logs, and reports its use to play.googleapis.com (github.com/google-ai-edge/mediapipe/issues/6291); it has no switch for
that. The command line keeps the report at home; a Python program that chooses this detector does not, unless it sets
https_proxy itself, as cli.py does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator

import cv2
import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions
from mediapipe.tasks.python.vision import FaceDetector, FaceDetectorOptions

from livemarks import weights
from livemarks.detectors._blazeface import Detection, TwoStageDetector, handed
from livemarks.types import U8, LivemarksError


class Detector(TwoStageDetector):
    """Finds faces at any distance; range and faces as TwoStageDetector has them.

    A frame costs about 1.3 ms on one core, 2.5 ms more where full range is asked, and 1.3 ms more for each
    candidate of the second stage, and each turn of the image where nobody is seen.
    """

    def __init__(self, range: str = "auto", faces: int | None = 1) -> None:
        super().__init__(BlazeFace, range, faces)


class BlazeFace:
    """One of the two nets. To be closed; the end of the program does so too."""

    def __init__(self, name: str, min_score: float) -> None:
        path = weights.shipped(f"{name}.tflite")
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

    def __call__(self, image: U8) -> list[Detection]:
        height, width = image.shape[:2]
        image, scale = handed(image)
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        with contextlib.nullcontext() if _has_said_all.is_set() else _without_chatter():
            found = self._task.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=rgb))
        detections = []
        for face in found.detections:
            box = face.bounding_box
            center_xy = np.array([box.origin_x + box.width / 2, box.origin_y + box.height / 2]) / scale
            points_xy = np.array([(point.x * width, point.y * height) for point in face.keypoints])
            # MediaPipe's pixels have their corners at whole numbers, ours their centres
            score = float(face.categories[0].score)
            detections.append(Detection(score, center_xy - 0.5, box.width / scale, points_xy - 0.5))
        return sorted(detections, key=lambda detection: -detection.score)


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
# Once in a program's life, in the first call for which malloc happens to place a tensor so, MediaPipe says that it "is
# not aligned". Until then every call is listened to, for 0.1 ms.
_LAST_WORDS = b"not aligned"
_has_said_all = threading.Event()


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Keeps MediaPipe's C++ logs off stderr: some fifty lines that no setting turns off.

    They are written to file descriptor 2, so that is where they are caught, for as long as the block takes. What else
    was written meanwhile, by whatever thread, is passed on afterwards.
    """
    with _chatter_lock, tempfile.TemporaryFile() as caught:
        if sys.stderr is not None:
            sys.stderr.flush()
        try:
            stderr = os.dup(2)
        except OSError:  # there is no stderr (pythonw, whose sys.stderr is None as well), so nobody reads it
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
