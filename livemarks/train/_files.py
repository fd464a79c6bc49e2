"""Files that get their name once they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from livemarks.types import LivemarksError


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of an earlier one at the end; if stopped before, nothing has changed.

    Raises LivemarksError if it can't be written.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # PyTorch hides the system's word behind one of its own
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) else str(error).splitlines()[0]
        raise LivemarksError(f"can't write {path}: {reason}") from error
    finally:
        with suppress(OSError):  # as a rule it has its name by now
            temporary.unlink()
