"""The writing half: what is sent comes out, whatever the client's pace."""

from __future__ import annotations

import socket
import threading
from typing import Any

import gevent
import pytest

from channels.errors import ClientGone
from tests.worker.http.running import Running, everything, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def test_a_client_that_reads_slowly_gets_every_byte() -> None:
    parts = [bytes([number]) * 50_000 for number in range(100)]

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", str(100 * 50_000))])
        yield from parts

    with Running(application) as server, server.connect() as client:
        client.sendall(GET)
        got = b""
        while len(got) < 100_000:
            got += client.recv(1000)
        assert (got + everything(client)).endswith(b"".join(parts))


def test_sending_to_a_client_that_has_gone_raises() -> None:
    errors: list[BaseException] = []
    go = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        try:
            while True:
                write(b"x" * 10_000)
                go.set()
        except ClientGone as error:
            errors.append(error)
            raise
        return []

    with Running(application) as server:
        client = server.connect()
        client.sendall(GET)
        assert go.wait(20)
        client.close()
        wait_until(lambda: errors)


BIG = b"x" * 30_000_000


def _write(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])(BIG)
    return []


def _write_with_length(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", str(len(BIG)))])(BIG)
    return []


@pytest.mark.parametrize("answer", [_write, _write_with_length])
@pytest.mark.parametrize("error", [gevent.Timeout, ClientGone])
def test_nothing_is_sent_behind_an_answer_that_was_cut_short(answer: Any, error: type[BaseException]) -> None:
    """Whoever catches what cut it short must not make half an answer look whole."""
    cut: list[bool] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/second":
            start_response("200 OK", [])
            return [b"second"]
        try:
            with gevent.Timeout(0.3 if error is gevent.Timeout else None):
                return answer(environ, start_response)
        except error:
            cut.append(True)
        return []

    options = {} if error is gevent.Timeout else {"write_timeout": 0.3}
    with Running(application, **options) as server:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(20)
            client.connect(server.server.address)
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n")
            wait_until(lambda: cut)
            seen = everything(client)
        assert seen.count(b"HTTP/1.1") <= 1 and b"second" not in seen
        assert not seen.endswith(b"0\r\n\r\n")
        wait_until(lambda: server.server.stats.connections == server.server.stats.running == 0)
        assert server.server.stats.requests == 1


def test_nothing_may_wait_for_room_in_the_hub() -> None:
    with Running() as server, server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.recv(1)
        connection = server.call(lambda: next(iter(server.server.connections)))
        outcome: list[BaseException] = []
        done = threading.Event()

        def in_hub() -> None:
            try:
                connection.wait_writable()
            except RuntimeError as error:
                outcome.append(error)
            done.set()

        server.server.loop.run_callback_threadsafe(in_hub)
        assert done.wait(20) and len(outcome) == 1
        with pytest.raises(RuntimeError, match="hub"):
            raise outcome[0]
