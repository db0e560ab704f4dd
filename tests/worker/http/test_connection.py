"""Many requests on one connection, many connections, and how each of them ends."""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
from typing import Any

import gevent
import pytest

from channels.errors import ClientGone
from tests.worker.http.running import DEADLINE, Running, everything, hello, read_answer, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def path(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode()]


def test_requests_that_come_together_are_answered_in_order() -> None:
    with Running(path) as server, server.connect() as client:
        client.sendall(b"".join(GET.replace(b"/ ", b"/%d " % number) for number in range(500)))
        assert [read_answer(client).body for _ in range(500)] == [b"/%d" % number for number in range(500)]


def test_a_request_with_a_body_and_the_next_one_may_come_together() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    length = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    chunks = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ndef\r\n0\r\n\r\n"
    with Running(application) as server, server.connect() as client:
        client.sendall((length + chunks + GET) * 10)
        assert [read_answer(client).body for _ in range(30)] == [b"abc", b"def", b""] * 10


def test_a_client_that_always_has_the_next_request_ready_does_not_starve_another() -> None:
    with Running(hello) as server, server.connect() as greedy, server.connect() as modest:
        stop = threading.Event()

        def flood() -> None:
            try:
                while not stop.is_set():
                    greedy.sendall(GET * 200)
            except OSError:
                pass

        def swallow() -> None:
            try:
                while greedy.recv(1 << 20):
                    pass
            except OSError:
                pass

        threads = [threading.Thread(target=flood), threading.Thread(target=swallow)]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.server.stats.requests > 1000)
        before = server.server.stats.requests
        modest.sendall(GET)
        assert read_answer(modest).body == b"hello"
        between = server.server.stats.requests - before
        stop.set()
        greedy.close()
        server.call(server.server.abort)
        for thread in threads:
            thread.join(20)
        assert between < 5000


def test_while_nothing_runs_a_connection_has_no_greenlet() -> None:
    with Running(hello) as server:
        clients = [server.connect() for _ in range(50)]
        for client in clients:
            client.sendall(GET)
            read_answer(client)
        assert server.call(lambda: len(server.server.connections)) == 50
        assert server.call(lambda: len(server.server.pool.idle)) <= 2
        for client in clients:
            client.close()


def test_an_idle_connection_is_closed_after_a_while() -> None:
    with Running(hello, keepalive=0.3) as server, server.connect() as client:
        client.sendall(GET)
        read_answer(client)
        assert client.recv(1) == b""
        client.close()
        wait_until(lambda: server.server.stats.connections == 0)


def test_no_keepalive_closes_after_each_answer() -> None:
    with Running(hello, keepalive=0) as server, server.connect() as client:
        client.sendall(GET)
        assert read_answer(client).fields["connection"] == "close"
        assert client.recv(1) == b""


def test_a_head_that_does_not_end_is_408() -> None:
    with Running(hello, header_timeout=0.3) as server, server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        assert everything(client).startswith(b"HTTP/1.1 408 ")


def test_dripping_bytes_does_not_buy_time() -> None:
    with Running(hello, header_timeout=0.5) as server, server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        answer = b""
        client.settimeout(0.05)
        while not answer:
            try:
                client.sendall(b"X: a\r\n")
                answer = client.recv(1000)
            except socket.timeout:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_connection_that_says_nothing_is_closed_in_silence() -> None:
    with Running(hello, header_timeout=0.3) as server, server.connect() as client:
        assert everything(client) == b""


def test_a_client_that_takes_nothing_is_given_up() -> None:
    ended = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 100_000
        finally:
            ended.append(True)

    with Running(application, write_timeout=0.3) as server, server.connect() as client:
        client.sendall(GET)
        wait_until(lambda: ended)
        wait_until(lambda: server.server.stats.connections == 0)


def test_an_answer_larger_than_all_buffers_comes_whole() -> None:
    body = bytes(range(256)) * 40_000

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [body]

    with Running(application) as server:
        assert server.get().body == body


class Core:
    """Whom a connection tells that its client has gone."""

    def __init__(self) -> None:
        self.ended: Any = None
        self.event = gevent.event.Event()

    def end(self, reason: Any) -> None:
        self.ended = reason
        self.event.set()


@pytest.mark.parametrize("early", [b"", GET], ids=["silent", "with a next request"])
def test_a_client_that_goes_is_noticed_while_the_application_waits(early: bytes) -> None:
    cores: list[Core] = []
    seats: dict[int, Any] = {}

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        core = Core()
        cores.append(core)
        seats[0].start(core)
        core.event.wait()
        seats[0].stop()
        raise ClientGone()

    with Running(application, bind_request=lambda connection: seats.setdefault(0, connection)) as server:
        client = server.connect()
        client.sendall(GET + early)
        wait_until(lambda: cores)
        assert cores[0].ended is None
        client.close()
        wait_until(lambda: cores[0].ended is ClientGone)
        wait_until(lambda: server.server.stats.connections == 0)


