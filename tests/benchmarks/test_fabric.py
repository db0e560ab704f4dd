"""A repeat that other programs disturbed is run again, and figures are not chosen by how good they are."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("numpy")
pytest.importorskip("redis")
pytest.importorskip("zmq")
pytest.importorskip("faster_fifo")

from benchmarks import fabric, report
from benchmarks.peers import Peer
from benchmarks.workloads import RoundTrip


class Ours(Peer):
    name = report.OURS


class Work(RoundTrip):
    """Gives its figures one after the other; the first one is the round that finds out how much to do."""

    def __init__(self, figures):
        object.__setattr__(self, "figures", iter(figures))

    def run(self, make, amount):
        return next(self.figures)


def measure(monkeypatch, shares, figures, repeats, patience=60.0):
    given = iter(shares)
    monkeypatch.setattr(fabric.Load, "foreign", lambda self: next(given))
    case = fabric.Case("work", Work(figures), [Ours])
    return fabric.measure(case, [Ours], repeats, 0.1, time.monotonic() + patience)


def test_a_disturbed_repeat_is_run_again_and_the_least_disturbed_try_counts(monkeypatch):
    figures, disturbed = measure(monkeypatch, [0.1, 0.9, 0.3, 0.5], [1.0, 2.0, 3.0, 4.0, 5.0], 2)
    assert figures == {report.OURS: [2.0, 4.0]}
    assert disturbed == [0.1, 0.3]


def test_a_try_that_was_left_alone_is_the_last_one_whatever_it_gave(monkeypatch):
    figures, _ = measure(monkeypatch, [0.9, 0.0], [1.0, 9.0, 2.0], 1)
    assert figures == {report.OURS: [2.0]}


def test_without_time_left_nothing_is_run_again(monkeypatch):
    figures, disturbed = measure(monkeypatch, [0.9, 0.8], [1.0, 2.0, 3.0], 2, patience=0.0)
    assert figures == {report.OURS: [2.0, 3.0]}
    assert disturbed == [0.9, 0.8]
