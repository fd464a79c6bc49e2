"""Milliseconds: of the pipeline and its stages, of the nets alone, as faces and pixels grow, and beside other trackers.

    python bench/latency.py [--part pipeline|live|net|stages|growth|peers] [--source synthetic|CLIP]
        [--model NAME,…|all] [--backend NAME,…|all] [--peers mediapipe,dlib --peer-python mediapipe=PATH …]
        [--json OUT] [--compare OLD] [--plot OUT.png]

pipeline: a file from decoding to encoding (the synthetic one is written to an mp4 beforehand); per stage, and frames
per second (n - 1 frames over the time from first to last). live: a paced source whose frames carry their number in
their pixels, so that what is measured is the age of the very picture shown, from frame in hand to frame composed; at
leisure, and with a tracker that takes two frame times.
net: one call of the runner, crops in host memory to points in host memory; on the CPU beside what one thread's
arithmetic and memory allow, on CUDA the copies alone as well. stages: what each part of following one face costs.
growth: `Tracker.step` for 1 to 8 faces and 360p to 4K; "rest" is all of it but detector and net.
peers: the time to follow one face, each side in its own process, by turns on the same frames in blocks of 30 frames; on
two cores, on one, and on two with a second busy process. Ratios are of neighbouring blocks, so that a machine that
slows down slows both: their median and quartiles. Drawing, decoding and colour conversion are in no side's time.

Every row keeps its raw times in the JSON, with the machine and the versions. Times of one run can be compared; times of
two runs only if the machine was as quiet.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _latency_peers import check_peers, measure_peers
from _latency_report import comparison, machine, plot, tables
from _latency_runs import measure_live, measure_pipeline
from _latency_stages import measure_stages
from _latency_steps import measure_growth, measure_net
from _options import peer_python, peers, picture, to_write
from rich.console import Console

from livemarks import plugins, weights
from livemarks.numbers import within
from livemarks.types import LivemarksError

PARTS = ("pipeline", "live", "net", "stages", "growth", "peers")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated (default: all)")
    parser.add_argument(
        "--source", default="synthetic", help="synthetic (default) or a clip; live, net and growth take none"
    )
    parser.add_argument("--model", default="lite-68", help="names or files, or all; most parts take the first")
    parser.add_argument("--backend", default="auto", help="names, or all; most parts take the first")
    parser.add_argument(
        "--peers", type=peers, help="mediapipe, dlib, both with a comma, or none (default: those with a --peer-python)"
    )
    parser.add_argument(
        "--peer-python",
        action="append",
        type=peer_python,
        default=[],
        metavar="NAME=PATH",
        help="a peer's interpreter",
    )
    parser.add_argument(
        "--seconds",
        type=within(float, 0.5, 86400),  # less gives the live part no frame to time
        default=10.0,
        help="of video at 30 frames a second, for each measurement (default: 10). growth and peers: so many blocks "
        "of 30 frames for each side, of peers at least 3. net: each row takes a tenth of it",
    )
    parser.add_argument("--json", type=to_write, help="write everything, raw times included, to this file")
    parser.add_argument("--compare", type=Path, help="an older run's --json")
    parser.add_argument("--plot", type=picture, help="write a picture of it")
    options = parser.parse_args(arguments)
    options.part = options.part or list(PARTS)
    options.model = weights.names() if options.model == "all" else options.model.split(",")
    options.backend = plugins.names("backends") if options.backend == "all" else options.backend.split(",")
    options.peer_python = dict(options.peer_python)
    options.peers = list(options.peer_python) if options.peers is None else options.peers
    return options


def older(path: Path) -> dict[str, Any]:
    """The report of an older run."""
    try:
        report: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LivemarksError(f"cannot read {path}: {error}") from error
    if not isinstance(report, dict) or not {"machine", "rows"} <= report.keys():
        raise LivemarksError(f"{path} was not written by --json")
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    measure = {
        "pipeline": measure_pipeline,
        "live": measure_live,
        "net": measure_net,
        "stages": measure_stages,
        "growth": measure_growth,
        "peers": measure_peers,
    }
    words, rows = Console(stderr=True), []
    try:
        old = older(options.compare) if options.compare else None
        if "peers" in options.part:
            check_peers(options)
        for part in options.part:
            words.print(f"measuring {part} …", highlight=False)
            rows += list(measure[part](options))
        when = time.strftime("%Y-%m-%d %H:%M")
        command = ["bench/latency.py", *(sys.argv[1:] if arguments is None else arguments)]
        report = {"when": when, "command": command, "machine": machine(), "rows": rows}
        out = Console(width=None if sys.stdout.isatty() else 200)
        for table in tables(rows):
            out.print(table)
        if options.json:
            options.json.write_text(json.dumps(report, indent=1))
        if old:
            out.print(comparison(old, report))
        if options.plot:
            plot(report, options.plot)
    except LivemarksError as error:
        words.print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
