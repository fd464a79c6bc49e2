"""Numbers as people type them behind an option, and as they read them in a message."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

N = TypeVar("N", int, float)


def positive(text: str) -> float:
    """An option's number above zero."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def within(kind: type[N], low: N, high: N) -> Callable[[str], N]:
    """Reads an option's number, whole if `kind` is int, that has bounds, which may be reached."""

    def number(text: str) -> N:
        with suppress(ValueError):
            value = kind(text)
            if low <= value <= high:  # nan isn't
                return value
        whole = "whole " if kind is int else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not a {whole}number from {low} to {high}")

    return number


def count(text: str) -> int:
    """An option's whole number above zero."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def counted(number: int, noun: str) -> str:
    """ "1 frame", "2 frames"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
