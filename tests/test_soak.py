"""bench/soak.py: a minute of it, and what it calls flat."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
import soak


@pytest.mark.timeout(600)  # six seconds, where nothing else is to do
def test_a_minute_of_everything_that_can_go_wrong(
    still_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 10 pictures a second. Memory needs longer than that to settle, so only handles and threads are judged."""
    monkeypatch.setattr(soak, "FPS", 10)
    monkeypatch.setattr(soak, "MINUTE", 600)
    monkeypatch.setattr(soak, "_SAMPLES", 12)
    parts, wrong = soak.soak(1 / 60, str(still_model()), tmp_path)
    live, film, short = parts
    assert not [line for line in wrong if "memory" not in line and "blocks" not in line]
    assert live.did["frames"] == soak.MINUTE
    assert live.did["opened again"] == 2
    assert live.did["dropped"] > 0
    assert 0.8 * soak.MINUTE < live.did["with a face"] < 0.95 * soak.MINUTE
    assert film.did["dropped"] == 0
    assert short.did["frames"] == short.did["rounds"] * soak.FPS


def test_flat_is_no_more_than_the_slack_above_the_second_quarter() -> None:
    part = soak.Part("made up")
    for i in range(8):
        part.samples.extend((100.0 + 2 * i, 7.0, 5.0 + (i > 6), 1000.0 - i))
    assert part.quarters("memory, MB") == [101, 105, 109, 113]
    assert part.flat("memory, MB")
    assert part.flat("handles")
    assert not part.flat("threads")
    assert part.flat("Python blocks")


def test_what_cannot_be_soaked_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--model", "nope"]) == 2
    assert capsys.readouterr().err.startswith("error: no model is called 'nope'")
    for options in (["--json", str(tmp_path / "none" / "soak.json")], ["--hours", "0"]):
        with pytest.raises(SystemExit, match="2"):
            soak.main(options)
