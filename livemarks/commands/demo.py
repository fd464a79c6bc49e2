"""`livemarks demo`: the whole pipeline on a clip made on the spot, for who has neither camera nor clip at hand."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from livemarks import numbers
from livemarks.commands import _track

if TYPE_CHECKING:
    from livemarks.types import Sink

log = logging.getLogger(__name__)

# NASA's portrait of the astronaut Eileen Collins (S93-33213), in the public domain; cut from scikit-image's
# data.astronaut().
PORTRAIT = Path(__file__).parents[1] / "portrait.jpg"

_SIZE_WH = (1280, 720)
_FPS = 30
_MOST_S = 86_400


def options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The portrait is NASA's of the astronaut Eileen Collins, in the public domain."
    parser.add_argument("--out", metavar="OUT.mp4", help="write the clip with points drawn on it, instead of a window")
    _track.landmarks_option(parser)
    length = numbers.within(float, 0.001, _MOST_S)
    parser.add_argument("--seconds", type=length, default=10.0, metavar="N", help="length (default: 10)")
    _track.model_options(parser, faces=1)


def run(args: argparse.Namespace) -> int:
    import cv2

    from livemarks import api, plugins
    from livemarks.sinks.window import no_display
    from livemarks.types import LivemarksError

    out = args.out
    if out is None and args.landmarks is None and (reason := no_display()):
        out, number = "demo.mp4", 1
        while os.path.lexists(out):  # nobody said that it may be overwritten
            number += 1
            out = f"demo-{number}.mp4"
        log.info("no window: %s; writing %s instead", reason, out)
    outputs = _track.outputs(out, args.landmarks)
    portrait = cv2.imread(str(PORTRAIT))
    if portrait is None:
        raise LivemarksError(f"{PORTRAIT} is missing or damaged; install livemarks again")
    window = not outputs
    net = _track.open_net(args)
    make = plugins.load("sources", "synthetic")
    with (
        closing(make(portrait, seconds=args.seconds, fps=_FPS, size_wh=_SIZE_WH, live=window)) as source,
        closing(
            api.open_tracker(net, faces=args.faces, smooth=args.smooth, range=args.range, detector=args.detector)
        ) as tracker,
    ):
        sinks: list[Callable[[], Sink]] = []
        if window:
            sinks.append(lambda: _track.open_window(source, net))
        if out:
            sinks.append(lambda: plugins.load("sinks", "video")(out, source.info))
        if args.landmarks:
            sinks.append(lambda: _track.open_landmarks(args.landmarks, source, net, beside=out))
        return _track.follow(source, tracker, sinks, net=net, wrote=outputs, quiet=args.quiet)
