"""The server as a whole: starting, draining, stopping, and running out of descriptors."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from typing import Any

import gevent
import pytest

from channels.worker.http import server as module
from tests.worker.http.running import Running, everything, hello, read_answer, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def slow(event: threading.Event) -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        while not event.is_set():
            gevent.sleep(0.01)
        return hello(environ, start_response)

    return application


def test_a_drain_finishes_what_runs_and_says_that_the_connection_ends() -> None:
    go = threading.Event()
    with Running(slow(go)) as server, server.connect() as client:
        client.sendall(GET)
        wait_until(lambda: server.server.stats.running == 1)
        server.call(server.server.begin_drain)
        go.set()
        answer = read_answer(client)
        assert answer.body == b"hello" and answer.fields["connection"] == "close"
        assert client.recv(1) == b""
        client.close()
        assert server.call(server.server.wait_empty, 20)


def test_a_drain_waits_for_what_an_application_does_when_its_client_has_gone() -> None:
    cleaning, go = threading.Event(), threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 65536
        finally:
            cleaning.set()
            while not go.is_set():
                gevent.sleep(0.01)

    with Running(application) as server:
        with server.connect() as client:
            client.sendall(GET)
            client.recv(1)
        assert cleaning.wait(20)
        server.call(server.server.begin_drain)
        assert not server.call(server.server.wait_empty, 0.5)
        go.set()
        assert server.call(server.server.wait_empty, 20)
        assert server.server.stats.connections == server.server.stats.running == 0


def test_a_drain_closes_idle_connections_but_answers_what_comes_at_once() -> None:
    with Running(hello) as server, server.connect() as idle, server.connect() as busy:
        for client in (idle, busy):
            client.sendall(GET)
            read_answer(client)
        server.call(server.server.begin_drain)
        busy.sendall(GET)
        assert read_answer(busy).fields["connection"] == "close"
        assert everything(idle) == b""


def test_a_drain_waits_for_the_rest_of_a_head() -> None:
    with Running(hello) as server, server.connect() as slow, server.connect() as idle:
        slow.sendall(GET[:20])
        idle.sendall(GET)
        read_answer(idle)
        server.call(server.server.begin_drain)
        assert everything(idle) == b""
        time.sleep(1.5)  # longer than an idle connection is kept
        slow.sendall(GET[20:])
        assert read_answer(slow).body == b"hello"


def test_the_last_to_drain_accepts_what_the_kernel_has_queued() -> None:
    with Running(hello) as server:
        server.call(server.server.stop_accepting)
        clients = [server.connect() for _ in range(10)]
        for client in clients:
            client.sendall(GET)
        server.call(server.server.begin_drain, True)
        for client in clients:
            assert read_answer(client).body == b"hello"
            client.close()
        assert server.call(server.server.wait_empty, 20)


def test_the_last_to_drain_accepts_whose_handshake_was_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANDSHAKES", 3.0)  # for a test that is late
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10)  # not done before the client has spoken
    with Running(hello, listener) as server, server.connect() as client:
        server.spawn(server.server.begin_drain, True)
        wait_until(lambda: server.server.draining)
        time.sleep(0.1)  # a server that waits for nobody has closed its listener by now
        client.sendall(GET)
        assert read_answer(client).fields["connection"] == "close"


def test_stop_ends_what_does_not_end_by_itself() -> None:
    with Running(slow(threading.Event())) as server, server.connect() as client:
        client.sendall(GET)
        wait_until(lambda: server.server.stats.running == 1)
        server.spawn(server.server.stop, 0.1)
        assert everything(client) == b""


def test_connections_beyond_the_limit_wait_in_the_kernel() -> None:
    with Running(hello, worker_connections=2) as server:
        clients = [server.connect() for _ in range(3)]
        for client in clients:
            client.sendall(GET)
        for client in clients[:2]:
            read_answer(client)
        assert server.server.stats.connections == 2
        clients[0].close()
        assert read_answer(clients[2]).body == b"hello"
        for client in clients:
            client.close()


def test_out_of_descriptors_it_pauses_and_goes_on() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Running(hello) as server:
        first = server.connect()
        first.sendall(GET)
        read_answer(first)
        waiting = server.connect()
        waiting.sendall(GET)
        read_answer(waiting)
        waiting.close()
        pending = [socket.socket() for _ in range(3)]
        # The next descriptor that the server asks for is one too many.
        highest = os.dup(0)
        os.close(highest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, limits[1]))
        try:
            for client in pending:
                client.settimeout(20)
                client.connect(server.server.address)
                client.sendall(GET)
            wait_until(lambda: server.server.stats.no_room >= 1)
            first.sendall(GET)
            assert read_answer(first).body == b"hello", "who is connected is served"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for client in pending:
            assert read_answer(client).body == b"hello"
            client.close()
        first.close()


def test_no_descriptor_is_left_behind() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    with Running(hello) as server:
        server.get()
        wait_until(lambda: server.server.stats.connections == 0)
        before = count()
        for _ in range(300):
            server.get()
            server.ask(b"nonsense\r\n\r\n")
        wait_until(lambda: server.server.stats.connections == 0)
        wait_until(lambda: count() <= before)


def test_serve_forever_ends_with_stop() -> None:
    with Running(hello) as server:
        server.call(server.server.stop, 0)


def test_limit_reached_is_told_once_the_requests_are_served() -> None:
    told: list[int] = []
    with Running(hello) as server:
        server.server.limit_reached = lambda: told.append(server.server.stats.requests)
        server.server.requests_limit = 3
        for _ in range(2):
            server.get()
        assert told == []
        server.get()
        wait_until(lambda: told == [3])


def test_a_server_on_a_unix_socket_has_no_port(tmp_path: Any) -> None:
    with Running(hello, f"unix:{tmp_path / 'socket'}") as server, pytest.raises(AttributeError):
        _ = server.port


def test_a_connection_is_adopted_by_the_listener_it_came_in_by_even_when_that_is_closed() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["SERVER_PORT"].encode()]

    elsewhere = socket.create_server(("127.0.0.1", 0))
    with elsewhere, Running(application, [("127.0.0.1", 0), elsewhere.dup()]) as running:
        running.call(running.server.stop_accepting)
        with socket.create_connection(elsewhere.getsockname(), timeout=20) as client:
            accepted, address = elsewhere.accept()
            running.call(running.server.begin_drain)
            client.sendall(GET)
            running.server.loop.run_callback_threadsafe(running.server.adopt, accepted, b"", address)
            assert read_answer(client).body == str(elsewhere.getsockname()[1]).encode()


def test_a_request_whose_unbinding_fails_is_over_all_the_same(caplog: Any) -> None:
    def unbind(bound: Any) -> None:
        raise OSError("unbinding failed")

    with Running(bind_request=lambda connection: connection, unbind_request=unbind) as server:
        with server.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read_answer(client).body == b"hello"
            assert client.recv(1) == b""
        wait_until(lambda: server.server.stats.connections == server.server.stats.running == 0)
    assert "unbinding failed" in caplog.text
