"""Connections that others have passed to this worker: taken as they come, and left alone while there is no room."""

from __future__ import annotations

import os
import socket

import gevent
import pytest

from channels import passing
from channels.worker.inbox import InboxReader
from channels.worker.sticky import adopt
from tests.limits import no_descriptor_free
from tests.worker.http.running import Running, hello, read_answer


def test_each_kind_has_its_taker_and_what_nobody_takes_is_closed() -> None:
    read, write = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, theirs = socket.socketpair()
    taken: list[tuple[bytes, int]] = []
    reader = InboxReader(read.fileno(), {passing.HTTP: lambda data, fd: taken.append((data, fd))})
    reader.start()
    for kind, data in (b"?", b"unknown"), (passing.HTTP, b"one"), (passing.HTTP, b"two"):
        assert passing.give(write.fileno(), kind, data, theirs.fileno())
    theirs.close()
    with gevent.Timeout(20):
        while len(taken) < 2:
            gevent.sleep(0.001)
    assert [data for data, _ in taken] == [b"one", b"two"]
    for _, fd in taken:
        os.close(fd)
    assert ours.recv(1) == b"", "no copy is left open"
    reader.stop()
    for end in (read, write, ours):
        end.close()


def test_without_a_free_descriptor_it_pauses_and_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    read, write = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    taken: list[tuple[bytes, int]] = []
    gevent.sleep(0.001)  # the hub has what it needs
    reader = InboxReader(read.fileno(), {passing.HTTP: lambda data, fd: taken.append((data, fd))})
    reader.start()
    with no_descriptor_free():
        for number in range(3):
            assert passing.give(write.fileno(), passing.HTTP, b"%d" % number, write.fileno())
        with gevent.Timeout(20):
            while "cannot take what was passed on" not in caplog.text:
                gevent.sleep(0.001)
        for _ in range(50):
            gevent.sleep(0)
        assert caplog.text.count("cannot take") == 1, "it does not spin"
        assert not taken
    with gevent.Timeout(20):
        while len(taken) < 3:
            gevent.sleep(0.001)
    assert [data for data, _ in taken] == [b"0", b"1", b"2"]
    for _, fd in taken:
        os.close(fd)
    reader.stop()
    read.close()
    write.close()


def test_what_was_taken_with_the_last_descriptor_is_served() -> None:
    elsewhere = socket.create_server(("127.0.0.1", 0))
    with elsewhere, Running(hello, [("127.0.0.1", 0), elsewhere.dup()]) as running:
        assert running.get().body == b"hello"
        with socket.create_connection(running.server.address, timeout=20) as other:  # so that all is warm
            other.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            read_answer(other)
        running.call(running.server.stop_accepting)
        client = socket.create_connection(elsewhere.getsockname(), timeout=20)
        accepted, address = elsewhere.accept()
        fd = accepted.detach()
        with no_descriptor_free():
            running.call(adopt, running.server, b"%b %d\n" % (address[0].encode(), address[1]), fd)
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read_answer(client).body == b"hello"
        client.close()
