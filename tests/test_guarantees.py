"""docs/guarantees.md: every promise names what shows it, and that exists."""

from __future__ import annotations

from pathlib import Path

from tests.test_hazards import PROVEN, missing

PAGE = Path(__file__).parent.parent / "docs" / "guarantees.md"


def promises() -> list[str]:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [row for row in rows if "| shown by |" not in row]


def test_every_promise_is_shown_by_something_that_exists() -> None:
    assert len(promises()) > 20
    for promise in promises():
        shown = promise.rsplit(" | ", 1)[1]
        assert PROVEN.search(shown), promise
        assert list(missing(shown)) == [], promise
