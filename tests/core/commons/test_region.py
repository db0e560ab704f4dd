from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from channels.core.commons import area, memory, region
from channels.core.commons.memory import Commons
from channels.core.commons.region import Region
from tests.core.commons.child import in_child, run_until_line, wait

PARTS = [area.part("0", 4096)]


@pytest.fixture
def words() -> Iterator[Region]:
    fd = memory.create(PARTS)
    yield Commons(fd, PARTS).regions["area", "0"]
    os.close(fd)


def test_a_section_that_raises_has_changed_nothing(words: Region) -> None:
    with pytest.raises(RuntimeError, match="halfway"), words.section():
        words.put_word(0, 7)
        words.put_word(0, 8)
        words.put_word(64, 9)
        raise RuntimeError("halfway")
    assert words.word(0) == words.word(64) == 0


def test_a_section_that_ends_well_stays(words: Region) -> None:
    with words.section():
        words.put_word(0, 7)
        words.put_word(8, 8)
    with words.section():
        assert (words.word(0), words.word(8)) == (7, 8)


def test_a_process_killed_at_any_line_leaves_all_or_nothing(words: Region) -> None:
    """Two words that are always equal, whoever dies where."""

    def count() -> None:
        with words.section():
            words.put_word(0, words.word(0) + 1)
            words.put_word(8, words.word(8) + 1)

    line = 1
    before = 0
    while run_until_line(line, count):
        with words.section():
            first, second = words.word(0), words.word(8)
        assert first == second and first in (before, before + 1)
        before = first
        line += 1
    assert line > 20, "it was killed at too few lines to mean anything"


def test_four_processes_count_without_losing_one(words: Region) -> None:
    def count() -> None:
        for _ in range(500):
            with words.section():
                words.put_word(0, words.word(0) + 1)

    assert [wait(pid) for pid in [in_child(count) for _ in range(4)]] == [0] * 4
    assert words.word(0) == 2000


def test_a_section_of_a_stopped_process_ends_in_an_error(words: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region, "SECTION_TIMEOUT", 0.05)
    ready, go = os.pipe()

    def stop() -> None:
        with words.section():
            os.write(go, b"x")
            signal.pause()

    pid = in_child(stop)
    os.read(ready, 1)
    try:
        with pytest.raises(TimeoutError, match="does not run"), words.section():
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        wait(pid)
    with words.section():
        words.put_word(0, 1)


def test_a_change_that_its_journal_cannot_hold_is_refused_and_undone(words: Region) -> None:
    with pytest.raises(MemoryError), words.section():
        for _ in range(1000):
            words.put_word(0, words.word(0) + 1)
    assert words.word(0) == 0


def test_a_journal_of_nonsense_harms_nothing_outside(words: Region) -> None:
    words._journal[8:64] = b"\xff" * 56
    words._length[0] = (1 << 64) - 1
    with words.section():
        words.put_word(0, 5)
    assert words.word(0) == 5
