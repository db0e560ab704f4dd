"""Browsers' streams over the workers of a real server: one order for all, nothing lost, nothing twice."""

from __future__ import annotations

import contextlib
import http.client
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError

import pytest

from tests.server import DEADLINE, Server

APP = "tests.system.fabric_app:app"
CLIENTS, PUBLISHERS, EACH = 30, 6, 100


@pytest.fixture(scope="module")
def server():
    with Server(APP, workers=3) as running:
        yield running


class EventStream:
    """One EventSource."""

    def __init__(self, server: Server, channel: str) -> None:
        self.connection = http.client.HTTPConnection(*server.address, timeout=DEADLINE)
        self.connection.request("GET", f"/events/{channel}")
        self.response = self.connection.getresponse()
        assert self.response.getheader("Content-Type") == "text/event-stream"
        assert self.response.readline() == b"event: worker\n"
        self.worker = int(self.data())

    def data(self) -> bytes:
        """Of the next event."""
        while not (line := self.response.readline()).startswith(b"data: "):
            assert line == b"\n", line
        return line[6:-1]

    def close(self) -> None:
        assert self.connection.sock is not None
        self.response.close()
        self.connection.close()


def spread(server: Server, channel: str, count: int) -> list[EventStream]:
    """Streams on all workers: more are opened than are asked for when one worker was too quick for the others."""
    streams = [EventStream(server, channel) for _ in range(count)]
    for _ in range(50):
        if {stream.worker for stream in streams} == {1, 2, 3}:
            return streams
        streams.append(EventStream(server, channel))
    raise AssertionError("one worker accepts everything")


def test_30_clients_over_3_workers_see_what_6_publishers_say_in_one_order(server):
    streams = spread(server, "all", CLIENTS)
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(CLIENTS + 60) as threads:
        for stream in streams:
            stack.callback(stream.close)
        reading = [
            threads.submit(lambda stream=stream: [stream.data() for _ in range(PUBLISHERS * EACH)])
            for stream in streams
        ]

        def publish(publisher: int) -> list[bytes]:
            connection = http.client.HTTPConnection(*server.address, timeout=DEADLINE)
            answers = []
            for number in range(EACH):
                connection.request("POST", "/send/all", b"%d:%d" % (publisher, number))
                answers.append(connection.getresponse().read())
            connection.close()
            return answers

        for answers in threads.map(publish, range(PUBLISHERS)):
            assert set(answers) == {b"3"}, "the workers with subscribers"
        seen = [each.result(DEADLINE) for each in reading]
    assert all(other == seen[0] for other in seen), "one order for all"
    assert len(set(seen[0])) == PUBLISHERS * EACH, "nothing lost, nothing twice"
    for publisher in range(PUBLISHERS):
        mine = [body for body in seen[0] if body.startswith(b"%d:" % publisher)]
        assert mine == [b"%d:%d" % (publisher, number) for number in range(EACH)]


def listeners(server: Server, channel: str) -> int:
    return int(server.get(f"/send/{channel}", b"how many?"))


def test_send_returns_the_workers_with_subscribers_and_0_when_there_are_none(server):
    assert listeners(server, "few") == 0
    one = EventStream(server, "few")
    assert listeners(server, "few") == 1
    streams = spread(server, "few", 3)
    assert listeners(server, "few") == 3
    for stream in [one, *streams]:
        stream.close()
    server.wait(lambda: listeners(server, "few") == 0)


@pytest.mark.parametrize("way", ["returns", "fails", "raises"])
def test_a_request_that_ends_however_leaves_what_it_had_joined(server, way):
    if way == "returns":
        assert server.get(f"/{way}/{way}") == b"returned"
    elif way == "fails":
        with pytest.raises(HTTPError) as failed:
            server.get(f"/{way}/{way}")
        assert failed.value.code == 500
    else:
        with pytest.raises((http.client.HTTPException, OSError)):
            server.get(f"/{way}/{way}")
    server.wait(lambda: listeners(server, way) == 0)


@pytest.mark.parametrize("linger", [False, True])
def test_a_client_that_goes_while_nothing_is_sent_is_noticed(server, linger):
    """Closed politely, or reset."""
    channel = f"gone-{linger}"
    stream = EventStream(server, channel)
    assert listeners(server, channel) == 1
    if linger:
        stream.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    stream.close()
    server.wait(lambda: listeners(server, channel) == 0)
