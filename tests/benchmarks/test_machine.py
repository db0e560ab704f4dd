"""Who else was at work: what this process and its children do is not counted, what others do is."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks import machine

SPIN = """
import time
end = time.process_time() + 0.4
while time.process_time() < end:
    pass
print("done", flush=True)
input()
"""


def test_a_living_child_s_time_is_known() -> None:
    child = subprocess.Popen([sys.executable, "-c", SPIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "done\n"
        assert machine._descendants_seconds() >= 0.35  # counted in hundredths
    finally:
        child.communicate("\n")


def test_the_first_figure_that_nobody_disturbed_counts_else_the_least_disturbed_one(monkeypatch) -> None:
    shares = iter([0.9, 0.5, 0.01, 0.7, 0.4, 0.6])
    monkeypatch.setattr(machine.Load, "foreign", lambda self: next(shares))
    figures = iter("abcdef")
    assert machine.least_disturbed(lambda: next(figures)) == (0.01, "c")
    assert machine.least_disturbed(lambda: next(figures)) == (0.4, "e")


def test_what_others_take_is_never_less_than_nothing() -> None:
    load = machine.Load(living=True)
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert load.foreign() >= 0.0
