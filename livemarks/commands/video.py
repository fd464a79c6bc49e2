"""`livemarks video`: every frame of a file, drawn on, written down, or both."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from livemarks.commands import _track

if TYPE_CHECKING:
    from livemarks.types import Sink


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="a video file, or - for standard input")
    parser.add_argument("--out", metavar="OUT.mp4", help="the video with points drawn on it; sound is kept")
    _track.landmarks_option(parser)
    _track.model_options(parser, faces=1)


def run(args: argparse.Namespace) -> int:
    from livemarks import api, plugins
    from livemarks.types import LivemarksError

    outputs = _track.outputs(args.out, args.landmarks)
    if not outputs:
        raise LivemarksError("nothing to write: give --out OUT.mp4, --landmarks FILE.jsonl, or both")
    with closing(plugins.load("sources", "video")(args.input)) as source:
        net = _track.open_net(args)
        sinks: list[Callable[[], Sink]] = []
        if args.out:
            sinks.append(lambda: plugins.load("sinks", "video")(args.out, source.info))
        if args.landmarks:
            sinks.append(lambda: _track.open_landmarks(args.landmarks, source, net, beside=args.out))
        with closing(
            api.open_tracker(net, faces=args.faces, smooth=args.smooth, range=args.range, detector=args.detector)
        ) as tracker:
            return _track.follow(source, tracker, sinks, net=net, wrote=outputs, quiet=args.quiet)
