"""`livemarks webcam`: live, in a window or without one."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from livemarks import numbers
from livemarks.commands import _track

if TYPE_CHECKING:
    from livemarks.types import U8, Result, Sink, Tally

log = logging.getLogger(__name__)

# How often to look for a face while nobody is there: every third frame rather than each, which would keep half a core
# busy. Whoever comes in doesn't notice.
_REST_S = 0.1

# As in api.open_tracker, which isn't imported just to read the options.
_MOST_AHEAD_MS = 1000

# JPEG counts to this (ITU-T T.81, table B.2), and cameras send JPEG.
_MOST_SIDE_PX = 65_535


def options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Keys in the window: q or Esc quits, space freezes, h hides the figures, s saves a picture."
    group = parser.add_argument_group("camera")
    group.add_argument("--camera", default="0", metavar="C", help="number (default: 0), URL, or a video file to play")
    group.add_argument("--camera-api", default="auto", metavar="API", help="auto (default), v4l2, msmf, dshow, ...")
    group.add_argument(
        "--size",
        type=_size_wh,
        metavar="WxH",
        help="picture size to ask of a camera, 1280x720; files and streams have their own",
    )
    group.add_argument("--fps", type=numbers.positive, metavar="N", help="frame rate to ask of a camera")
    group.add_argument("--seconds", type=numbers.positive, metavar="N", help="stop after N seconds")
    group = parser.add_argument_group("output")
    group.add_argument("--record", metavar="OUT.mp4", help="a video of what was seen, with points drawn on it")
    _track.landmarks_option(group)
    group.add_argument("--headless", action="store_true", help="no window; chosen by itself where there is no display")
    group.add_argument("--mirror", action="store_true", help="the window shows the picture mirrored; files do not")
    _track.model_options(parser, faces=1)
    group.add_argument(
        "--extrapolate",
        type=numbers.within(float, 0, _MOST_AHEAD_MS),
        default=0.0,
        metavar="MS",
        help="draw the face as it will be MS milliseconds later",
    )


def _size_wh(text: str) -> tuple[int, int]:
    try:
        width, height = map(int, text.lower().split("x"))
        if not (0 < width <= _MOST_SIDE_PX and 0 < height <= _MOST_SIDE_PX):
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it as 1280x720") from None
    return width, height


def run(args: argparse.Namespace) -> int:
    from livemarks import api, plugins
    from livemarks.sinks.window import no_display

    outputs = _track.outputs(args.record, args.landmarks)
    window = not args.headless
    if window and (reason := no_display()):
        window = False
        log.info("no window: %s; --headless is chosen, Ctrl-C ends", reason)
    net = _track.open_net(args)
    ahead_s = args.extrapolate / 1e3
    with ExitStack() as stack:
        tracker = api.open_tracker(
            net,
            faces=args.faces,
            smooth=args.smooth,
            range=args.range,
            detector=args.detector,
            extrapolate_s=ahead_s,
            rest_s=_REST_S,
        )
        stack.callback(tracker.close)
        source = api.open_source(args.camera, live=True, size_wh=args.size, fps=args.fps, camera_api=args.camera_api)
        stack.callback(source.close)
        sinks: list[Callable[[], Sink]] = []
        if window:
            sinks.append(lambda: _track.open_window(source, net, mirror=args.mirror))
        mirrored = args.mirror and window
        if args.record:
            film = partial(plugins.load("sinks", "video"), args.record, source.info)
            sinks.append((lambda: _Unmirrored(film())) if mirrored else film)
        if args.landmarks:
            sinks.append(lambda: _track.open_landmarks(args.landmarks, source, net, beside=args.record))
        quiet = args.quiet or window  # the window's HUD says it all
        return _track.follow(
            *(source, tracker, sinks),
            net=net,
            wrote=outputs,
            quiet=quiet,
            seconds=args.seconds,
            mirrored=mirrored,
        )


class _Unmirrored:
    """A film beside a mirrored window, whose pictures hold mirrored ids: it draws its own."""

    wants_pixels = False
    stage = "video"

    def __init__(self, film: Sink) -> None:
        self._film = film
        self.notices: list[str] = getattr(film, "notices", [])

    def write(self, result: Result, image: U8 | None, tally: Tally) -> None:  # noqa: ARG002 - it draws its own
        from livemarks import draw

        self._film.write(result, draw.overlay(result), tally)

    def close(self) -> None:
        self._film.close()
