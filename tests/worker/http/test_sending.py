"""The writing half: what is sent comes out, whatever the client's pace."""

from __future__ import annotations

import threading
from typing import Any

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