def test_what_came_before_the_client_said_that_it_says_no_more_is_answered() -> None:
    go = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        while not go.is_set():
            gevent.sleep(0.01)
        return path(environ, start_response)

    with Running(application) as server, server.connect() as client:
        client.sendall(b"".join(GET.replace(b"/ ", b"/%d " % number) for number in range(3)) + b"GET /part")
        client.shutdown(socket.SHUT_WR)
        wait_until(lambda: server.call(lambda: [one.gone for one in server.server.connections]) == [True])
        go.set()
        assert [read_answer(client).body for _ in range(3)] == [b"/0", b"/1", b"/2"]
        assert client.recv(1) == b""
        wait_until(lambda: server.server.stats.connections == 0)


def test_the_client_s_end_does_not_come_before_the_request_that_it_sent_last() -> None:
    def look(connection: Any) -> None:  # before the next request's turn
        server.server.loop.run_callback(connection._readable)

    options = {"bind_request": lambda connection: connection, "unbind_request": look}
    with Running(path, **options) as server, server.connect() as client:
        release = threading.Event()
        server.server.loop.run_callback_threadsafe(release.wait, 20)  # so that all of it comes at once
        client.sendall(GET.replace(b"/ ", b"/0 ") + GET.replace(b"/ ", b"/1 "))
        client.shutdown(socket.SHUT_WR)
        release.set()
        assert [read_answer(client).body for _ in range(2)] == [b"/0", b"/1"]
        assert client.recv(1) == b""


SO_ATTACH_FILTER = 26  # socket(7)
NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)  # classic BPF: every segment is dropped, so nothing is acknowledged


def test_a_client_that_vanishes_without_a_word_is_given_up() -> None:
    closed = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        try:
            while True:
                yield b"x"
                gevent.sleep(0.02)
        finally:
            closed.set()

    with Running(application, write_timeout=0.5) as server:
        client = server.connect()
        client.sendall(GET)
        assert client.recv(10)
        code = ctypes.create_string_buffer(NOTHING)
        client.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(code)))
        assert closed.wait(DEADLINE)
        wait_until(lambda: server.server.stats.connections == 0)
        client.close()


def test_what_comes_behind_a_running_request_is_bounded() -> None:
    go = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        while not go.is_set():
            gevent.sleep(0.01)
        return hello(environ, start_response)

    with Running(application) as server, server.connect() as client:
        client.sendall(GET)
        client.setblocking(False)
        sent = 0
        stuck = 0
        while stuck < 20:
            try:
                sent += client.send(GET * 1000)
                stuck = 0
            except BlockingIOError:
                stuck += 1
                threading.Event().wait(0.01)
        connection = server.call(lambda: next(iter(server.server.connections)))
        assert len(connection.buffer) <= 128 * 1024
        client.setblocking(True)
        go.set()
        for _ in range(100):
            assert read_answer(client).status == 200


def test_detach_gives_the_socket_with_every_byte_from_the_head_on_and_resume_takes_it_back() -> None:
    given: list[bytes] = []

    def on_head(connection: Any, head: Any) -> bool:
        if head.environ["PATH_INFO"] != "/away" or given:
            return False
        _, data = connection.detach(head)
        given.append(data)
        connection.resume(data)
        return True

    raw = GET.replace(b"/ ", b"/away ") + GET
    with Running(path, on_head=on_head) as server, server.connect() as client:
        client.sendall(raw)
        assert [read_answer(client).body for _ in range(2)] == [b"/away", b"/"]
        assert given == [raw]


def test_another_server_adopts_a_connection_with_what_was_read_of_it() -> None:
    def give(connection: Any, head: Any) -> bool:
        sock, data = connection.detach(head)
        fd = socket.dup(sock.fileno())
        address = sock.getpeername()
        second.server.loop.run_callback_threadsafe(second.server.adopt, fd, data, address)
        connection.close()
        return True

    with Running(path) as second, Running(hello, on_head=give) as first, first.connect() as client:
        client.sendall(GET.replace(b"/ ", b"/one ") + GET.replace(b"/ ", b"/two "))
        assert [read_answer(client).body for _ in range(2)] == [b"/one", b"/two"]
        client.sendall(GET)
        assert read_answer(client).body == b"/"
        wait_until(lambda: first.server.stats.connections == 0)
        wait_until(lambda: second.server.stats.connections == 1)


def test_an_abort_resets() -> None:
    with Running(hello) as server, server.connect() as client:
        client.sendall(GET)
        read_answer(client)
        server.call(server.server.abort)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
