from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from channels.core.commons import memory, queue
from channels.core.commons.memory import Commons
from channels.core.commons.queue import Queue
from tests.core.commons.child import in_child, run_until_line, wait

SLOTS, BLOCK = 4, 16


@pytest.fixture
def small() -> Iterator[Queue]:
    parts = [queue.part("", SLOTS, BLOCK)]
    fd = memory.create(parts)
    yield Queue(Commons(fd, parts), "")
    os.close(fd)


def test_it_is_taken_from_at_both_ends(small: Queue) -> None:
    assert all(small.push(b"%d" % i) for i in range(3))
    assert small.last(2) == [b"2", b"1"]
    assert (small.pull(), small.pop(), small.pull(), small.pull(), small.pop()) == (b"0", b"2", b"1", None, None)


def test_a_push_beyond_the_last_slot_overwrites_the_oldest_unless_told_not_to(small: Queue) -> None:
    for i in range(SLOTS):
        assert small.push(b"%d" % i, overwrite=False)
    assert not small.push(b"x", overwrite=False)
    assert small.push(b"x") and small.get(0) == b"x" and small.last(SLOTS) == [b"x", b"3", b"2", b"1"]


def test_what_is_empty_or_too_long_is_refused(small: Queue) -> None:
    assert not small.push(b"") and not small.push(b"x" * (BLOCK + 1)) and not small.set(0, b"")
    assert small.push(b"x" * BLOCK)


def test_a_slot_is_read_and_written_by_its_number(small: Queue) -> None:
    assert small.set(2, b"two") and small.get(2) == b"two" and small.positions() == (0, 0)
    assert not small.set(SLOTS, b"x") and small.get(SLOTS) is None and small.get(-1) is None


@pytest.mark.parametrize("step", ["push", "pull", "pop"])
def test_a_process_killed_at_any_line_leaves_whole_messages(small: Queue, step: str) -> None:
    lines = 0
    for line in itertools.count(1):
        while small.pull():
            pass
        small.push(b"first")
        small.push(b"second")
        calls = {"push": lambda: small.push(b"third"), "pull": small.pull, "pop": small.pop}
        killed = run_until_line(line, calls[step])
        found = list(iter(small.pull, None))
        assert (
            found
            in {
                "push": ([b"first", b"second"], [b"first", b"second", b"third"]),
                "pull": ([b"first", b"second"], [b"second"]),
                "pop": ([b"first", b"second"], [b"first"]),
            }[step]
        )
        if not killed:
            break
        lines += 1
    assert lines > 15


def test_an_overwritten_message_is_never_seen_half(small: Queue) -> None:
    for line in itertools.count(1):
        while small.pull():
            pass
        for i in range(SLOTS):
            small.push(b"%d" % i * BLOCK)
        slot = small.positions()[0]
        killed = run_until_line(line, lambda: small.push(b"n" * BLOCK))
        assert small.get(slot) in (b"0" * BLOCK, None, b"n" * BLOCK)
        if not killed:
            break


def test_each_message_is_pulled_once_by_one_of_many(small: Queue) -> None:
    got, tell = os.pipe()

    def take() -> None:
        while True:
            message = small.pull()
            if message == b"end":
                return
            if message:
                os.write(tell, message + b"\n")

    pids = [in_child(take) for _ in range(2)]
    sent = [b"%d" % i for i in range(200)]
    for message in [*sent, b"end", b"end"]:
        while not small.push(message, overwrite=False):
            os.sched_yield()
    assert [wait(pid) for pid in pids] == [0, 0]
    os.close(tell)
    with os.fdopen(got, "rb") as source:
        assert sorted(source.read().split()) == sorted(sent)
