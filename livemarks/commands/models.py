"""`livemarks models`: what the cards inside the shipped nets say."""

from __future__ import annotations

import argparse


def options(parser: argparse.ArgumentParser) -> None:
    del parser  # nothing to choose


def run(args: argparse.Namespace) -> int:
    from rich.table import Table

    from livemarks import weights
    from livemarks.commands._table import show

    del args
    table = Table("name", "scheme", "input", "MB", "score", "terms", title="Landmark nets", title_justify="left")
    for name in weights.names():
        path = weights.find(name)
        card = weights.read_card(path)
        height, width = card.size_hw
        scores = "\n".join(f"{score} {value:.2f}" for score, value in card.scores.items())
        megabytes = f"{path.stat().st_size / 1e6:.1f}"
        table.add_row(name, card.scheme, f"{width}x{height}", megabytes, scores or "-", card.terms or "-")
    show(table)
    return 0
