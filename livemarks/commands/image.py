"""`livemarks image`: every image by itself. Nobody is followed and nothing is smoothed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from livemarks.commands import _track
from livemarks.commands._terminal import one_line
from livemarks.numbers import counted

if TYPE_CHECKING:
    from livemarks.landmarker import Landmarker
    from livemarks.types import U8, Detector, Frame, Result, Sink, Tally


def options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Without --out and --landmarks it prints how many faces each image shows."
    parser.add_argument("input", nargs="+", metavar="FILE|DIR|GLOB", help="images, folders of images, patterns")
    parser.add_argument("--out", metavar="DIR", help="folder for the images with points drawn on them; made if missing")
    _track.landmarks_option(parser)
    _track.model_options(parser, faces=16, smooth=False)


def run(args: argparse.Namespace) -> int:
    from livemarks import plugins
    from livemarks.landmarker import Landmarker
    from livemarks.types import LivemarksError

    with ExitStack() as stack:
        source = plugins.load("sources", "images")(args.input)
        stack.callback(source.close)
        originals = [os.path.realpath(file) for file in source.files]
        folders = {*map(os.path.dirname, originals), *(os.path.realpath(file.parent) for file in source.files)}  # links
        if args.out and _is_one_of(args.out, folders):
            raise LivemarksError(f"{args.out} holds the originals, which would be overwritten; choose another --out")
        if args.landmarks not in (None, "-") and _is_one_of(args.landmarks, originals):
            raise LivemarksError(f"can't write {args.landmarks}: it is an input; give the output another name")
        net = _track.open_net(args)
        stack.callback(net.runner.close)
        # One face: the nearest one, quickly. More: all there are, however small, since nobody waits for a photograph.
        detector = plugins.load("detectors", args.detector)(args.range, 1 if args.faces == 1 else None)
        stack.callback(detector.close)
        tracker = _Alone(detector, Landmarker(net.runner, net.card, net.scheme), args.faces)
        sinks: list[Callable[[], Sink]] = []
        if args.out:
            sinks.append(lambda: plugins.load("sinks", "images")(args.out, source.names))
        if args.landmarks:
            sinks.append(lambda: _track.open_landmarks(args.landmarks, source, net, beside=args.out))
        if not sinks:
            sinks.append(lambda: _Count(source.names))
        wrote = _track.outputs(args.out, args.landmarks)
        return _track.follow(source, tracker, sinks, net=net, wrote=wrote, quiet=args.quiet, noun="image")


def _is_one_of(path: str, others: Iterable[str]) -> bool:
    return os.path.exists(path) and any(os.path.exists(other) and os.path.samefile(path, other) for other in others)


class _Alone:
    """A tracker that has forgotten everything before each frame, so that ids begin at 1 in each."""

    def __init__(self, detector: Detector, landmarker: Landmarker, faces: int) -> None:
        self._detector, self._landmarker, self._faces = detector, landmarker, faces

    def step(self, frame: Frame) -> Result:
        from livemarks.smoothing import Raw
        from livemarks.tracker import Tracker

        return Tracker(self._detector, self._landmarker, Raw, faces=self._faces).step(frame)


class _Count:
    """A sink that prints each image's name and number of faces."""

    wants_pixels = False

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def write(self, result: Result, image: U8 | None, tally: Tally) -> None:
        del image, tally
        n = len(result.faces)
        print(one_line(f"{self._names[result.frame.index]}: {counted(n, 'face') if n else 'no faces'}"))

    def close(self) -> None: ...
