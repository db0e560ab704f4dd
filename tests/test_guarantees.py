"""docs/guarantees.md: one table; every promise says under which fault it holds and what shows it, and that exists."""

from __future__ import annotations

from tests.tables import tables, unfilled
from tests.test_hazards import PROVEN, missing

HEADINGS = ["", "what is promised", "under which fault", "shown by"]


def test_the_promises_stand_in_one_table() -> None:
    (table,) = tables("guarantees.md")
    assert table[0] == HEADINGS
    assert len(table) > 20


def test_every_promise_says_under_which_fault_it_holds_and_what_shows_it() -> None:
    (table,) = tables("guarantees.md")
    assert unfilled(table) == []


def test_every_promise_is_shown_by_something_that_exists() -> None:
    (table,) = tables("guarantees.md")
    for *promise, shown in table[1:]:
        assert PROVEN.search(shown), promise
        assert list(missing(shown)) == [], promise
