"""Short runs of parts of `make chaos`, so that they stay able to run; and its own bookkeeping."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos import __main__ as chaos
from tests.chaos.core_mutants import CORE, MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "words",
    [
        ("core", "--share", "0.02", "stepkill", "storm", "mutate"),
        pytest.param(
            ("calls", "--messages", "20000", "--load", "1", "--idle", "2"),
            marks=pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
        ),
        ("leaks", "--share", "0.03"),
        ("greenlets", "--share", "0.03"),
        ("api", "--seconds", "8", "--pace", "0.5"),
    ],
)
def test_a_short_run_ends_well(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.chaos.{words[0]}", *words[1:]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "FIGURES " in done.stdout


def part(code: str, seconds: float = 60.0) -> chaos.Part:
    return chaos.Part("x", "something", ("timeit", "-n", "1", "-r", "1", code), None, seconds, False)


def run(code: str, seconds: float = 60.0) -> chaos.Result:
    made = part(code, seconds)
    return chaos._run(made, made.full, 1)


def test_what_a_part_says_of_its_figures_is_kept() -> None:
    found = run("print('seed 3'); print('FIGURES 7 of 7')")
    assert (found.ended, found.figures) == ("well", ["7 of 7"])


def test_a_part_that_fails_is_told() -> None:
    assert run("raise ValueError").ended == "FAILED (1)"


def test_a_part_that_is_too_late_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chaos, "TIDY", 0.1)
    child = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid))"
    code = f"import subprocess, time; p = subprocess.Popen(['sleep', '99'], start_new_session=True); {child}; p.wait()"
    found = run(code, 2.0)
    assert found.ended == "TOO LATE"
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 20
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_a_record_keeps_the_newest_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chaos, "RECORD", tmp_path / "record.md")
    for seed in range(5):
        chaos.record([chaos.Result(part(""), "well", 1.0, [f"a | b {seed}"])], seed, 60.0, "")
    text = (tmp_path / "record.md").read_text()
    assert [f"seed {seed}" in text for seed in range(5)] == [False, False, True, True, True]
    assert text.index("seed 4") < text.index("seed 2")
    assert "a / b 4" in text


def test_every_part_has_a_name_of_its_own_and_an_end() -> None:
    names = [name for each in chaos.PARTS for name in each.name.split(", ")]
    assert len(set(names)) == len(names)
    assert all(each.seconds > 0 for each in chaos.PARTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_replaces_stands_once_in_the_core(mutant: Mutant) -> None:
    assert (CORE / mutant.file).read_text().count(mutant.right) == 1
