"""passing.py: a connection changes hands with what was read of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from channels import passing
from tests.limits import no_descriptor_free


@pytest.fixture
def inbox() -> Iterator[tuple[int, int]]:
    read, write = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield read.fileno(), write.fileno()
    read.close()
    write.close()


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n", b"x" * 100_000])
def test_a_connection_arrives_with_its_bytes_and_works(inbox: tuple[int, int], data: bytes) -> None:
    ours, theirs = socket.socketpair()
    assert passing.give(inbox[1], passing.HTTP, data, theirs.fileno())
    theirs.close()
    found = passing.take(inbox[0])
    assert found is not None
    kind, got, fd = found
    assert (kind, got) == (passing.HTTP, data) and not os.get_inheritable(fd)
    with socket.socket(fileno=fd) as taken:
        taken.sendall(b"hello")
        assert ours.recv(100) == b"hello"
    ours.close()


def test_an_empty_inbox_is_none_without_waiting(inbox: tuple[int, int]) -> None:
    assert passing.take(inbox[0]) is None
    assert not passing.waits(inbox[0])
    with socket.socket() as connection:
        passing.give(inbox[1], passing.HTTP, b"", connection.fileno())
    assert passing.waits(inbox[0])


def test_a_full_inbox_refuses_and_keeps_what_it_has_in_order(inbox: tuple[int, int]) -> None:
    ours, theirs = socket.socketpair()
    given = 0
    while passing.give(inbox[1], passing.HTTP, str(given).encode(), theirs.fileno()):
        given += 1
        assert given < 100_000
    taken = []
    while (found := passing.take(inbox[0])) is not None:
        taken.append(int(found[1]))
        os.close(found[2])
    assert taken == list(range(given)) and given > 10
    ours.close()
    theirs.close()


def test_a_receiver_that_is_gone_is_a_refusal() -> None:
    read, write = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read.close()
    with socket.socket() as connection:
        assert not passing.give(write.fileno(), passing.HTTP, b"", connection.fileno())
    write.close()


def test_more_than_may_travel_is_refused_and_nothing_is_left_open(inbox: tuple[int, int]) -> None:
    with socket.socket() as connection:
        before = len(os.listdir("/proc/self/fd"))
        passing.give(inbox[1], passing.HTTP, b"x" * (passing.MESSAGE_MAX + 1000), connection.fileno())
        found = passing.take(inbox[0])
        assert found is None
        assert len(os.listdir("/proc/self/fd")) == before


def test_without_a_free_descriptor_connections_stay_where_they_are_in_order(inbox: tuple[int, int]) -> None:
    ours, theirs = socket.socketpair()
    for number in b"1", b"2":
        assert passing.give(inbox[1], passing.HTTP, number, theirs.fileno())
    theirs.close()
    with no_descriptor_free():
        for _ in range(3):
            with pytest.raises(OSError, match="Too many open files"):
                passing.take(inbox[0])
    for number in b"1", b"2":
        found = passing.take(inbox[0])
        assert found is not None and found[:2] == (passing.HTTP, number)
        with socket.socket(fileno=found[2]) as taken:
            taken.sendall(number)
        assert ours.recv(100) == number
    ours.close()


def test_without_a_free_descriptor_an_empty_inbox_is_none(inbox: tuple[int, int]) -> None:
    with no_descriptor_free():
        assert passing.take(inbox[0]) is None


def test_a_message_without_a_descriptor_is_skipped(inbox: tuple[int, int]) -> None:
    os.write(inbox[1], b"Hnothing with me")
    with socket.socket() as connection:
        assert passing.give(inbox[1], passing.CONTROL, b"next", connection.fileno())
    found = passing.take(inbox[0])
    assert found is not None and found[:2] == (passing.CONTROL, b"next")
    os.close(found[2])


def test_the_inbox_is_not_closed_by_using_it(inbox: tuple[int, int]) -> None:
    for _ in range(3):
        passing.take(inbox[0])
    assert os.fstat(inbox[0]) and os.fstat(inbox[1])
