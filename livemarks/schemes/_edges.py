"""Edges of a scheme whose points are numbered along their lines."""


def path(first: int, last: int, closed: bool = False) -> tuple[tuple[int, int], ...]:
    """From point to point, and back to the first if closed."""
    line = tuple((i, i + 1) for i in range(first, last))
    return (*line, (last, first)) if closed else line
