from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from channels.core.commons import memory, roster
from channels.core.commons.memory import Commons
from channels.core.commons.roster import ROW_BYTES, Roster
from tests.core.commons.child import run_until_line


@pytest.fixture
def rows() -> Iterator[Roster]:
    parts = [roster.part(4)]
    fd = memory.create(parts)
    yield Roster(Commons(fd, parts))
    os.close(fd)


def test_a_row_is_valid_for_its_generation_only(rows: Roster) -> None:
    before = rows.version()
    rows.write(2, 5, {"a": [1, "x"]})
    assert rows.version() != before
    assert rows.read(2, 5) == {"a": [1, "x"]}
    assert rows.read(2, 7) is None and rows.read(1, 1) is None


def test_too_much_is_refused_and_a_slot_that_is_none_too(rows: Roster) -> None:
    with pytest.raises(ValueError, match="can tell"):
        rows.write(1, 1, {"a": "x" * ROW_BYTES})
    with pytest.raises(IndexError):
        rows.write(4, 1, {})


def test_a_worker_killed_while_it_writes_leaves_a_whole_row_or_none(rows: Roster) -> None:
    for line in itertools.count(1):
        rows.write(1, 3, {"old": "x" * 100})
        killed = run_until_line(line, lambda: rows.write(1, 3, {"new": "y" * 50}))
        assert rows.read(1, 3) in (None, {"old": "x" * 100}, {"new": "y" * 50})
        if not killed:
            break
    assert line > 10
