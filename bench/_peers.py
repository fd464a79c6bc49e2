"""A peer's landmarks, over standard input and output, for bench/accuracy.py; run by an interpreter that has the peer.

    python bench/_peers.py dlib|mediapipe

The first line out is {"version": …}, or {"missing": what to install}. Then each line in, {"image": path, "box": [left,
top, right, bottom] or null}, is answered by {"faces": [[[x, y], …], …]}, 0-based px. Without a box the peer looks for
faces itself. It imports nothing of livemarks: MediaPipe's face mesh needs a release older than livemarks does.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable
from typing import Any

Answer = Callable[[str, "list[float] | None"], "list[list[list[float]]]"]

NEEDS = {"dlib": "dlib-bin face-recognition-models 'setuptools<81'", "mediapipe": "mediapipe==0.10.21"}

# From the tight box of the 68 points to dlib's own square: how far its centre lies above the box's, and its side, in
# the box's longer side. Medians over 477 faces, all that dlib finds among every fourth of Helen's and LFPW's training
# sets and AFW.
_DLIB_UP, _DLIB_SIDE = 0.10, 1.07


def dlib_peer() -> tuple[Answer, str]:
    import dlib
    import face_recognition_models

    find = dlib.get_frontal_face_detector()
    predict = dlib.shape_predictor(face_recognition_models.pose_predictor_model_location())

    def answer(path: str, box: list[float] | None) -> list[list[list[float]]]:
        image = dlib.load_rgb_image(path)
        if box is None:
            rectangles = find(image, 1)  # enlarged once, as dlib's examples do
        else:
            left, top, right, bottom = box
            longer = max(right - left, bottom - top)
            x, y, half = (left + right) / 2, (top + bottom) / 2 - _DLIB_UP * longer, _DLIB_SIDE * longer / 2
            rectangles = [dlib.rectangle(round(x - half), round(y - half), round(x + half), round(y + half))]
        return [[[p.x, p.y] for p in predict(image, rectangle).parts()] for rectangle in rectangles]

    return answer, f"dlib {importlib.metadata.version('dlib-bin')}"


def mediapipe_peer() -> tuple[Answer, str]:
    import cv2
    import mediapipe

    solutions: Any = mediapipe.solutions
    mesh = solutions.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=4, refine_landmarks=True)

    def answer(path: str, box: list[float] | None) -> list[list[list[float]]]:
        if box is not None:
            raise ValueError("the face mesh takes no box")
        image: Any = cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        height, width = image.shape[:2]
        found = mesh.process(image[:, :, ::-1].copy()).multi_face_landmarks or []
        # Its 0 is the left edge of the first pixel, ours that pixel's centre.
        return [[[p.x * width - 0.5, p.y * height - 0.5] for p in face.landmark] for face in found]

    return answer, f"mediapipe {mediapipe.__version__}"


def main(peer: str) -> None:
    out = sys.stdout
    sys.stdout = sys.stderr  # what the libraries print must not get between the answers
    try:
        answer, version = {"dlib": dlib_peer, "mediapipe": mediapipe_peer}[peer]()
    except (ImportError, AttributeError) as error:  # MediaPipe's newer releases have no `solutions`
        print(json.dumps({"missing": f"{error}; needs: pip install {NEEDS[peer]}"}), file=out)
        return
    print(json.dumps({"version": version}), file=out, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps({"faces": answer(request["image"], request["box"])}), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
