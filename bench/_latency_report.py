"""What bench/latency.py shows: rows, which it also keeps in JSON, as tables, beside an older run's, and as one plot."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from livemarks import metrics

Row = dict[str, Any]


def row(part: str, what: dict[str, Any], seconds: Sequence[float], **more: Any) -> Row:
    """One line of the report: what was measured, how often, and how it spread."""
    summary = metrics.latency(seconds)
    return {
        "part": part,
        **what,
        "n": summary.n,
        "p50_ms": summary.p50_ms,
        "p95_ms": summary.p95_ms,
        "p99_ms": summary.p99_ms,
        "warning": summary.warning,
        **more,
        "raw_us": [round(1e6 * s) for s in seconds],
    }


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux alone has it
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    packages = (
        "livemarks",
        "numpy",
        "opencv-contrib-python",
        "onnxruntime",
        "mediapipe",
        "av",
        "torch",
        "torch-tensorrt",
    )
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"cpu": cpu, "cores": cores, "system": platform.platform(), "python": platform.python_version()}
    return found | {"versions": versions}


def tables(rows: Sequence[Row]) -> list[Table]:
    """One table a part; columns are whatever its rows have."""
    found = []
    for part in dict.fromkeys(row["part"] for row in rows):
        mine = [row for row in rows if row["part"] == part]
        columns = [name for name in dict.fromkeys(k for row in mine for k in row) if name not in ("part", "raw_us")]
        table = Table(
            *columns, title=_TITLES.get(part, part), caption=_MARKS if any("n" in row for row in mine) else None
        )
        for one in mine:
            table.add_row(*(cell(one.get(name, "")) for name in columns))
        found.append(table)
    return found


_TITLES = {"ratio": "ratio: livemarks' time over the peer's, by blocks of 30 frames; median and quartiles"}

# Why not to trust a row: how metrics.latency says it -> how the table does.
_WARNINGS = {"only": "few", "wide": "spread"}
_MARKS = "few: under 100 runs, p99 is about their slowest; spread: p95 beyond 1.5 times p50, the machine was not quiet"


def cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    marks = [_WARNINGS.get(reason.partition(" ")[0], reason) for reason in str(value).split("; ")]
    return ", ".join(marks)


def name_of(row: Row) -> str:
    """What a row is of; the same in two runs that measured the same."""
    words = [str(row[name]) for name in ("size", "load", "condition", "side", "model", "stage") if name in row]
    words += [f"{row[name]} {name}" for name in ("batch", "faces") if name in row and row.get("stage") != "whole"]
    return " ".join([*words, str(row.get("backend", "")).partition(" ")[0]])


def comparison(old: dict[str, Any], new: dict[str, Any]) -> Table:
    """New medians over old ones, where both runs have the row."""
    same = old["machine"] == new["machine"]
    table = Table(
        "part", "what", "old p50", "new p50", "new / old", title="compared" if same else "OTHER MACHINE OR VERSIONS"
    )
    before = {(row["part"], name_of(row)): row["p50_ms"] for row in old["rows"] if "p50_ms" in row}
    for one in new["rows"]:
        was_ms = before.get((one["part"], name_of(one)))
        if was_ms is not None and "p50_ms" in one:
            now_ms = one["p50_ms"]
            ratio = f"{now_ms / max(was_ms, 1e-6):.2f}"
            table.add_row(one["part"], name_of(one), f"{was_ms:.2f}", f"{now_ms:.2f}", ratio)
    return table


def plot(report: dict[str, Any], path: Path) -> None:
    """Every row's median as a bar, with a whisker to its 95th percentile; one panel a part."""
    from matplotlib.figure import Figure

    rows = [row for row in report["rows"] if "p50_ms" in row]
    parts = list(dict.fromkeys(row["part"] for row in rows))
    heights = [sum(row["part"] == part for row in rows) for part in parts]
    figure = Figure(figsize=(9, 1.2 * len(parts) + 0.25 * len(rows)), layout="constrained")
    panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=[h + 2 for h in heights])
    for part, panel in zip(parts, panels[:, 0], strict=True):
        mine = [row for row in rows if row["part"] == part]
        names = [name_of(row) for row in mine]
        p50 = np.array([row["p50_ms"] for row in mine])
        p95 = np.array([row["p95_ms"] for row in mine])
        panel.barh(range(len(mine)), p50, xerr=[np.zeros(len(mine)), p95 - p50], color="#4878a8", ecolor="#999999")
        panel.set_yticks(range(len(mine)), names, fontsize=7)
        panel.invert_yaxis()
        panel.set_title(f"{part}: ms, median and 95th percentile", fontsize=9)
    figure.suptitle(f"livemarks on {report['machine']['cpu']}, {report['when']}", fontsize=9)
    figure.savefig(path, dpi=130)
