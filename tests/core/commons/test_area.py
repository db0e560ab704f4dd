from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from channels.core.commons import area, memory
from channels.core.commons.area import Area
from channels.core.commons.memory import Commons
from tests.core.commons.child import in_child, wait


@pytest.fixture
def bytes100() -> Iterator[Area]:
    parts = [area.part("0", 100)]
    fd = memory.create(parts)
    yield Area(Commons(fd, parts), "0")
    os.close(fd)


def test_what_is_written_is_read_by_another_process(bytes100: Area) -> None:
    assert wait(in_child(lambda: bytes100.write(10, b"hello"))) == 0
    assert bytes100.read(10, 5) == b"hello" and len(bytes100.read(0)) == 100


@pytest.mark.parametrize(("at", "size"), [(-1, 1), (96, 5), (101, 0), (0, -1)])
def test_nothing_outside_is_touched(bytes100: Area, at: int, size: int) -> None:
    with pytest.raises(IndexError):
        bytes100.read(at, size)


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (16, 32767), (32, 2**31 - 1), (64, 2**63 - 1)])
def test_numbers_are_signed_and_wrap(bytes100: Area, bits: int, most: int) -> None:
    bytes100.write_number(8, bits, most)
    assert bytes100.read_number(8, bits) == most
    assert bytes100.add(8, bits, 1) == -most - 1 == bytes100.read_number(8, bits)
    with pytest.raises(IndexError):
        bytes100.add(100 - bits // 8 + 1, bits, 1)


def test_four_processes_count_without_losing_one(bytes100: Area) -> None:
    def count() -> None:
        for _ in range(300):
            bytes100.add(0, 64, 1)

    assert [wait(pid) for pid in [in_child(count) for _ in range(4)]] == [0] * 4
    assert bytes100.read_number(0, 64) == 1200
