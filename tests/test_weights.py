"""weights: cards survive the round trip, damage of any kind is one clear error, shipped files are whole."""

import contextlib
import dataclasses
import json
import random
import sys
from pathlib import Path

import pytest

from livemarks import weights
from livemarks.types import Card, LivemarksError

CARD = Card(
    name="tiny-68",
    architecture="pyramid",
    scheme="ibug68",
    size_hw=(128, 128),
    margin=1.5,
    options={"width": 0.5, "depths": [2, 2], "flip": True},
    data=("300-W", "synthetic"),
    terms="research only",
    scores={"nme": 3.25},
    command="livemarks train tiny",
    notes="größer",
)

NO_LINKS = pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number * 8 + 2) + _varint(len(content)) + content


def _entry(key: str, value: str) -> bytes:
    return _field(14, _field(1, key.encode()) + _field(2, value.encode()))


def _model(*entries: bytes) -> bytes:
    """An ONNX file's outermost layer: ir_version, a big graph that must be skipped, metadata."""
    return b"\x08\x0a" + _field(7, bytes(1_000_000)) + b"".join(entries)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(_model(_entry("other", "x"), _entry(weights.CARD_KEY, weights.card_to_json(CARD))))
    return path


def test_card_comes_back(model: Path) -> None:
    assert weights.read_card(model) == CARD


def test_every_card_field_is_checked() -> None:
    fields = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(Card)}
    assert set(weights._FIELDS) == set(fields)
    required = {f.name for f in dataclasses.fields(Card) if f.default is f.default_factory is dataclasses.MISSING}
    assert required == weights._REQUIRED


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../up"},
        {"name": "A\x1b[2J"},
        {"size_hw": [128]},
        {"size_hw": [128, 1e3]},
        {"size_hw": [True, 128]},
        {"size_hw": [10**9, 10**9]},
        {"margin": "1.5"},
        {"margin": 0.0},
        {"margin": 10**400},
        {"options": {"width": None}},
        {"options": {"not a name": 1}},
        {"options": {"depths": [2, 10**9]}},
        {"options": []},
        {"data": "300-W"},
        {"terms": "\x1b]0;title\x07"},
        {"scores": {"nme": True}},
        {"notes": 3},
        {"surprise": 1},
    ],
)
def test_wrong_card_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text differs by field
        weights.card_from_json(json.dumps(json.loads(weights.card_to_json(CARD)) | change))


@pytest.mark.parametrize("name", sorted(weights._REQUIRED))
def test_missing_field_is_refused(name: str) -> None:
    fields = json.loads(weights.card_to_json(CARD))
    del fields[name]
    with pytest.raises(ValueError, match=name):
        weights.card_from_json(json.dumps(fields))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "[" * 100_000, '{"a":' * 50_000, "{", '{"margin": NaN}', "9" * 9999]
)
def test_text_that_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        weights.card_from_json(text)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"just text, and more of it\n" * 50,
        b"\x72",  # a field's tag and nothing more
        b"\x72\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # 2^63 bytes are promised
        b"\xff" * 100,  # a number without end
        _field(14, bytes(300_000)),  # an entry beyond all reason
        b"\x08\x00" * 10_000,  # fields without end
        _model(),
        _model(_entry(weights.CARD_KEY, "{}")),
        _model(_field(14, b"\x0a\x05ab")),
        _model(*[_entry(weights.CARD_KEY, weights.card_to_json(CARD))] * 2),
    ],
)
def test_garbage_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(LivemarksError, match=r"x\.onnx"):
        weights.read_card(path)


def test_mutations_never_crash(model: Path) -> None:
    whole = _model(_entry(weights.CARD_KEY, weights.card_to_json(CARD))).replace(bytes(1_000_000), b"")
    rng = random.Random(0)
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        model.write_bytes(bytes(data[: rng.choice([len(data), rng.randrange(len(data))])]))
        with contextlib.suppress(LivemarksError):
            assert isinstance(weights.read_card(model), Card)


def test_absent_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.onnx"):
        with pytest.raises(LivemarksError):
            weights.read_card(path)


def test_unknown_model_names_the_choices(tmp_path: Path) -> None:
    with pytest.raises(LivemarksError, match=r"there are: .*or name an \.onnx file"):
        weights.find("no-such-net")
    with pytest.raises(LivemarksError):
        weights.find(tmp_path)


def test_own_model_is_found_and_not_verified(model: Path) -> None:
    assert weights.find(str(model)) == model
    weights.verify(model)


def test_a_name_may_be_a_path_and_a_suffix_in_capitals(model: Path) -> None:
    name = weights.names()[0]
    assert weights.find(Path(name)) == weights.find(name)
    capitals = model.rename(model.with_name("TINY.ONNX"))
    assert weights.find(capitals) == capitals


def test_every_shipped_file_is_whole_and_listed() -> None:
    shipped = [path for path in weights.folder().iterdir() if path.suffix in {".onnx", ".tflite"}]
    assert shipped
    for path in shipped:
        weights.verify(path)


@pytest.mark.parametrize("name", weights.names())
def test_every_shipped_card_names_its_file(name: str) -> None:
    assert weights.read_card(weights.find(name)).name == name


@pytest.mark.parametrize("change", ["damaged", pytest.param("linked", marks=NO_LINKS), "unlisted", "unlistable"])
def test_changed_shipped_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setattr(weights, "folder", lambda: tmp_path)
    path = tmp_path / "a.tflite"
    path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  a.tflite\n")
    assert weights.shipped("a.tflite") == path
    if change == "damaged":
        path.write_bytes(b"abd")
    elif change == "linked":
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "b.tflite").write_bytes(b"abd")
        path.unlink()
        path.symlink_to(elsewhere / "b.tflite")
    else:
        (tmp_path / "SHA256SUMS").write_bytes(b"" if change == "unlisted" else b"\xff\xfe")
    with pytest.raises(LivemarksError):
        weights.shipped("a.tflite")


def test_nothing_else_lies_among_the_weights() -> None:
    """All that lies there goes into the wheel."""
    known = {path.name for path in weights.listed()} | {"README.md", "LICENSE-BLAZEFACE.txt", "SHA256SUMS"}
    assert {path.name for path in weights.folder().iterdir()} == known
