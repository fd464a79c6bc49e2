"""Files of weights: where they lie, that they are whole, and what their cards say.

A net is one ONNX file with its card inside, as JSON in the model's metadata. The card is read by walking the outermost
protobuf fields, so that `livemarks models` needs neither ONNX Runtime nor the onnx package, and a damaged or hostile
file costs a few kilobytes of memory at most.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from livemarks.types import Card, LivemarksError

CARD_KEY = "livemarks.card"

# After a parameter's name in a model file: what its whole numbers are to be multiplied with.
INT8_SCALE = ".int8_scale"

_DETECTORS = "face_detection_"  # MediaPipe's nets, which are no landmark nets and carry no cards

# Bounds of what a reader does on a stranger's word. A card is about 2 kB; a model has some ten outermost fields.
_MAX_ENTRY_BYTES = 256 * 1024
_MAX_FIELDS = 4096
_METADATA_PROPS = 14  # its number in onnx.ModelProto


def folder() -> Path:
    """Where the shipped weights lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "_weights"
    return installed if installed.is_dir() else package.parent / "weights"


def names() -> list[str]:
    """Names of the landmark nets that ship, sorted; nothing is read."""
    return sorted(path.stem for path in folder().glob("*.onnx") if not path.stem.startswith(_DETECTORS))


def find(name_or_path: str | Path) -> Path:
    """The model file of a shipped net, by name, or the user's own, by path. Raises LivemarksError if there is none."""
    name = str(name_or_path)
    if name in names():
        return folder() / f"{name}.onnx"
    path = Path(name_or_path)
    if path.suffix.lower() == ".onnx" and os.path.isfile(path):  # where it may not be looked for, there is none
        return path
    raise LivemarksError(f"no model is called {name!r}; there are: {', '.join(names())}; or name an .onnx file")


def verify(path: Path) -> None:
    """Raises LivemarksError unless a shipped file is the one that SHA256SUMS lists. A user's own file passes unread."""
    if path.parent.resolve() != folder().resolve():  # where it is named, wherever a link there leads to
        return
    want = _sums().get(path.name)
    if want is None:
        raise LivemarksError(f"{path.name} is not listed in {folder() / 'SHA256SUMS'}; add it with sha256sum")
    try:
        got = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise LivemarksError(f"cannot read {path}: {error.strerror}; install livemarks again") from error
    if got != want:
        raise LivemarksError(f"{path} is damaged (its sha256 is not the one in SHA256SUMS); install livemarks again")


def listed() -> list[Path]:
    """Every shipped file that there should be, sorted, whether it is there or not."""
    return [folder() / name for name in sorted(_sums())]


def shipped(file_name: str) -> Path:
    """The path of a shipped file that is no net of ours (a detector's), verified."""
    path = folder() / file_name
    verify(path)
    return path


def _sums() -> dict[str, str]:
    """File name -> sha256, from lines as sha256sum writes them."""
    path = folder() / "SHA256SUMS"
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LivemarksError(f"cannot read {path}; install livemarks again") from error
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines if "  " in line)}


# --- Cards ------------------------------------------------------------------------------------------------------------


def read_card(path: Path) -> Card:
    """The card inside a model file. Raises LivemarksError if the file is no ONNX model or carries no valid card."""
    try:
        with path.open("rb") as file:
            found = [value for key, value in _metadata(file) if key == CARD_KEY.encode()]
    except OSError as error:
        raise LivemarksError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise LivemarksError(f"{path} is no ONNX model, or a damaged one: {error}") from error
    if len(found) != 1:
        raise LivemarksError(f"{path} carries {len(found) or 'no'} cards; is it a model that livemarks trained?")
    try:
        return card_from_json(found[0].decode())
    except ValueError as error:  # UnicodeDecodeError is one
        raise LivemarksError(f"the card inside {path} is damaged: {error}") from error


def card_to_json(card: Card) -> str:
    """A card as it stands in a model's metadata, under CARD_KEY."""
    return json.dumps(dataclasses.asdict(card), ensure_ascii=False, allow_nan=False)


def card_from_json(text: str) -> Card:
    """The card that `card_to_json` wrote. Raises ValueError, naming the field, for anything else."""
    try:
        fields = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    if not isinstance(fields, dict):
        raise ValueError("its JSON is no object")
    if unknown := sorted(fields.keys() - _FIELDS.keys()):
        raise ValueError(f"unknown field {unknown[0]!r}")
    if missing := sorted(_REQUIRED - fields.keys()):
        raise ValueError(f"field {missing[0]!r} is missing")
    for name, value in fields.items():
        if not _FIELDS[name](value):
            raise ValueError(f"field {name!r} has a wrong type or value")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return Card(**values)


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _is_text(value: Any) -> bool:
    """Text that a terminal can show: a stranger's card must not steer it."""
    return isinstance(value, str) and all(char.isprintable() or char == "\n" for char in value)


def _is_name(value: Any) -> bool:
    """A name that is safe in a file name and in a message."""
    return isinstance(value, str) and re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", value) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12


def _is_size(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(type(side) is int for side in value)


def _is_options(value: Any) -> bool:
    """Keyword arguments: identifiers, each with a plain value or a list of plain values."""

    def plain(item: Any) -> bool:
        return isinstance(item, (str, bool)) or (_is_number(item) and abs(item) < 1e6)  # channels, layers, pixels

    return isinstance(value, dict) and all(
        key.isidentifier() and (plain(item) or (isinstance(item, list) and all(plain(part) for part in item)))
        for key, item in value.items()
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "name": _is_name,
    "architecture": _is_name,
    "scheme": _is_name,
    "size_hw": _is_size,
    "margin": _is_number,
    "options": _is_options,
    "data": lambda value: isinstance(value, list) and all(_is_text(item) for item in value),
    "terms": _is_text,
    "scores": lambda value: isinstance(value, dict) and all(_is_number(score) for score in value.values()),
    "command": _is_text,
    "notes": _is_text,
    "gflop": lambda value: _is_number(value) and value >= 0,
}
_REQUIRED = {"name", "architecture", "scheme", "size_hw", "margin"}


# --- Protobuf: just enough of it --------------------------------------------------------------------------------------


def _metadata(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of every metadata_props entry of an ONNX file. Raises ValueError if it is no protobuf."""
    for number, entry in _fields(file, _METADATA_PROPS):
        if number == _METADATA_PROPS:
            pair = dict(_fields(io.BytesIO(entry), 1, 2))  # onnx.StringStringEntryProto: key = 1, value = 2
            yield pair.get(1, b""), pair.get(2, b"")


def _fields(file: BinaryIO, *wanted: int) -> Iterator[tuple[int, bytes]]:
    """Number and content of each wanted length-delimited field of a protobuf message; the others are skipped unread."""
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    for _ in range(_MAX_FIELDS):
        if file.tell() == end:
            return
        number, kind = divmod(_varint(file), 8)
        if kind == 2:
            length = _varint(file)
        elif kind == 0:
            length = 0
            _varint(file)
        elif kind in (1, 5):  # fixed 64 and 32 bits
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown protobuf wire type {kind}")
        if number == 0 or length > end - file.tell():
            raise ValueError("a field reaches past the end")
        if kind != 2 or number not in wanted:
            file.seek(length, io.SEEK_CUR)
            continue
        if length > _MAX_ENTRY_BYTES:
            raise ValueError(f"a metadata entry of {length} bytes")
        yield number, file.read(length)
    raise ValueError(f"more than {_MAX_FIELDS} fields")


def _varint(file: BinaryIO) -> int:
    """One base-128 number of at most 64 bits."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("it ends in the middle of a field")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of more than 64 bits")
