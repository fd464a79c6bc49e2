"""bench/faults.py: what it calls a surprise, on ends that were made up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
import _faults
import _room
import faults
from _faults import CASES, Case
from _room import End, Room


def ending(end: End | None) -> Callable[[Room], End | None]:
    return lambda _: end


def broken(_: Room) -> End:
    raise IndexError("nothing was said")


ALL = "100 of 100"
GOOD = Case(0, ALL, ending(End(0, "done", ALL)))
BAD = {
    "another status": Case(0, ALL, ending(End(2, "no", ALL))),
    "frames lost at status 0": Case(0, ALL, ending(End(0, "done", "0 of 100"))),
    "frames lost in-process": Case(None, "120 of 120 given", ending(End(None, "fine", "3 of 120 given"))),
    "a second run's frames lost": Case(
        0, "100 of 100 and 100 of 100, the same points", ending(End(0, "", "100 of 100 and 7 of 100, OTHER points"))
    ),
    "a traceback, with the right status and frames": Case(1, ALL, ending(End(1, "", ALL, crashed=True))),
    "an exception in-process": Case(None, "-", broken),
    "memory that grows": Case(
        0, _faults.FLAT, ending(End(0, "", "900 of 900; 10 MB at most in its first half, 9000 in its second"))
    ),
    "nothing kept of a half film": Case(2, _faults.HALF, ending(End(2, "", "0 of 100"))),
    "nothing kept after Ctrl-C": Case(130, _faults.begun("o.mp4"), ending(End(130, "", "the first 0, in o.mp4"))),
    "a run that hardly ends": Case(None, _faults.SOON, ending(End(None, "", "the run ended in 31.0 s"))),
}


@pytest.mark.parametrize("what", BAD)
def test_is_a_surprise(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counted once, shown in its row, and no end of the run."""
    cases = {"before": GOOD, what: BAD[what], "after": GOOD}
    assert faults.perform(cases, tmp_path, tmp_path / "clip.mp4", "net") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "2 of 3 faults ended as they should." in lines
    before, row, after = lines[2:5]
    assert before.startswith("| before | 0 | done | 100 of 100 |")
    assert after.startswith("| after | 0 | done | 100 of 100 |")
    assert row.startswith(f"| {what} |")
    assert any(mark in row for mark in (", not ", "WRONG", "CRASHED"))


def test_all_as_it_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fault that can't be done here is on neither side; every pair of frames is counted."""
    cases = {
        "two": Case(0, f"{ALL} and 7 of 100", ending(End(0, "", f"{ALL} and 7 of 100"))),
        "a camera": Case(0, _faults.LIVE, ending(End(0, "", "99 of 100"))),
        "refused": Case(2, "0 of 100", ending(End(2, "", "0 of 100"))),
        "no root": Case(2, ALL, ending(None)),
    }
    assert faults.perform(cases, tmp_path, tmp_path / "clip.mp4", "net") == 0
    out = capsys.readouterr().out
    assert "3 of 3 faults ended as they should." in out
    assert "Frames lost offline, where the run came to its end: 93 of 200." in out
    assert "Frames lost live, where the run came to its end: 1 of 100." in out


def test_status_tells(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for case, status in ((GOOD, 0), (BAD["frames lost at status 0"], 1)):
        monkeypatch.setattr(faults, "CASES", {"this": case, "that": BAD["another status"]})
        assert faults.main(["--only", "this"]) == status
        assert "| this | 0 |" in capsys.readouterr().out


def test_a_word_that_names_no_fault_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        faults.main(["--only", "no such fault"])
    assert "error: no fault has 'no such fault' in its name" in capsys.readouterr().err


def test_what_may_vary_is_bounded() -> None:
    for text, will_do in (
        ("900 of 900; 159 MB at most in its first half, 159 in its second", True),
        ("900 of 900; 159 MB at most in its first half, 167 in its second", False),  # had it kept what it saw
        ("899 of 900; 159 MB at most in its first half, 159 in its second", False),
        ("900 of 900", False),
    ):
        assert _faults.FLAT(text) is will_do
    assert [_faults.HALF(f"{n} of 100") for n in (39, 43, 51)] == [False, True, False]
    assert [_faults.LIVE(f"{n} of 100") for n in (49, 93, 100, 101)] == [False, True, True, False]
    assert [_faults.FULL_3_MB(f"{n} of 600") for n in (0, 194, 600)] == [False, True, False]
    killed = _faults.begun(_faults.PART)
    assert killed("the first 23, in o.09cad897.part.mp4")
    assert not killed("the first 23, in o.mp4")
    assert not killed("the first 0, in no file")


def test_every_case_says_what_should_be_kept() -> None:
    for what, case in CASES.items():
        if isinstance(case.kept, str):
            assert case.kept, what
        else:
            assert not case.kept("-"), what  # what an end says that was told nothing
            assert not case.kept("0 of 100"), what


def test_two_runs_end_as_the_worse() -> None:
    good, bad = End(0, "good"), End(0, "bad", crashed=True)
    for first, second in ((good, bad), (bad, good)):
        assert _faults.worse(first, second, "f") == End(0, "bad", "f", crashed=True)
    assert _faults.worse(good, End(2, "refused"), "f").status == 2


def test_a_traceback_is_seen_whatever_else_is_said(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", tmp_path / "clip.mp4", "net")
    program = "import sys; sys.stderr.write('Traceback (most recent call last):\\nE: x\\nlivemarks: fine\\n')"
    process = subprocess.Popen([sys.executable, "-c", program], text=True, stdout=-1, stderr=-1)
    end = room.end(process)
    assert (end.status, end.crashed) == (0, True)


def test_a_process_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_room, "PATIENCE_S", 0.1)
    room = Room(tmp_path / "room", tmp_path / "clip.mp4", "net")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], text=True, stdout=-1, stderr=-1)
    with pytest.raises(subprocess.TimeoutExpired):
        room.end(process)
    assert process.wait(10) < 0
