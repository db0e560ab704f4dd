"""A socket in the hub: order, bounds and ends, over a socket pair."""

from __future__ import annotations

import socket
import types
from collections.abc import Iterator

import gevent
import pytest

from channels.web.transport import Transport


class Ends:
    """Both ends of a connection: a Transport, and a plain socket."""

    def __init__(self) -> None:
        self.mine, self.peer = socket.socketpair()
        self.mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.peer.setblocking(False)
        self.got: list[bytes] = []
        self.drained = 0
        self.ends = 0
        self.transport = Transport(self.mine, self.got.append, self._drained, self._end)

    def _drained(self) -> None:
        self.drained += 1

    def _end(self) -> None:
        self.ends += 1

    def read(self, size: int) -> bytes:
        """So many bytes, or all until the end."""
        data = b""
        while len(data) < size:
            try:
                part = self.peer.recv(size - len(data))
            except BlockingIOError:
                gevent.sleep(0.001)
                continue
            if not part:
                break
            data += part
        return data


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    with gevent.Timeout(30):
        yield made
    made.transport.stop()
    made.mine.close()
    made.peer.close()


def until(condition: object) -> None:
    while not condition():  # type: ignore[operator]
        gevent.sleep(0.001)


def test_what_does_not_fit_waits_in_order_and_leaves_whole(ends: Ends) -> None:
    parts = [bytes([number]) * (200_000 if number % 50 == 7 else 1 + number * 33) for number in range(200)]
    for part in parts:
        ends.transport.write(part)
    assert ends.transport.pending > 0
    whole = b"".join(parts)
    assert ends.read(len(whole)) == whole
    until(lambda: ends.drained)
    assert (ends.transport.pending, ends.drained) == (0, 1)


def test_the_end_comes_behind_what_waits(ends: Ends) -> None:
    ends.transport.write(b"x" * 500_000)
    ends.transport.finish()
    ends.transport.write(b"too late")
    assert ends.read(1_000_000) == b"x" * 500_000


def test_nothing_is_read_before_it_is_asked_for_nor_while_paused(ends: Ends) -> None:
    ends.peer.send(b"one")
    gevent.sleep(0.02)
    assert ends.got == []
    ends.transport.resume()
    until(lambda: ends.got)
    ends.transport.pause()
    ends.peer.send(b"two")
    gevent.sleep(0.02)
    assert ends.got == [b"one"]
    ends.transport.resume()
    until(lambda: len(ends.got) == 2)
    assert ends.got == [b"one", b"two"]


def test_the_end_of_the_other_side_is_told_once(ends: Ends) -> None:
    ends.transport.resume()
    ends.peer.send(b"last")
    ends.peer.close()
    until(lambda: ends.ends)
    ends.transport.abort()
    gevent.sleep(0.02)
    assert (ends.got, ends.ends) == ([b"last"], 1)


def test_writing_to_one_that_has_gone_ends_it(ends: Ends) -> None:
    ends.peer.close()
    ends.transport.write(b"x")
    ends.transport.write(b"y")
    until(lambda: ends.ends)
    assert (ends.ends, ends.transport.pending) == (1, 0)


def test_abort_ends_it_at_once_whatever_waits(ends: Ends) -> None:
    ends.transport.write(b"x" * 500_000)
    ends.transport.abort()
    until(lambda: ends.ends)
    assert ends.transport.pending == 0


class Deciphered(socket.socket):
    """A socket over which something else goes than what is written."""

    def pending(self) -> int:
        return 0


class Unknown:
    """Something that has what a transport needs of a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.settimeout, self.fileno, self.recv, self.send = sock.settimeout, sock.fileno, sock.recv, sock.send


def test_only_what_is_known_to_be_a_plain_socket_may_be_written_to_by_others(ends: Ends) -> None:
    assert ends.transport.is_plain
    with Deciphered() as deciphered:
        for odd in (deciphered, Unknown(ends.mine)):
            made = Transport(odd, ends.got.append, ends._drained, ends._end)
            assert not made.is_plain
            made.stop()


@pytest.mark.parametrize("cut", [False, True])
def test_nothing_is_written_behind_what_a_stream_has_left_unwritten(ends: Ends, cut: bool) -> None:
    ends.transport.attach(types.SimpleNamespace(waiting=0, cut=cut, send=lambda data: True))
    ends.transport.detach()
    ends.transport.write(b"more")
    ends.mine.shutdown(socket.SHUT_WR)
    assert ends.read(100) == (b"" if cut else b"more")
