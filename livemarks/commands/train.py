"""`livemarks train`: runs one recipe."""

from __future__ import annotations

import argparse
from pathlib import Path

from livemarks.commands import _numbers


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's name, or a .toml file")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the labelled data sets")
    parser.add_argument(
        "--out", metavar="DIR", help="where the net, its curves and checkpoints go (default: runs/RECIPE)"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, mps")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    parser.add_argument(
        "--limit-minutes", type=_numbers.positive, default=0.0, metavar="N", help="stop, resumable, after N minutes"
    )


def run(args: argparse.Namespace) -> int:
    from livemarks.types import LivemarksError

    if not Path(args.data).is_dir():
        raise LivemarksError(f"there is no folder {args.data}; --data names the one that holds the data sets")
    try:
        from livemarks.train import fit, recipe
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("livemarks"):
            raise
        raise LivemarksError(
            f"training needs {error.name}, which is not installed: pip install 'livemarks[train]'"
        ) from error
    chosen = recipe.load(args.recipe)
    out = Path(args.out or f"runs/{chosen.name}")
    fit.run(chosen, Path(args.data), out, device=args.device, resume=args.resume, limit_minutes=args.limit_minutes)
    return 0
