"""How still points stand, how closely they follow, and whether faces keep their names.

    python bench/stability.py --data DIR [--model NAME] [--smooth NAME] [--part PART] [--json]

labelled: talking_face_a, 2400 frames with 19 of the 68 points labelled. Each point's constant offset is removed in the
face's own frame, because the two markups place points slightly differently. Flicker is the RMS change of the error from
frame to frame, lag the shift in frames that aligns the motion best; about 0.2 % of the flicker is the labels' own.
shake: real labelled faces moved by known motions, with camera noise. crossing: two of them pass each other. cuts: from
one frame to the next another of them is there, or nobody. clips: videos without labels; how long faces are followed,
lost and found again.

All per cent are of the distance between the outer eye corners. Smoothing changes no crop, so each clip is followed
once, and every kind of smoothing is applied to the same raw points.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from _follow import MakeTracker, follow, tracks
from _labelled import labelled, mesh_peer
from _options import picture
from _scenes import crossing, cuts, shake
from rich.console import Console
from rich.table import Table

from livemarks import __version__, api, plugins, smoothing
from livemarks.landmarker import Landmarker
from livemarks.numbers import count
from livemarks.tracker import MAX_FACES, Tracker
from livemarks.train.samples import read_image
from livemarks.types import U8, Frame, LivemarksError

PARTS = ("labelled", "shake", "crossing", "cuts", "clips")


def clips(data: Path, make: MakeTracker) -> Iterator[dict[str, Any]]:
    """One row for each video, and for the picture of a crowd."""
    folder = data / "video"
    videos = sorted(path for path in folder.glob("*") if path.suffix in (".mp4", ".mov", ".mkv"))
    if not videos:
        raise LivemarksError(f"no clip is in {folder}")
    for path in videos:
        with closing(api.open_source(path)) as source, closing(make(1)) as tracker:
            yield {"clip": path.name} | tracks(follow(source, tracker))
    for path in sorted(folder.glob("*.jpg")):
        with closing(make(MAX_FACES)) as tracker:
            result = tracker.step(Frame(read_image(path), 0, 0.0))
            image = Frame(result.frame.image, 1, 1 / 30)
            start = time.perf_counter()
            again = tracker.step(image)
            row = {"frames": 2, "faces": len(result.faces), "ms_per_frame": 1000 * (time.perf_counter() - start)}
            yield {"clip": path.name} | row | {"ids": max((face.id for face in again.faces), default=0)}


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Flicker against lag on talking_face_a, one point for each kind of smoothing and peer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for row in rows:
        lag, flicker, name = row["lag_frames"], row["flicker_percent"], row["smooth"]
        peer = name not in smoothing.PRESETS
        axes.plot(lag, flicker, "s" if peer else "o", color="tab:gray" if peer else "tab:blue")
        axes.annotate(name, (lag, flicker), textcoords="offset points", xytext=(6, 4))
    axes.axhline(0.2, color="tab:gray", linestyle=":")
    axes.annotate("the labels' own", (0, 0.2), textcoords="offset points", xytext=(0, 3), color="tab:gray")
    axes.set(xlabel="lag (frames)", ylabel="flicker (% of inter-ocular distance)")
    axes.margins(x=0.25, y=0.15)
    axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Rows as people read them; a column for every key."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    result = Table(title=title)
    for key in keys:
        result.add_column(
            key.replace("_percent", " %").replace("_", " "), justify="right" if key in keys[1:] else "left"
        )
    for row in rows:
        cells = [row.get(key, "") for key in keys]
        result.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells))
    return result


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    about, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        "python bench/stability.py", description=about, epilog=details, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="folder of the data sets")
    add("--model", default="lite-68", metavar="NAME", help="net or .onnx file (%(default)s)")
    add("--backend", default="onnx", help="what runs the net (%(default)s)")
    add("--smooth", action="append", choices=smoothing.PRESETS, help="may be repeated (all)")
    add("--part", action="append", choices=PARTS, help="may be repeated (all)")
    add("--trials", type=count, default=50, metavar="N", help="of crossing people and of cuts (%(default)s)")
    add("--mesh-python", metavar="PATH", help="interpreter with mediapipe 0.10.21, to measure its face mesh too")
    add("--mediapipe-map", type=Path, metavar="NPZ", help="linear map from MediaPipe's 478 points to the 68")
    add("--json", action="store_true", help="print JSON instead of tables")
    add("--plot", type=picture, metavar="PNG", help="draw flicker against lag (needs matplotlib)")
    options = parser.parse_args(arguments)
    options.smooth = options.smooth or list(smoothing.PRESETS)
    options.part = options.part or list(PARTS)
    if options.mesh_python and not options.mediapipe_map:
        parser.error("--mesh-python needs --mediapipe-map")
    if (options.plot or options.mesh_python) and "labelled" not in options.part:
        parser.error("--plot and --mesh-python are of the part labelled")
    return options


def measure(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The rows of each part."""
    net = api.open_net(options.model, backend=options.backend)
    with closing(net.runner):
        if net.scheme.name != "ibug68":
            raise LivemarksError(f"{options.model} finds {net.scheme.name} points; this bench needs ibug68")

        def make(faces: int) -> Tracker:
            detector = plugins.load("detectors", "blazeface")(faces=faces)
            return Tracker(detector, Landmarker(_Shared(net.runner), net.card, net.scheme), smoothing.Raw, faces=faces)

        rows: dict[str, list[dict[str, Any]]] = {}
        if "labelled" in options.part:
            peer = [mesh_peer(options.data, options.mesh_python, options.mediapipe_map)] if options.mesh_python else []
            rows["labelled"] = [*labelled(options.data, options.smooth, make, net.scheme), *peer]
        if "shake" in options.part:
            rows["shake"] = list(shake(options.data, options.smooth, make, net.scheme))
        if "crossing" in options.part:
            rows["crossing"] = [crossing(options.data, options.trials, make)]
        if "cuts" in options.part:
            rows["cuts"] = list(cuts(options.data, options.trials, make))
        if "clips" in options.part:
            rows["clips"] = list(clips(options.data, make))
        return rows


class _Shared:
    """A runner that outlives the trackers it is lent to."""

    def __init__(self, runner: Any) -> None:
        self.label = runner.label
        self._runner = runner

    def __call__(self, crops: U8) -> Any:
        return self._runner(crops)

    def close(self) -> None:
        """Left to the owner."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        rows = measure(options)
    except LivemarksError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.plot:
        plot(rows["labelled"], options.plot)
    if options.json:
        print(json.dumps({"livemarks": __version__, "model": options.model, "rows": rows}, indent=1))
    else:
        console = Console(width=None if sys.stdout.isatty() else 200)
        for part, part_rows in rows.items():
            console.print(table(part, part_rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
