"""The benchmark's own reading: a run in which anything failed is no run."""

from __future__ import annotations

import pytest

from benchmarks.server import Row, parse_wrk, spread, table, unevenness

SAID = """Running 1s test @ http://127.0.0.1:8000/
  1 threads and 50 connections
  Latency Distribution
     50%  812.00us
     99%    3.10ms
  30000 requests in 1.00s, 5.00MB read
{more}Requests/sec:  29876.50
Transfer/sec:      4.98MB
"""


def test_what_wrk_says_is_read_with_its_units() -> None:
    assert parse_wrk(SAID.format(more="")) == (29876.5, pytest.approx(0.0031))


@pytest.mark.parametrize(
    "more", ["  Socket errors: connect 0, read 3, write 0, timeout 0\n", "  Non-2xx or 3xx responses: 1\n"]
)
def test_a_run_with_errors_is_refused(more: str) -> None:
    with pytest.raises(RuntimeError, match="wrk says"):
        parse_wrk(SAID.format(more=more))


def test_nonsense_is_refused() -> None:
    with pytest.raises(RuntimeError):
        parse_wrk("unable to connect")


def test_the_table_says_what_is_missed() -> None:
    lines = table([Row("a", "1", "2", "3", True), Row("b", "1", "2", "3", False), Row("c", "1", "2")])
    assert [line.count("reached") for line in lines] == [0, 0, 1, 0, 0]
    assert [line.count("**missed**") for line in lines] == [0, 0, 0, 1, 0]


def test_an_empty_worker_is_infinitely_uneven() -> None:
    assert unevenness([100, 90]) == pytest.approx(100 / 90)
    assert unevenness([100, 0]) == float("inf")


def test_the_median_stands_with_the_least_and_the_most() -> None:
    assert spread([3.0, 1.0, 2.0], lambda value: f"{value:g}") == "2 (1 to 3)"
