"""`livemarks train`: runs one recipe."""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path

from livemarks import numbers

_NEEDS = ("torch", "onnx", "onnxscript", "matplotlib")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's name, or a .toml file")
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder of the data sets, as weights/README.md says"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where the net, its curves and checkpoints go (default: runs/RECIPE)"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, mps")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    parser.add_argument(
        "--limit-minutes", type=numbers.positive, default=0.0, metavar="N", help="stop, resumable, after N minutes"
    )


def run(args: argparse.Namespace) -> int:
    from livemarks.types import LivemarksError, SourceInfo, Tally

    if not Path(args.data).is_dir():
        raise LivemarksError(f"there is no folder {args.data}; --data names the one that holds the data sets")
    for module in _NEEDS:  # some only at a training's end
        if find_spec(module) is None:
            raise LivemarksError(f"training needs {module}, which is not installed: pip install 'livemarks[train]'")
    from livemarks.commands._progress import progress
    from livemarks.train import fit, recipe

    chosen = recipe.load(args.recipe)
    out = Path(args.out or f"runs/{chosen.name}")
    info = SourceInfo(chosen.name, None, None, sum(stage.steps for stage in chosen.stages), live=False)
    first: tuple[int, float] | None = None  # where this run began to count, and when
    with progress(info, args.quiet, "step") as show:

        def done(step: int) -> None:
            nonlocal first
            first = first or (step, time.monotonic())
            took_s = time.monotonic() - first[1]
            show(Tally(processed=step, fps=(step - first[0]) / max(took_s, 1e-3)))

        fit.run(
            chosen,
            Path(args.data),
            out,
            device=args.device,
            resume=args.resume,
            limit_minutes=args.limit_minutes,
            show=done,
        )
    return 0
