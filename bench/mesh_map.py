"""The best linear map from MediaPipe's 478 mesh points to the 68, without which the two can't be compared.

    python bench/mesh_map.py --data DIR --peer-python PYTHON --out mesh_map.npz

Ridge regression on the photographs of Helen, LFPW (training sets) and AFW in which the face mesh finds a face, both
sides in the frame of the outer eye corners (_ask_peer.MeshMap). How strong the ridge is to be, and how well the map
does on faces it was not fitted to, is told by leaving out every fifth person by turns. bench/accuracy.py and
bench/stability.py take the file as --mediapipe-map.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from _ask_peer import ask_peer, eye_frame
from _faces import truths
from _options import to_write
from numpy.typing import NDArray

from livemarks import metrics
from livemarks.types import F64, LivemarksError

SETS = ("helen-train", "lfpw-train", "afw")
_FOLDS = 5
_RIDGES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)  # on coordinates in inter-oculars, per face


def fit(mesh: F64, points: F64, ridge: float) -> dict[str, F64]:
    """The map's arrays, of (n, 956) and (n, 136) in the eyes' frame."""
    mean_in, mean_out = mesh.mean(axis=0), points.mean(axis=0)
    x = mesh - mean_in
    weights = np.linalg.solve(x.T @ x + ridge * len(x) * np.eye(x.shape[1]), x.T @ (points - mean_out))
    return {"mean_in": mean_in, "weights": weights, "mean_out": mean_out}


def into_frame(xy: NDArray[Any], mesh: F64) -> F64:
    """(N, 2) px -> (2 N,) in the frame of the mesh's outer eye corners."""
    center, axes = eye_frame(mesh)
    return np.asarray(((xy - center) @ axes.T / (axes[0] @ axes[0])).reshape(-1), np.float64)


def error_percent(arrays: dict[str, F64], mesh: F64, points: F64) -> float:
    """NME of (n, 956) mesh points, mapped, against (n, 136), in %."""
    mapped = (mesh - arrays["mean_in"]) @ arrays["weights"] + arrays["mean_out"]
    pred, true = mapped.reshape(-1, 68, 2), points.reshape(-1, 68, 2)
    eyes = np.linalg.norm(true[:, 45] - true[:, 36], axis=1)
    return float(metrics.point_errors_percent(pred, true, eyes).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the data sets")
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH", help="interpreter that has mediapipe")
    parser.add_argument("--out", type=to_write, required=True, metavar="NPZ", help="where the map goes")
    args = parser.parse_args()
    command = [args.peer_python, str(Path(__file__).with_name("_peers.py")), "mediapipe"]
    try:
        faces = [face for name in SETS for face in truths(args.data, name, "ibug68", None)]
        answers, version = ask_peer(command, faces, "detector", None, points=478)
    except LivemarksError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    seen = np.flatnonzero(np.isfinite(answers.xy).all(axis=(1, 2))).tolist()
    mesh = np.stack([into_frame(answers.xy[i], answers.xy[i]) for i in seen])
    true = np.stack([into_frame(faces[i].xy, answers.xy[i]) for i in seen])
    fold = np.array([zlib.crc32(faces[i].sample.person.encode()) % _FOLDS for i in seen])
    print(f"{version}: {len(seen)} of {len(faces)} faces; NME of left-out people by strength of the ridge")
    errors = []
    for ridge in _RIDGES:
        parts = [fit(mesh[fold != k], true[fold != k], ridge) for k in range(_FOLDS)]
        each = [error_percent(part, mesh[fold == k], true[fold == k]) for k, part in enumerate(parts)]
        errors.append(float(np.average(each, weights=np.bincount(fold, minlength=_FOLDS))))
        print(f"{ridge:7.0e}  {errors[-1]:.3f} %")
    best = fit(mesh, true, _RIDGES[int(np.argmin(errors))])
    np.savez_compressed(args.out, mean_in=best["mean_in"], weights=best["weights"], mean_out=best["mean_out"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
