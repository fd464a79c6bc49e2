"""How far the nets' points lie from people's labels, beside peers.

    python bench/accuracy.py --data DIR [--model NAME] [--set NAME] [--peers dlib,mediapipe --mediapipe-map FILE.npz]

    python bench/accuracy.py --data DIR --slices [--model NAME] [--set NAME]

Each net is measured with three boxes. `label`: the tight box of the labels, upright (roll 0), which knows more than any
user does. `detector`: the detector's box that overlaps it most. `recrop`: the box that the points found in the
detector's box span, turned with the face, as tracking crops the next frame.

NME is the mean error of a face's points over the distance of its outer eye corners. A face that the detector misses
is counted apart: it is no part of the means and the median, but counts as a failure, and as nothing in the AUC.

--slices measures hard cases instead, each by itself, with nets of 68 points: turned heads and closed eyes as far as the
labels show them, and every face in low light, behind a hand, blurred, small and so on (see _slices.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import _slices
import cv2
import numpy as np
from _ask_peer import MeshMap, ask_peer
from _faces import Answers, Detect, Truth, best_overlap, label_box, score, truths, watched
from _options import peer_python, peers, picture
from rich.console import Console
from rich.table import Table

from livemarks import __version__, api, metrics, plugins, weights
from livemarks.geometry import box_from_points, crop_affine, face_crop
from livemarks.landmarker import Landmarker
from livemarks.numbers import count
from livemarks.train.samples import DERIVED, PLACES, scheme_of
from livemarks.types import FaceBox, Frame, LivemarksError

BOXES = ("label", "detector", "recrop")


# --- our nets --------------------------------------------------------------------------------------------------------


def ask_net(landmarker: Landmarker, margin: float, faces: Sequence[Truth], box_kind: str, detect: Detect) -> Answers:
    """What a net says of every face, with one kind of box."""
    count = len(landmarker.scheme)
    xy, sigma = np.full((len(faces), count, 2), np.nan), np.full((len(faces), count), np.nan)
    presence = np.full(len(faces), np.nan)
    for i, face in enumerate(watched(faces, f"{box_kind} box")):
        image = face.sample.read()
        box: FaceBox | None = label_box(face.sample, image, margin)
        if box_kind != "label":
            found = detect(Frame(image, i, float(i)))
            chosen = best_overlap(found, box) if box else None
            box = found[chosen] if chosen is not None else None
        if box is None:
            continue
        (landmarks,) = landmarker(image, [box])
        if box_kind == "recrop":
            box = box_from_points(landmarks.xy, landmarker.scheme)
            (landmarks,) = landmarker(image, [box])
        xy[i], sigma[i], presence[i] = landmarks.xy, landmarks.sigma, landmarks.presence
    return Answers(xy, sigma, presence)


# --- tables and pictures ---------------------------------------------------------------------------------------------


def worst_faces(answers: Answers, faces: Sequence[Truth], path: Path, count: int = 25, tile_px: int = 240) -> None:
    """Draws the faces with the largest errors, worst first: labels red, answers green."""
    errors = [
        float(np.nanmean(np.linalg.norm(xy - face.xy, axis=1)) / face.interocular_px * 100)
        for xy, face in zip(answers.xy, faces, strict=True)
    ]
    order = np.argsort(np.nan_to_num(-np.array(errors), nan=np.inf))[:count]  # missed faces last
    tiles = []
    for i in order.tolist():
        face = faces[i]
        image = face.sample.read()
        box = label_box(face.sample, image, 1.6)
        tile = face_crop(image, box, (tile_px, tile_px), 1.6).image
        to_tile = crop_affine(box, (tile_px, tile_px), 1.6).inverse()
        for xy, color in ((face.xy, (60, 60, 255)), (answers.xy[i], (80, 255, 80))):
            for x, y in to_tile(xy[~np.isnan(xy).any(axis=1)]).tolist():
                cv2.circle(tile, (round(x * 16), round(y * 16)), 24, color, -1, cv2.LINE_AA, shift=4)
        text = f"{errors[i]:.1f} % {face.sample.name}"
        cv2.putText(tile, text, (4, tile_px - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 255), 1, cv2.LINE_AA)
        tiles.append(tile)
    columns = max(1, round(count**0.5))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    if not cv2.imwrite(str(path), np.vstack(rows)):
        raise LivemarksError(f"cannot write {path}")


def tables(rows: Sequence[dict[str, Any]]) -> list[Table]:
    """The rows as people read them."""

    def cell(value: Any, form: str) -> str:
        return "" if value is None else format(value, form)

    scores = Table(title="Errors in % of the outer eye corners' distance; px of the set's own pictures")
    columns = (
        "model",
        "set",
        "box",
        "faces",
        "missed",
        "NME",
        "median",
        ">8 %",
        ">10 %",
        "AUC 8 %",
        "RMSE px",
        "at 96",
    )
    parts = Table(
        title="NME by region; share of coordinates within 1 and 2 sigma of the label (a Gaussian's: 68, 95 %)"
    )
    regions = (*metrics.REGIONS, "1 sigma", "2 sigma", "presence < 0.5")
    for table, headings in ((scores, columns), (parts, ("model", "set", "box", *regions))):
        for heading in headings:
            table.add_column(heading, justify="left" if heading in ("model", "set", "box") else "right")
    for row in rows:
        name = (row["model"], row["set"], row["box"])
        keys = ("nme_percent", "median_percent", "failures_8", "failures_10", "auc_8", "rmse_px", "rmse_96_px")
        forms = (".2f", ".2f", ".1%", ".1%", ".3f", ".2f", ".2f")
        cells = [cell(row.get(key), form) for key, form in zip(keys, forms, strict=True)]
        scores.add_row(*name, str(row["faces"]), str(row["missed"]), *cells)
        if "regions_percent" in row:
            by_region = [cell(row["regions_percent"].get(region), ".2f") for region in metrics.REGIONS]
            coverage = row.get("sigma_coverage", {}).get("all", (None, None))
            within = [cell(share, ".0%") for share in coverage]
            parts.add_row(*name, *by_region, *within, cell(row.get("low_presence"), "d"))
    return [scores, parts]


# --- command line ----------------------------------------------------------------------------------------------------

Measured = tuple[dict[str, Any], Answers, list[Truth], str]  # what was asked, the answers, the faces, the scheme


def sets_for(scheme: str, asked: Sequence[str]) -> list[str]:
    """Those of the sets asked for whose labels tell the scheme; Helen's or IMM's if none were asked for."""
    telling = [name for name in PLACES if scheme_of(name) == scheme or (scheme_of(name), scheme) in DERIVED]
    if not asked:
        return [name for name in ("helen-test", "imm") if name in telling]
    return [name for name in asked if name in telling or name not in PLACES]  # read_sets tells of unknown names


def measure_nets(options: argparse.Namespace) -> Iterator[Measured]:
    with closing(plugins.load("detectors", "blazeface")()) as detector:
        for name in weights.names() if options.model is None else options.model:
            path = weights.find(name)
            net = api.open_net(path, backend=options.backend)
            with closing(net.runner):
                landmarker = Landmarker(net.runner, net.card, net.scheme)
                for set_name in sets_for(net.scheme.name, options.set):
                    faces = truths(options.data, set_name, net.scheme.name, options.limit)
                    for box in options.box:
                        if box == "recrop" and net.scheme.box_pad is None:
                            continue  # a nose tip spans no box
                        asked = {"model": net.card.name, "backend": net.runner.label, "set": set_name, "box": box}
                        answers = ask_net(landmarker, net.card.margin, faces, box, detector)
                        yield asked | {"file": str(path)}, answers, faces, net.scheme.name


Peer = tuple[str, list[str], MeshMap | None]  # name, what runs it, and its way to the 68 points


def open_peers(options: argparse.Namespace) -> list[Peer]:
    """Those asked for. Raises LivemarksError unless all of them start."""
    found: list[Peer] = []
    for peer in options.peers:
        mesh_map = None
        if peer == "mediapipe":
            if options.mediapipe_map is None:
                raise LivemarksError("name the map from MediaPipe's 478 points to the 68 with --mediapipe-map")
            mesh_map = MeshMap(options.mediapipe_map)
        command = [options.peer_python.get(peer, sys.executable), str(Path(__file__).with_name("_peers.py")), peer]
        ask_peer(command, [], "detector", mesh_map)
        found.append((peer, command, mesh_map))
    return found


def measure_peers(options: argparse.Namespace, found: Sequence[Peer]) -> Iterator[Measured]:
    for peer, command, mesh_map in found:
        for set_name in sets_for("ibug68", options.set):
            faces = truths(options.data, set_name, "ibug68", options.limit)
            for box in options.box:
                if box == "recrop" or (peer == "mediapipe" and box == "label"):
                    continue  # no peer crops again, and the face mesh always finds its faces itself
                answers, version = ask_peer(command, faces, box, mesh_map)
                yield {"model": version, "backend": "", "set": set_name, "box": box}, answers, faces, "ibug68"


def measure_slices(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with closing(plugins.load("detectors", "blazeface")()) as detector:
        for name in weights.names() if options.model is None else options.model:
            net = api.open_net(name, backend=options.backend)
            with closing(net.runner):
                if net.scheme.name != "ibug68":
                    continue
                landmarker = Landmarker(net.runner, net.card, net.scheme)
                for set_name in sets_for("ibug68", options.set):
                    faces = truths(options.data, set_name, "ibug68", options.limit)
                    for row in _slices.measure(landmarker, faces, detector):
                        yield {"model": net.card.name, "backend": net.runner.label, "set": set_name} | row


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    about, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        "python bench/accuracy.py", description=about, epilog=details, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="folder of the data sets")
    add("--model", action="append", metavar="NAME", help="net or .onnx file; may be repeated (all that ship)")
    add("--set", action="append", default=[], metavar="NAME", help="data set; may be repeated (helen-test or imm)")
    add("--box", action="append", choices=BOXES, help="may be repeated (all three)")
    add("--backend", default="onnx", help="what runs the nets (%(default)s)")
    add("--limit", type=count, metavar="N", help="only the first N faces of each set")
    add("--peers", type=peers, default=[], metavar="LIST", help="dlib, mediapipe, or both with a comma")
    add(
        "--peer-python",
        action="append",
        type=peer_python,
        default=[],
        metavar="PEER=PATH",
        help="interpreter that has the peer",
    )
    add("--mediapipe-map", type=Path, metavar="NPZ", help="linear map from MediaPipe's 478 points to the 68")
    add("--slices", action="store_true", help="measure hard cases, each by itself")
    add("--json", action="store_true", help="print JSON instead of tables")
    add("--card", action="store_true", help="write the scores into the nets' own files, too")
    add("--worst", type=picture, metavar="PNG", help="draw the 25 worst faces of the first row")
    options = parser.parse_args(arguments)
    options.peer_python = dict(options.peer_python)
    if options.slices and (options.box or options.peers or options.card or options.worst):
        parser.error("--slices goes without --box, --peers, --card and --worst")
    if options.card and options.limit:
        parser.error("--card goes without --limit: a card tells the scores of whole sets")
    options.box = options.box or list(BOXES)
    return options


def note(rows: list[dict[str, Any]]) -> None:
    """Writes each net's NME (RMSE where it has none) into the file it was read from.

    SHA256SUMS must be made anew after that.
    """
    from livemarks.train.export import add_scores  # needs onnx

    for row in rows:
        unit, said = ("nme_percent", "NME %") if row.get("nme_percent") is not None else ("rmse_px", "RMSE px")
        if "file" not in row or unit not in row:
            continue  # a peer, or a net that was shown no face
        try:
            add_scores(Path(row["file"]), {f"{row['set']} {said}, {row['box']} box": round(row[unit], 2)})
        except OSError as error:
            raise LivemarksError(f"cannot write into {row['file']}: {error.strerror}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    rows: list[dict[str, Any]] = []
    try:
        if options.slices:
            rows += measure_slices(options)
        else:
            found = open_peers(options)  # before anything is measured
            for asked, answers, faces, scheme in chain(measure_nets(options), measure_peers(options, found)):
                if options.worst and not rows:
                    worst_faces(answers, faces, options.worst)
                rows.append(asked | score(answers, faces, scheme))
        if not rows:
            raise LivemarksError("nothing to measure: no net finds the points that these sets are labelled with")
        if options.json:
            print(json.dumps({"livemarks": __version__, "rows": rows}, indent=1))
        else:
            console = Console(width=None if sys.stdout.isatty() else 160)  # a file is no 80 columns wide
            for table in [_slices.table(rows)] if options.slices else tables(rows):
                console.print(table)
        if options.card:
            note(rows)
    except LivemarksError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
