"""Shaken faces, faces that cross, and cuts, made of real labelled faces; for bench/stability.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from _follow import MakeTracker, compare, follow, smoothed
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

from livemarks.geometry import resample
from livemarks.types import F32, F64, U8, Frame, Scheme

# Upper and lower lids of both eyes, by iBUG index.
_LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))

_CUT_AFTER = 12  # frames; as many follow
# What is seen after the cut: whose face, and how far to the side of the first, in inter-oculars.
_CUTS = {
    "another face elsewhere": ("other", 3.0),
    "another face, same place": ("other", 0.0),
    "the same face elsewhere": ("same", 3.0),
    "nobody": ("nobody", 0.0),
    "nobody for a second": ("back", 0.0),
}


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
            eyes = true[:, 45] - true[:, 36]
            # The labels are those of open eyes: where lids go that close isn't known.
            unknown = [i for pair in _LIDS for i in pair] if any(pose.closed for pose in poses) else []
            known = np.delete(np.arange(len(scheme)), unknown)
            raw = smoothed(results, "off", scheme)
            for kind in kinds:
                xy = smoothed(results, kind, scheme)
                rows[kind].append(compare(xy[:, known], true[:, known], eyes) | special(clip, xy, raw))
        for kind in kinds:
            means = {key: float(np.mean([row[key] for row in rows[kind]])) for key in rows[kind][0]}
            yield {"clip": clip.name, "smooth": kind, "faces": len(faces)} | means


def special(clip: Clip, xy: F64, raw: F64) -> dict[str, float]:
    """What only one clip can tell: tremble of a still face, a step's second frame, the depth of a blink.

    The step is compared with the true one, the blink with what the net saw of it, which is not the smoother's doing.
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


def cuts(data: Path, trials: int, make: MakeTracker) -> Iterator[dict[str, Any]]:
    """One row for each kind of cut, the worst of `trials` in frames.

    old_id: frames after the cut that show the first face's id. till_found: frames without a point on the new face.
    trials_astray: in how many trials some frame shows points where no face is.
    """
    faces = portraits(data)
    for kind, (whose, aside) in _CUTS.items():
        old: list[int] = []
        waits: list[int] = []
        astray: set[int] = set()
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
                    if min(off, default=0.0) > 0.2:
                        astray.add(trial)
                    if i >= _CUT_AFTER:
                        kept += any(face.id == 1 for face in shown)
                    if i >= len(scenes) - _CUT_AFTER and found is None and min(off, default=np.inf) < 0.2:
                        found = i - (len(scenes) - _CUT_AFTER)
            old.append(kept)
            waits.append(_CUT_AFTER if found is None else found)
        row = {"cut to": kind, "trials": trials, "old_id": max(old), "trials_with_old_id": sum(n > 0 for n in old)}
        yield row | ({} if whose == "nobody" else {"till_found": max(waits)}) | {"trials_astray": len(astray)}


def _off(xy: F32 | F64, true: F64) -> float:
    """Mean distance of points in inter-oculars."""
    return float(np.linalg.norm(xy - true, axis=1).mean() / np.linalg.norm(true[45] - true[36]))
