"""MediaPipe's face mesh following one face through a video, for bench/stability.py; run by an interpreter that has it.

    python bench/_mesh_video.py VIDEO

The first line out is {"version": …}, or {"missing": what to install}; then one line a frame, [[x, y], …] of 478 points
in 0-based px, or null without a face. It imports nothing of livemarks: the mesh needs an older MediaPipe.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main(video: str) -> None:
    out = sys.stdout
    sys.stdout = sys.stderr  # what the libraries print must not get between the answers
    try:
        import cv2
        import mediapipe

        solutions: Any = mediapipe.solutions
    except (ImportError, AttributeError) as error:  # newer releases have no `solutions`
        print(json.dumps({"missing": f"{error}; needs: pip install mediapipe==0.10.21"}), file=out)
        return
    mesh = solutions.face_mesh.FaceMesh(static_image_mode=False, max_num_faces=1, refine_landmarks=True)
    print(json.dumps({"version": f"mediapipe {mediapipe.__version__}"}), file=out)
    frames = cv2.VideoCapture(video)
    while True:
        more, image = frames.read()
        if not more:
            return
        height, width = image.shape[:2]
        found = mesh.process(image[:, :, ::-1].copy()).multi_face_landmarks
        # Its 0 is the left edge of the first pixel, ours that pixel's centre.
        points = [[p.x * width - 0.5, p.y * height - 0.5] for p in found[0].landmark] if found else None
        print(json.dumps(points), file=out)


if __name__ == "__main__":
    main(sys.argv[1])
