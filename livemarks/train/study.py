"""The write-ups' tables and curves: one recipe trained several times, with one thing changed at a time.

    python -m livemarks.train.study kth15-table1 --data DIR --out OUT

OUT gets a folder a run, table.md and curves.png. Runs that are complete are not run again, and others go on.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from livemarks.numbers import within
from livemarks.train import fit, recipe
from livemarks.train.learner import LAST
from livemarks.train.recipe import Recipe
from livemarks.types import LivemarksError


def _table1(base: Recipe) -> dict[str, Recipe]:
    """KTH paper, table 1: dropout and augmentation (flip), each off and on."""
    return {
        f"dropout {'on' if dropout else 'off'}, flip {'on' if flip else 'off'}": replace(
            base, options={**base.options, "dropout": dropout}, augment=replace(base.augment, flip=0.5 * flip)
        )
        for dropout in (False, True)
        for flip in (False, True)
    }


def _table2(base: Recipe) -> dict[str, Recipe]:
    """KTH paper, table 2: learning rates from 0.20 to 0.50."""
    return {f"learning rate {lr:.2f}": _at(base, lr) for lr in (0.20, 0.25, 0.30, 0.35, 0.40, 0.42, 0.45, 0.50)}


def _nose(base: Recipe) -> dict[str, Recipe]:
    """CS194-26, part 1: Adam at 1e-3 and 1e-4, and fewer channels."""
    narrow = replace(base, options={**base.options, "channels": (6, 8, 12)})
    return {"learning rate 1e-3": base, "learning rate 1e-4": _at(base, 1e-4), "fewer channels (6, 8, 12)": narrow}


def _at(base: Recipe, lr: float) -> Recipe:
    return replace(base, stages=tuple(replace(stage, lr=lr) for stage in base.stages))


STUDIES = {"kth15-table1": ("kth15", _table1), "kth15-table2": ("kth15", _table2), "nose1": ("nose1", _nose)}


def run(name: str, data: Path, out: Path, *, device: str = "auto", steps: int = 0) -> str:
    """Trains every run of a study and returns its table as Markdown. steps > 0 shortens each stage to so many."""
    if name not in STUDIES:
        raise LivemarksError(f"no study is called {name!r}; there are: {', '.join(STUDIES)}")
    base_name, variants = STUDIES[name]
    base = recipe.load(base_name)
    if steps:
        base = replace(base, stages=tuple(replace(stage, steps=steps) for stage in base.stages))
    lines = ["| run | validation MSE on [-1, 1] | RMSE, px | NME, % |", "|---|---|---|---|"]
    folders = {}
    for said, changed in variants(base).items():
        tried = f"_{steps}_steps" if steps else ""  # a try-out must not pass for the real run
        folder = out / (said.replace(" ", "_").replace(",", "").replace("(", "").replace(")", "") + tried)
        folders[said] = folder
        changed = replace(changed, command=f"python -m livemarks.train.study {name} --data DIR --out OUT")
        done, of = folder / "scores.json", folder / "recipe.txt"
        if (folder / LAST).is_file() and not (of.is_file() and of.read_text() == repr(changed)):
            raise LivemarksError(f"{folder} holds a run of another recipe; name another folder, or remove it")
        if not done.is_file():
            try:
                fit.run(changed, data, folder, device=device, resume=(folder / LAST).is_file())
            finally:
                if (folder / LAST).is_file():
                    of.write_text(repr(changed))
        scores = json.loads(done.read_text())
        lines.append(f"| {said} | {scores['val_mse']:.5f} | {scores['val_rmse_px']:.2f} | {scores['val_nme']:.2f} |")
    table = "\n".join(lines) + "\n"
    (out / "table.md").write_text(table)
    _plot(folders, out / "curves.png", name)
    return table


def _plot(folders: dict[str, Path], path: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for said, folder in folders.items():
        with (folder / "log.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["val_mse"]]
        axes.plot([int(row["step"]) for row in rows], [float(row["val_mse"]) for row in rows], label=said)
    axes.set(xlabel="step", ylabel="validation MSE on [-1, 1]", yscale="log", title=title)
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the study that the arguments name; 2, and one line, if that can't be, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m livemarks.train.study", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--steps", type=within(int, 1, 10**9), default=0, help="shorten each run to so many steps, to try it out"
    )
    options = parser.parse_args(arguments)
    try:
        print(run(options.study, options.data, options.out, device=options.device, steps=options.steps), end="")
    except (LivemarksError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; the same command goes on from there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
