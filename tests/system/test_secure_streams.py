"""Event streams and WebSockets over TLS: the same promises by the greenlets' way."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.sync.client import connect

from tests.server import Server
from tests.web.test_websocket import DEADLINE, check_many, closed
from tests.worker.http.test_tls import certificate

NAME = "main.test"
APP = "tests.web.apps:application"
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl for certificates")


class Secure(Server):
    """Asked over TLS; its certificate is the only one that is trusted."""

    context: ssl.SSLContext

    def open(self, path: str, **more: Any) -> Any:
        return urlopen(self.url + path, timeout=DEADLINE, context=self.context, **more)

    def get(self, path: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
        with self.open(path, data=data) as answer:
            return bytes(answer.read())

    def connect(self, path: str, **more: Any) -> Any:
        return connect(self.url.replace("http", "ws") + path, ssl=self.context, server_hostname=NAME, **more)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return certificate(tmp_path_factory.mktemp("tls"), NAME)


def serve(files: tuple[str, str], *options: str, workers: int = 2, app: str = APP) -> Secure:
    certfile, keyfile = files
    made = Secure(app, "--certfile", certfile, "--keyfile", keyfile, *options, workers=workers)
    made.context = ssl.create_default_context(cafile=certfile)
    made.context.check_hostname = False
    return made


@pytest.fixture(scope="module")
def server(files: tuple[str, str]) -> Iterator[Secure]:
    with serve(files, "--stream-heartbeat", "1") as made:
        yield made


def test_an_event_stream_carries_what_is_sent_from_any_worker(server: Secure) -> None:
    with server.open("/events?channels=tls") as one, server.open("/events?channels=tls") as two:
        for number in range(20):
            assert server.get(f"/send?channel=tls&data={number}") != b"0"
        for stream in (one, two):
            seen: list[bytes] = []
            while len(seen) < 20:
                line = stream.readline()
                seen += [line[6:-1]] if line.startswith(b"data: ") else []
            assert seen == [b"%d" % number for number in range(20)]


def test_a_quiet_event_stream_gets_signs_of_life(server: Secure) -> None:
    with server.open("/events?channels=tls:quiet") as stream:
        for _ in range(2):
            while stream.readline() != b":\n":
                pass


def test_a_client_that_vanishes_is_noticed_while_nothing_is_sent(server: Secure) -> None:
    with server.open("/events?channels=tls:gone"):
        assert server.get("/send?channel=tls:gone&data=x") == b"1"
    server.wait(lambda: server.get("/send?channel=tls:gone&data=x") == b"0")


@pytest.mark.parametrize("path", ["/echo", "/echo?deflate=1", "/join?channels=tls:echo"])
def test_messages_of_every_size_come_back(server: Secure, path: str) -> None:
    with server.connect(path, max_size=None) as ws:
        if "join" in path:
            assert ws.recv(timeout=DEADLINE) == "joined"
        for size in (0, 1, 125, 126, 16384, 65536, 1_000_000):
            text = os.urandom(size // 2).hex()
            ws.send(text)
            assert ws.recv(timeout=DEADLINE) == text


@pytest.mark.parametrize("path", ["/many", "/many?channel=tls:many", "/many?channel=tls:many&deflate=1"])
def test_frames_of_many_greenlets_to_a_slow_client_are_never_mixed_or_cut(server: Secure, path: str) -> None:
    with server.connect(path, max_queue=1) as ws:
        check_many(ws, "channel" in path)


def test_a_flood_is_held_back_and_nothing_of_it_is_lost(server: Secure) -> None:
    with server.connect("/echo", max_queue=None) as ws:
        sender = threading.Thread(target=lambda: [ws.send(str(number) * 100) for number in range(2000)])
        sender.start()
        assert [ws.recv(timeout=DEADLINE) for _ in range(2000)] == [str(number) * 100 for number in range(2000)]
        sender.join(DEADLINE)


def test_frames_that_came_with_the_handshake_in_one_record_are_heard(server: Secure) -> None:
    with socket.create_connection(server.address, timeout=DEADLINE) as plain:
        sock = server.context.wrap_socket(plain, server_hostname=NAME)
        sock.sendall(
            b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            b"\x82\x83\0\0\0\0one\x82\x83\0\0\0\0two"
        )
        heard = b""
        while not heard.endswith(b"\x82\x03one\x82\x03two"):
            data = sock.recv(1000)
            assert data, heard
            heard += data


def test_programs_for_uwsgi_talk_too(files: tuple[str, str]) -> None:
    app = "tests.chaos.websocket_app:application"
    with serve(files, workers=1, app=app) as mine, mine.connect("/uwsgi", max_size=None) as ws:
        for size in (0, 1, 126, 16384, 65536, 1_000_000, 3):
            body = os.urandom(size)
            ws.send(body)
            assert ws.recv(timeout=DEADLINE) == body
        mine.send_signal(signal.SIGTERM)
        assert closed(ws)[0] == 1001


def test_a_reload_closes_with_1012_and_a_stop_with_1001(files: tuple[str, str]) -> None:
    with serve(files, "--drain-spread", "0.1", workers=1) as mine:
        old = set(mine.workers.values())
        with mine.connect("/join?channels=tls:drain") as ws, mine.open("/events?channels=tls:drain") as stream:
            assert ws.recv(timeout=DEADLINE) == "joined"
            mine.send_signal(signal.SIGHUP)
            assert closed(ws)[0] == 1012
            lines = stream.read().split(b"\n")  # to its clean end
            assert sum(line.startswith(b"retry: ") for line in lines) == 2, lines
        mine.wait_ready(1, without=old)
        with mine.connect("/echo") as ws:
            mine.send_signal(signal.SIGTERM)
            assert closed(ws)[0] == 1001
        assert mine.wait_exit() == 0
