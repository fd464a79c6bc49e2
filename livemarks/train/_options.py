"""Numbers behind the options of packing and of studies; those of the `livemarks` command lie above this room."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

N = TypeVar("N", int, float)


def within(kind: type[N], low: N, high: N) -> Callable[[str], N]:
    """Reads an option's number, whole if `kind` is int, that has bounds, which may be reached."""

    def number(text: str) -> N:
        with suppress(ValueError):
            value = kind(text)
            if low <= value <= high:
                return value
        whole = "whole " if kind is int else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not a {whole}number from {low} to {high}")

    return number
