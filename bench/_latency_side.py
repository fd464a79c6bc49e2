"""One side of the race in bench/latency.py: livemarks or a peer, in a process and on cores of its own.

    python bench/_latency_side.py livemarks|mediapipe|dlib FRAMES.npy FPS [--cores 0,1] [--model NAME] [--backend NAME]

FRAMES.npy: (F, H, W, 3) uint8 BGR. The first line out is {"version": …}, or {"missing": what to install}. Then each
line in, {"frames": [i, …]}, is answered by {"seconds": […], "faces": […]}: for each frame the time it took to follow
the face, and how many were followed. Colours are turned to what the side wants before the clock starts, and the frame
lies in the cache as it would after decoding. Of livemarks only its own side imports anything: the mesh needs an older
MediaPipe, so it is run by another interpreter.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

NEEDS = {
    "livemarks": "livemarks",
    "dlib": "dlib-bin face-recognition-models 'setuptools<81'",
    "mediapipe": "mediapipe==0.10.21",
}

# An image in the colours that `is_rgb` tells, and its time in seconds -> how many faces are followed.
Step = Callable[[Any, float], int]


def livemarks_side(args: argparse.Namespace) -> tuple[Step, bool, str]:
    from livemarks import __version__, api
    from livemarks.types import Frame

    net = api.open_net(args.model, backend=args.backend)
    tracker = api.open_tracker(net)
    index = itertools.count()

    def step(image: Any, t_s: float) -> int:
        return len(tracker.step(Frame(image, next(index), t_s)).faces)

    return step, False, f"livemarks {__version__}, {net.card.name} on {net.runner.label}"


def mediapipe_side(_: argparse.Namespace) -> tuple[Step, bool, str]:
    import mediapipe

    solutions: Any = mediapipe.solutions
    # The plain mesh: the refined one, with attention to eyes and lips, is slower.
    mesh = solutions.face_mesh.FaceMesh(static_image_mode=False, max_num_faces=1, refine_landmarks=False)

    def step(image: Any, _: float) -> int:
        return len(mesh.process(image).multi_face_landmarks or ())

    return step, True, f"mediapipe {mediapipe.__version__} FaceMesh"


def dlib_side(_: argparse.Namespace) -> tuple[Step, bool, str]:
    import dlib
    import face_recognition_models

    find = dlib.get_frontal_face_detector()
    predict = dlib.shape_predictor(face_recognition_models.pose_predictor_model_location())
    box: list[Any] = []  # around the last points: dlib has no tracker, and its detector alone takes 20 ms and more

    def step(image: Any, _: float) -> int:
        box[:] = box or list(find(image))[:1]
        for rectangle in box:
            xy = [(p.x, p.y) for p in predict(image, rectangle).parts()]
            left, top = map(min, zip(*xy, strict=True))
            right, bottom = map(max, zip(*xy, strict=True))
            box[:] = [dlib.rectangle(left, top, right, bottom)]
        return len(box)

    return step, True, f"dlib {importlib.metadata.version('dlib-bin')} predictor"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=sorted(NEEDS))
    parser.add_argument("frames")
    parser.add_argument("fps", type=float)
    parser.add_argument("--cores", default="")
    parser.add_argument("--model", default="lite-68")
    parser.add_argument("--backend", default="auto")
    args = parser.parse_args()
    out = sys.stdout
    sys.stdout = sys.stderr  # what the libraries print must not get between the answers
    if args.cores:  # before anything is imported, so that thread pools are made to measure
        os.sched_setaffinity(0, {int(core) for core in args.cores.split(",")})
    try:
        import numpy as np

        open_side = {"livemarks": livemarks_side, "mediapipe": mediapipe_side, "dlib": dlib_side}[args.side]
        step, is_rgb, version = open_side(args)
    except (ImportError, AttributeError) as error:  # MediaPipe's newer releases have no `solutions`
        print(json.dumps({"missing": f"{error}; needs: pip install {NEEDS[args.side]}"}), file=out)
        return
    frames = np.load(args.frames, mmap_mode="r")
    print(json.dumps({"version": version}), file=out, flush=True)
    count = 0
    for line in sys.stdin:
        seconds, faces = [], []
        for i in json.loads(line)["frames"]:
            image = np.array(frames[i][:, :, ::-1] if is_rgb else frames[i])
            start = time.perf_counter()
            faces.append(step(image, count / args.fps))
            seconds.append(time.perf_counter() - start)
            count += 1
        print(json.dumps({"seconds": seconds, "faces": faces}), file=out, flush=True)


if __name__ == "__main__":
    main()
