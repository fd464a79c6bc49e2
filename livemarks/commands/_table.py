"""Tables on standard output."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table


def show(table: Table) -> None:
    """Prints a table."""
    # Off a terminal there is no width to keep to, and a cell cut in two is of no use to grep.
    console = Console(width=None if sys.stdout.isatty() else 200)
    with console.capture() as text:
        console.print(table)
    print(text.get(), end="")  # not by rich, which ends the program where a pipe is closed
