"""Text on the user's terminal."""

from __future__ import annotations

import re


def one_line(text: str) -> str:
    """The text as a line that can't steer the terminal, whatever the names of files in it."""
    return re.sub(r"[\0-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], text)
