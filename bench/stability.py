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
import csv
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from _ask_peer import MeshMap
from _made_up import (
    BLINK_S,
    CLIPS,
    INTEROCULAR_PX,
    SIZE_WH,
    STEP_S,
    Clip,
    Pose,
    head,
    noisy,
    portraits,
    shuffled,
    times,
)
from rich.console import Console
from rich.table import Table

from livemarks import __version__, api, metrics, plugins, smoothing
from livemarks.geometry import resample
from livemarks.landmarker import Landmarker
from livemarks.tracker import MAX_FACES, Tracker
from livemarks.train.samples import read_image
from livemarks.types import F32, F64, U8, Frame, Landmarks, LivemarksError, Result, Scheme

PARTS = ("labelled", "shake", "crossing", "cuts", "clips")
# Upper and lower lids of both eyes, by iBUG index.
_LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))

MakeTracker = Callable[[int], Tracker]


# --- following and smoothing -----------------------------------------------------------------------------------------


def follow(frames: Iterable[Frame], tracker: Tracker) -> list[Result]:
    """All results, less the pixels: frames of a long clip would not fit into memory."""
    empty = np.zeros((1, 1, 3), np.uint8)
    results = []
    for frame in frames:
        result = tracker.step(frame)
        results.append(Result(Frame(empty, frame.index, frame.t_s), result.faces, result.stage_s))
    return results


def smoothed(results: Sequence[Result], kind: str, scheme: Scheme) -> F64:
    """(T, N, 2) of the first face in each frame, each track by a smoother of its own; NaN without a face."""
    make = smoothing.preset(kind)
    smoothers: dict[int, Callable[[Landmarks, float], Landmarks]] = {}
    xy = np.full((len(results), len(scheme), 2), np.nan)
    for i, result in enumerate(results):
        if result.faces:
            face = result.faces[0]
            smoother = smoothers.setdefault(face.id, make(scheme))
            xy[i] = smoother(face.raw, result.frame.t_s).xy
    return xy


def compare(pred: F64, true: F64, eyes: F64) -> dict[str, float]:
    """NME, flicker and, if anything moves, lag; eyes: (T, 2) px between the true outer eye corners."""
    distance = np.linalg.norm(eyes, axis=1)
    level = metrics.without_offset(pred, true, eyes)
    lag = metrics.lag_frames(level, true)
    row = {
        "nme_percent": float(np.nanmean(metrics.point_errors_percent(level, true, distance))),
        "flicker_percent": metrics.flicker_percent(level, true, distance),
    }
    return row if math.isnan(lag) else row | {"lag_frames": lag}


def tracks(results: Sequence[Result]) -> dict[str, Any]:
    """How a clip was followed: share of frames with a face, ids given, losses, and how long till the next face."""
    shown = np.array([bool(result.faces) for result in results])
    lost = np.flatnonzero(shown[:-1] & ~shown[1:])
    waits = [int(np.argmax(shown[i + 1 :])) for i in lost.tolist() if shown[i + 1 :].any()]
    lengths: dict[int, int] = {}
    for result in results:
        for face in result.faces:
            lengths[face.id] = lengths.get(face.id, 0) + 1
    looks = sum(result.stage_s["detect"] > 0 for result in results)
    return {
        "frames": len(results),
        "shown_percent": 100 * float(shown.mean()),
        "ids": len(lengths),
        "losses": len(lost),
        "frames_till_found": max(waits, default=0),
        "longest_track": max(lengths.values(), default=0),
        "looks_percent": 100 * looks / len(results),
        "ms_per_frame": 1000 * float(np.mean([sum(result.stage_s.values()) for result in results])),
    }


# --- labelled video --------------------------------------------------------------------------------------------------


def read_labels(path: Path) -> tuple[list[int], F64]:
    """iBUG indices (n,) and points (T, n, 2) of a csv with columns frame, x8, y8, …"""
    try:
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        indices = [int(name[1:]) for name in header[1::2]]
        return indices, np.array(rows, np.float64)[:, 1:].reshape(len(rows), len(indices), 2)
    except (OSError, ValueError) as error:
        raise LivemarksError(f"cannot read the labels {path}: {error}") from error


def labelled(data: Path, kinds: Sequence[str], make: MakeTracker, scheme: Scheme) -> Iterator[dict[str, Any]]:
    """One row for each kind of smoothing."""
    clip = data / "video" / "talking_face_a.mp4"
    indices, true = read_labels(clip.with_suffix(".csv"))
    with closing(api.open_source(clip)) as source, closing(make(1)) as tracker:
        results = follow(source, tracker)
    for kind in kinds:
        yield {"smooth": kind} | score_labelled(smoothed(results, kind, scheme), indices, true) | tracks(results)


def score_labelled(xy: F64, indices: Sequence[int], true: F64) -> dict[str, float]:
    """Of (T, 68, 2) against the 19 labelled points."""
    if len(xy) != len(true):
        raise LivemarksError(f"the clip has {len(xy)} frames, and its labels {len(true)}")
    eyes = true[:, indices.index(45)] - true[:, indices.index(36)]
    return compare(xy[:, indices], true, eyes)


