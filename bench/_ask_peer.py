"""What other face trackers say of the same faces, asked in an interpreter of their own (_peers.py)."""

from __future__ import annotations

import json
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from _faces import Answers, Truth, best_overlap, label_box, watched
from numpy.typing import NDArray

from livemarks import plugins
from livemarks.geometry import box_from_points
from livemarks.types import F64, LivemarksError


def ask_peer(
    command: Sequence[str], faces: Sequence[Truth], box_kind: str, mesh_map: MeshMap | None, *, points: int = 68
) -> tuple[Answers, str]:
    """What the peer behind `command` (see _peers.py) says of every face, and its version.

    points: how many it gives, or the map makes of them. Of several faces, the one whose points' box overlaps the
    label's most. Raises LivemarksError if it isn't installed, which asking about no faces finds out.
    """
    xy = np.full((len(faces), points, 2), np.nan)
    ibug68 = plugins.load("schemes", "ibug68")
    with tempfile.TemporaryFile("w+") as log, _started(command, log) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        replies = process.stdout

        def answer() -> dict[str, Any]:
            line = replies.readline()
            if line:
                return dict(json.loads(line))
            log.seek(0)
            last = (log.read().strip() or "without a word").splitlines()[-1]
            raise LivemarksError(f"{' '.join(command)} ended: {last}")

        hello = answer()
        if "missing" in hello:
            raise LivemarksError(f"not installed in {command[0]}: {hello['missing']}")
        for i, face in enumerate(watched(faces, command[-1])):
            box = label_box(face.sample, face.sample.read(), 1.0)
            given = box.xyxy.tolist() if box_kind == "label" else None
            try:
                process.stdin.write(json.dumps({"image": str(face.sample.image), "box": given}) + "\n")
                process.stdin.flush()
            except OSError:  # it ended since its last answer; the next one tells of that
                with suppress(OSError):
                    process.stdin.close()
            found = [np.array(each) for each in answer()["faces"]]
            if mesh_map is not None:
                found = [mesh_map(each) for each in found]
            chosen = best_overlap([box_from_points(each, ibug68, upright=True) for each in found], box)
            if chosen is not None:
                xy[i] = found[chosen]
    unknown = np.full(len(faces), np.nan)
    return Answers(xy, None, unknown), str(hello["version"])


def _started(command: Sequence[str], log: IO[str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
    except OSError as error:
        raise LivemarksError(f"cannot run {command[0]}: {error.strerror}") from error


class MeshMap:
    """MediaPipe's 478 points -> the 68, by a linear map between the two, both in the frame of the outer eye corners."""

    def __init__(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as file:
                self._mean_in, self._weights, self._mean_out = file["mean_in"], file["weights"], file["mean_out"]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise LivemarksError(f"{path}: not a map with mean_in, weights and mean_out ({error})") from error

    def __call__(self, mesh: NDArray[Any]) -> F64:
        """(478, 2) px -> (68, 2) px."""
        center, axes = eye_frame(mesh)
        own = (mesh - center) @ axes.T / (axes[0] @ axes[0])
        mapped = (own.reshape(-1) - self._mean_in) @ self._weights + self._mean_out
        return np.asarray(mapped.reshape(68, 2) @ axes + center, np.float64)


def eye_frame(mesh: NDArray[Any]) -> tuple[F64, F64]:
    """The middle between the outer eye corners, (2,) px, and the face's own axes, (2, 2): rows as long as their gap."""
    right, left = mesh[33], mesh[263]
    across = left - right
    return (right + left) / 2, np.array([across, [-across[1], across[0]]])
