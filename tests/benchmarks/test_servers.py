"""The benchmark's own check: a delivery that is lost, doubled or out of order ends the run, however bytes are cut."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from benchmarks import servers

CLIENTS = 3
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return servers.compile_reader(str(tmp_path_factory.mktemp("reader")))


class Streams:
    """A server of event streams; what they say is up to the test."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open: list[socket.socket] = []
        self.say: Callable[[int], None] = self.whole
        self.accepting = threading.Thread(target=self.accept, daemon=True)
        self.accepting.start()

    def accept(self) -> None:
        for _ in range(CLIENTS):
            sock = self.listener.accept()[0]
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            assert sock.recv(1000).startswith(b"GET /events ")
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nretry: 2000\n")
            self.open.append(sock)

    def publish(self, port: int, count: int, gap: float = 0.0, size: int = 0) -> None:
        """Instead of a request."""
        self.accepting.join(10)
        self.say(count)

    def events(self, count: int) -> list[bytes]:
        return [b"id: 1-%d\ndata: %d xyz\n\n" % (number, time.monotonic_ns()) for number in range(count)]

    def whole(self, count: int) -> None:
        data = b"".join(self.events(count))
        for sock in self.open:
            sock.sendall(data)

    def close(self) -> None:
        for sock in (self.listener, *self.open):
            sock.close()


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[Streams]:
    made = Streams()
    monkeypatch.setattr(servers, "publish", made.publish)
    yield made
    made.close()


@pytest.fixture
def reader(program: Path, streams: Streams) -> Iterator[servers.Reader]:
    with servers.Reader(program, streams.port, "/events", CLIENTS) as made:
        yield made


def test_what_comes_whole_and_in_order_is_counted_and_timed(streams: Streams, reader: servers.Reader) -> None:
    found = reader.round(50)
    assert found.events == 50 * CLIENTS
    assert 0 <= found.least <= found.p50 <= found.p99 <= found.most
    assert found.most <= found.seconds * 1000 + 1


def test_bytes_may_be_cut_anywhere(streams: Streams, reader: servers.Reader) -> None:
    def one_by_one(count: int) -> None:
        for byte in b"".join(streams.events(count)):
            for sock in streams.open:
                sock.send(bytes((byte,)))

    streams.say = one_by_one
    assert reader.round(5).events == 5 * CLIENTS


@pytest.mark.parametrize("harm", ["lost", "doubled", "swapped"])
def test_what_is_not_right_ends_the_run(
    streams: Streams, reader: servers.Reader, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def harmed(count: int) -> None:
        events = streams.events(count)
        if harm == "lost":
            del events[2]
        elif harm == "doubled":
            events.insert(2, events[2])
        else:
            events[2], events[3] = events[3], events[2]
        streams.open[0].sendall(b"".join(events))
        for sock in streams.open[1:]:
            sock.sendall(b"".join(streams.events(count)))

    monkeypatch.setattr(servers, "DEADLINE", 0.5)
    streams.say = harmed
    with pytest.raises(RuntimeError, match="deliveries came"):
        reader.round(10)


def test_a_stream_that_ends_ends_the_run(streams: Streams, reader: servers.Reader) -> None:
    def end(count: int) -> None:
        streams.open[0].shutdown(socket.SHUT_WR)

    streams.say = end
    with pytest.raises(RuntimeError, match="reader has ended"):
        reader.round(1)