def mesh_peer(data: Path, python: str, map_file: Path) -> dict[str, Any]:
    """The same row for MediaPipe's face mesh, which another interpreter may have, by the best linear map to 68."""
    clip = data / "video" / "talking_face_a.mp4"
    command = [python, str(Path(__file__).with_name("_mesh_video.py")), str(clip)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    if answer.returncode or "version" not in lines[0]:
        why = lines[0]["missing"] if lines else (answer.stderr.strip() or "without a word").splitlines()[-1]
        raise LivemarksError(f"no MediaPipe face mesh in {python}: {why}")
    to_68 = MeshMap(map_file)
    xy = [np.full((68, 2), np.nan) if points is None else to_68(np.array(points)) for points in lines[1:]]
    return {"smooth": lines[0]["version"]} | score_labelled(np.stack(xy), *read_labels(clip.with_suffix(".csv")))


# --- made-up clips ---------------------------------------------------------------------------------------------------


def shake(data: Path, kinds: Sequence[str], make: MakeTracker, scheme: Scheme) -> Iterator[dict[str, Any]]:
    """One row for each clip and kind of smoothing: means over the portraits."""
    faces = portraits(data)
    for clip in CLIPS:
        poses = [clip.pose(t_s) for t_s in clip.times_s]
        rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
        for seed, face in enumerate(faces):
            random = np.random.default_rng(seed)
            frames = (
                Frame(noisy(face.draw(pose), random), i, t_s)
                for i, (pose, t_s) in enumerate(zip(poses, clip.times_s, strict=True))
            )
            with closing(make(1)) as tracker:
                results = follow(frames, tracker)
            true = np.stack([face.place(pose)(face.xy) for pose in poses])
            raw = smoothed(results, "off", scheme)
            for kind in kinds:
                xy = smoothed(results, kind, scheme)
                row = compare(xy, true, true[:, 45] - true[:, 36]) | special(clip, xy, raw)
                rows[kind].append(row | {"shown_percent": tracks(results)["shown_percent"]})
        for kind in kinds:
            means = {key: float(np.mean([row[key] for row in rows[kind]])) for key in rows[kind][0]}
            yield {"clip": clip.name, "smooth": kind, "faces": len(faces)} | means


def special(clip: Clip, xy: F64, raw: F64) -> dict[str, float]:
    """What only one clip can tell: tremble of a still face, a step's second frame, the depth of a blink.

    The latter two compare with what the net saw, which is not the smoother's doing.
    """
    settled = len(xy) // 4
    if clip.name == "still":
        return {"std_percent": 100 * float(np.nanstd(xy[settled:], axis=0).mean()) / INTEROCULAR_PX}
    if clip.name == "step":
        at = int(np.argmax(np.array(clip.times_s) >= STEP_S))
        moved = (xy[at + 1] - xy[settled:at].mean(axis=0)).mean(axis=0)[0]
        return {"step_share": float(moved / (0.05 * INTEROCULAR_PX))}
    if clip.name == "blink":
        at = int(np.argmin(np.abs(np.array(clip.times_s) - BLINK_S)))

        def depth(points: F64) -> float:
            opening = np.mean([points[:, low, 1] - points[:, up, 1] for up, low in _LIDS], axis=0)
            return float(opening[settled:at].mean() - opening[at])

        return {"blink_share": depth(xy) / depth(raw), "blink_percent": 100 * depth(raw) / INTEROCULAR_PX}
    return {}


# --- crossing --------------------------------------------------------------------------------------------------------


def crossing(data: Path, trials: int, make: MakeTracker) -> dict[str, Any]:
    """Two people who pass each other `trials` times: frames in which a face bears the other's id, and new ids."""
    faces = portraits(data)
    masks = [head(face) for face in faces]
    swaps = births = both = frames = 0
    for trial in range(trials):
        random = np.random.default_rng(trial)
        pair = random.choice(len(faces), 2, replace=False).tolist()
        speeds, ys, growths = random.uniform(1.0, 4.0, 2), random.uniform(-0.5, 0.5, 2), random.uniform(0.6, 1.0, 2)
        order = np.argsort(growths).tolist()  # the smaller is further away
        whose: dict[int, int] = {}
        with closing(make(2)) as tracker:
            for i, t_s in enumerate(times(30, 3.0)):
                image = np.full((SIZE_WH[1], SIZE_WH[0], 3), 110, np.float32)
                true = {}
                for k in order:
                    x = float(np.clip((1 - 2 * k) * speeds[k] * (t_s - 1.5), -3.3, 3.3))
                    pose = Pose(x, float(ys[k]), growth=float(growths[k]))
                    face, mask = faces[pair[k]], masks[pair[k]]
                    there = resample(mask, face.place(pose).inverse(), SIZE_WH[::-1]).astype(np.float32) / 255
                    image += there * (face.draw(pose).astype(np.float32) - image)
                    true[k] = face.place(pose)(face.xy)
                result = tracker.step(Frame(noisy(image.astype(np.uint8), random), i, t_s))
                for seen in result.faces:
                    off = {k: float(np.linalg.norm(seen.raw.xy - xy, axis=1).mean()) for k, xy in true.items()}
                    nearest = min(off, key=lambda k: off[k])
                    if off[nearest] < 0.1 * INTEROCULAR_PX:  # on a face, not between two
                        swaps += whose.setdefault(seen.id, nearest) != nearest
                frames += 1
                both += len(result.faces) == 2
        births += len(whose)
    return {
        "trials": trials,
        "frames": frames,
        "swapped_frames": swaps,
        "ids_per_trial": births / trials,
        "both_shown_percent": 100 * both / frames,
    }


# --- cuts ------------------------------------------------------------------------------------------------------------

_CUT_AFTER = 12  # frames; as many follow
# What is seen after the cut: whose face, and how far to the side of the first, in inter-oculars.
_CUTS = {
    "another face elsewhere": ("other", 3.0),
    "another face, same place": ("other", 0.0),
    "the same face elsewhere": ("same", 3.0),
    "nobody": ("nobody", 0.0),
    "nobody for a second": ("back", 0.0),
}


def cuts(data: Path, trials: int, make: MakeTracker) -> Iterator[dict[str, Any]]:
    """One row for each kind of cut, the worst of `trials` in frames.

    old_id: frames after the cut that show the first face's id. till_found: frames without a point on the new face.
    astray: frames that show points where no face is.
    """
    faces = portraits(data)
    for kind, (whose, aside) in _CUTS.items():
        old, waits, astray = [], [], 0
        for trial in range(trials):
            random = np.random.default_rng(trial)
            first, other = (faces[k] for k in random.choice(len(faces), 2, replace=False))
            then = other if whose == "other" else first
            before = Pose(x=-aside / 2, growth=float(random.uniform(0.6, 1.0)))
            after = Pose(x=aside / 2, growth=float(random.uniform(0.6, 1.0)) if aside else before.growth)
            scenes: list[tuple[U8, F64 | None]] = [(first.draw(before), first.place(before)(first.xy))] * _CUT_AFTER
            if whose in ("nobody", "back"):
                scenes += [(shuffled(first.draw(before), random), None)] * (30 if whose == "back" else _CUT_AFTER)
            if whose != "nobody":
                scenes += [(then.draw(after), then.place(after)(then.xy))] * _CUT_AFTER
            kept, found = 0, None
            with closing(make(1)) as tracker:
                for i, (image, true) in enumerate(scenes):
                    shown = tracker.step(Frame(noisy(image, random), i, i / 30)).faces
                    off = [np.inf if true is None else _off(face.raw.xy, true) for face in shown]
                    astray += min(off, default=0.0) > 0.2
                    if i >= _CUT_AFTER:
                        kept += any(face.id == 1 for face in shown)
                    if i >= len(scenes) - _CUT_AFTER and found is None and min(off, default=np.inf) < 0.2:
                        found = i - (len(scenes) - _CUT_AFTER)
            old.append(kept)
            waits.append(_CUT_AFTER if found is None else found)
        row = {"cut to": kind, "trials": trials, "old_id": max(old), "trials_with_old_id": sum(n > 0 for n in old)}
        yield row | ({} if whose == "nobody" else {"till_found": max(waits)}) | {"astray": astray}


def _off(xy: F32 | F64, true: F64) -> float:
    """Mean distance of points in inter-oculars."""
    return float(np.linalg.norm(xy - true, axis=1).mean() / np.linalg.norm(true[45] - true[36]))


# --- clips without labels --------------------------------------------------------------------------------------------


def clips(data: Path, make: MakeTracker) -> Iterator[dict[str, Any]]:
    """One row for each video, and for the picture of a crowd."""
    folder = data / "video"
    videos = sorted(path for path in folder.iterdir() if path.suffix in (".mp4", ".mov", ".mkv"))
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


# --- command line ----------------------------------------------------------------------------------------------------


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
    add("--trials", type=int, default=50, metavar="N", help="of crossing people and of cuts (%(default)s)")
    add("--mesh-python", metavar="PATH", help="interpreter with mediapipe 0.10.21, to measure its face mesh too")
    add("--mediapipe-map", type=Path, metavar="NPZ", help="linear map from MediaPipe's 478 points to the 68")
    add("--json", action="store_true", help="print JSON instead of tables")
    add("--plot", type=Path, metavar="PNG", help="draw flicker against lag (needs matplotlib)")
    options = parser.parse_args(arguments)
    options.smooth = options.smooth or list(smoothing.PRESETS)
    options.part = options.part or list(PARTS)
    if options.mesh_python and not options.mediapipe_map:
        parser.error("--mesh-python needs --mediapipe-map")
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
            rows["labelled"] = list(labelled(options.data, options.smooth, make, net.scheme))
            if options.mesh_python:
                rows["labelled"].append(mesh_peer(options.data, options.mesh_python, options.mediapipe_map))
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
    if options.plot and "labelled" in rows:
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
