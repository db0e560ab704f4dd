from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from channels.core.commons import area, memory
from channels.core.commons.memory import Commons
from channels.errors import SegmentError
from tests.cluster import wait_until
from tests.core.commons.child import in_child, wait

PARTS = [area.part("0", 4096), area.part("1", 100)]


@pytest.fixture
def commons() -> Iterator[Commons]:
    fd = memory.create(PARTS)
    yield Commons(fd, PARTS)
    os.close(fd)


def test_parts_do_not_overlap_and_begin_empty(commons: Commons) -> None:
    first, second = commons.regions["area", "0"], commons.regions["area", "1"]
    assert bytes(first.data) == bytes(4096) and bytes(second.data) == bytes(100)
    first.data[:] = b"x" * 4096
    assert bytes(second.data) == bytes(100)


def test_what_was_made_for_other_parts_is_refused(commons: Commons) -> None:
    other = [area.part("0", 8192)]
    assert memory.matches(commons.fd, PARTS) and not memory.matches(commons.fd, other)
    with pytest.raises(SegmentError, match="another layout"):
        Commons(commons.fd, other)


def test_its_size_cannot_change(commons: Commons) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(commons.fd, 0)


def test_a_lock_keeps_another_process_out_and_tells_who_has_it(commons: Commons) -> None:
    assert commons.try_lock(3)
    assert wait(in_child(lambda: _expect(not commons.try_lock(3) and commons.holder(3) == os.getppid()))) == 0
    assert commons.holder(3) == 0, "one's own is not told"
    commons.unlock(3)
    assert wait(in_child(lambda: _expect(commons.try_lock(3)))) == 0


def test_the_lock_of_a_killed_process_is_free(commons: Commons) -> None:
    def hold() -> None:
        _expect(commons.try_lock(5))
        signal.pause()

    pid = in_child(hold)
    wait_until(lambda: commons.holder(5) == pid)
    assert not commons.try_lock(5)
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    assert commons.try_lock(5)


def test_readers_share_a_lock_and_a_writer_does_not(commons: Commons) -> None:
    assert commons.try_lock(7, shared=True)
    assert wait(in_child(lambda: _expect(commons.try_lock(7, shared=True) and not commons.try_lock(7)))) == 0


@pytest.mark.parametrize("number", [-1, 1024])
def test_a_lock_beyond_the_last_is_refused(commons: Commons, number: int) -> None:
    with pytest.raises(ValueError, match="0 to 1023"):
        commons.try_lock(number)


def _expect(condition: bool) -> None:
    assert condition
