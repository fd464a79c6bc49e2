"""What sinks that write files share: a file that gets its name only when it is whole, and the time in it."""

from __future__ import annotations

import os
import re
import secrets
import sys
from contextlib import suppress

from livemarks.types import LivemarksError, Stop

# What Windows allows in no name: some letters, a dot or blank at the end, and its devices whatever their suffix
# (learn.microsoft.com/windows/win32/fileio/naming-a-file). A colon would write a hidden stream of another file.
_NO_NAME = re.compile(r'[<>:"|?*\0-\x1f]|[ .]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)
_WINDOWS = os.name == "nt"


class Draft:
    """A file under construction, beside its target and empty at first; `keep` renames it onto the target.

    Made with the rights that the user's umask leaves. Raises LivemarksError, before any work, if the target can't be
    written, or is a file that is being read: `source`, or standard input.
    """

    def __init__(self, target: str, source: str | None) -> None:
        try:
            # The file that a link points to is replaced, not the link.
            self.target = os.path.realpath(target)
            with suppress(FileNotFoundError):
                os.lstat(self.target)
        except (OSError, ValueError) as error:  # no working folder any more; too long a name; a NUL in it
            why = error.strerror if isinstance(error, OSError) else error
            raise LivemarksError(f"can't write {target}: {why}; choose another name or folder") from error
        folder, name = os.path.split(self.target)
        if _WINDOWS and _NO_NAME.search(name):
            raise LivemarksError(f"can't write {target}: Windows allows no such name; choose another one")
        if os.path.isdir(self.target):
            raise LivemarksError(f"can't write {target}: that is a folder; name a file in it")
        if not os.path.isdir(folder):
            raise LivemarksError(f"can't write {target}: there is no folder {folder}; make it first")
        if os.path.exists(self.target) and not os.path.isfile(self.target):
            raise LivemarksError(f"can't write {target}: it is a device or a pipe, not a file")
        reads = [read for read in (source, 0) if read is not None and os.path.exists(read)]  # 0: standard input
        if os.path.exists(self.target) and any(os.path.samefile(self.target, read) for read in reads):
            raise LivemarksError(f"can't write {target}: it is the input; give the output another name")
        stem, suffix = os.path.splitext(name)
        # A killed run leaves it behind, so its name says whose it is; cut short, as names have at most 255 bytes.
        self.path = os.path.join(folder, f"{stem[:40]}.{secrets.token_hex(4)}.part{suffix}")
        try:
            with open(self.path, "xb"):
                pass
        except OSError as error:
            raise LivemarksError(f"can't write {target}: {error.strerror}; choose another folder") from error

    def keep(self) -> None:
        """Gives the file its name, in place of whatever had it."""
        try:
            os.replace(self.path, self.target)
        except OSError as error:
            cure = f"look for {self.path}" if os.path.exists(self.path) else "its folder was removed meanwhile"
            raise LivemarksError(f"can't finish {self.target}: {error.strerror}; {cure}") from error

    def drop(self) -> None:
        """Leaves nothing behind."""
        with suppress(OSError):  # the folder may be gone as well
            os.remove(self.path)


def shown(path: str) -> str:
    """What messages call the file that `path` names to `Lines`."""
    return "standard output" if path == "-" else path


class Lines:
    """Text, line by line, into a file, or to standard output if the path is "-"."""

    def __init__(self, path: str, source: str | None) -> None:
        self._name = shown(path)
        self._draft = None if path == "-" else Draft(path, source)
        where = _own_stdout() if self._draft is None else self._draft.path
        self._file = open(where, "wb")  # noqa: SIM115 - closed by `close`
        self._written = 0  # bytes, in whole writes

    def write(self, text: str) -> None:
        """Hands lines on at once: who reads along sees whole frames. LivemarksError if the disk is full.

        Raises Stop once nobody reads standard output any more.
        """
        data = text.encode(errors="backslashreplace")  # a name may hold bytes that are no text; JSON escapes alike
        try:
            self._file.write(data)
            self._file.flush()
        except BrokenPipeError:
            raise Stop from None
        except OSError as error:
            raise LivemarksError(
                f"{self._name} can't be written on: {error.strerror}; what came before is kept"
            ) from error
        self._written += len(data)

    def close(self) -> None:
        """Keeps the file if anything was written to it. Once is enough, and more does no harm."""
        with suppress(OSError):  # from a last try to write what failed before
            self._file.close()
        draft, self._draft = self._draft, None
        if draft is None:
            return
        if self._written == 0:
            draft.drop()
            return
        with suppress(FileNotFoundError):  # `keep` says so
            if os.path.getsize(draft.path) > self._written:  # a line that a full disk cut off
                os.truncate(draft.path, self._written)
        draft.keep()


def _own_stdout() -> int:
    """A descriptor of our own: Python would complain about its own stdout at exit, if its reader has gone."""
    try:
        return os.dup(sys.stdout.fileno())
    except (AttributeError, ValueError) as error:  # None, as under pythonw; a notebook's or a test's; closed
        raise LivemarksError("there is no standard output to write on; name a file") from error


class TimeOrigin:
    """Where time in a file counts from: the media's own zero, but live from the first frame, as any recording does."""

    def __init__(self, live: bool) -> None:
        self._zero_s = None if live else 0.0

    def since(self, t_s: float) -> float:
        """How long after it, in seconds, a frame's t_s is; the first one asked for sets that of a live source."""
        if self._zero_s is None:
            self._zero_s = t_s
        return t_s - self._zero_s
