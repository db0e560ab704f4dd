"""WebSockets through a real server, with the clients that people use."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import threading
import time
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from tests.browser import Browser
from tests.server import Server

DEADLINE = 30


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("tests.web.apps:application", "--stream-heartbeat", "1", workers=2) as made:
        yield made


def url(server: Server, path: str) -> str:
    return server.url.replace("http:", "ws:") + path


def closed(connection: Any) -> tuple[int, str]:
    """Code and reason with which the server closes it."""
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            connection.recv(timeout=DEADLINE)
    assert caught.value.rcvd is not None, caught.value
    return caught.value.rcvd.code, caught.value.rcvd.reason


# ---- messages ----


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 1_000_000])
def test_texts_and_bytes_come_back_as_they_were(server: Server, size: int, compression: str | None) -> None:
    path = "/echo?deflate=1" if compression else "/echo"
    with connect(url(server, path), compression=compression, max_size=None) as ws:
        assert bool(ws.protocol.extensions) is bool(compression)
        ws.send("ä" * (size // 2))
        assert ws.recv(timeout=DEADLINE) == "ä" * (size // 2)
        body = os.urandom(size)
        ws.send(body)
        assert ws.recv(timeout=DEADLINE) == body


def test_a_message_in_fragments_comes_as_one(server: Server) -> None:
    with connect(url(server, "/echo")) as ws:
        ws.send(["one ", "two ", "three"])
        assert ws.recv(timeout=DEADLINE) == "one two three"


def test_a_ping_is_answered_with_its_payload(server: Server) -> None:
    with connect(url(server, "/echo")) as ws:
        assert ws.ping(b"exactly this").wait(DEADLINE)


def test_the_server_pings_a_silent_client_and_ends_one_that_does_not_answer(server: Server) -> None:
    with connect(url(server, "/echo"), ping_interval=None) as answering, raw(server, "/echo") as deaf:
        deaf.settimeout(DEADLINE)
        frames = b""
        while chunk := deaf.recv(100):
            frames += chunk
        assert frames.startswith(b"\x89\x00"), "a ping came before the end"
        answering.send("still here")
        assert answering.recv(timeout=DEADLINE) == "still here"


def test_receive_with_a_timeout_gives_none_when_the_time_is_up(server: Server) -> None:
    with connect(url(server, "/timeouts")) as ws:
        assert float(ws.recv(timeout=DEADLINE)) >= 0.04  # a loop that is up to a tick early
        ws.send("x")
        assert ws.recv(timeout=DEADLINE) == "got 'x'"


@pytest.mark.parametrize("path", ["/many", "/many?deflate=1", "/many?channel=mixed", "/many?channel=mixed&deflate=1"])
def test_frames_of_many_greenlets_to_a_slow_client_are_never_mixed_or_cut(server: Server, path: str) -> None:
    with connect(url(server, path), max_queue=1, compression="deflate" if "deflate" in path else None) as ws:
        time.sleep(0.3)  # so that buffers fill; nothing depends on it
        check_many(ws, "channel" in path)


def check_many(ws: Any, channel: bool) -> None:
    """What /many sends comes whole; of its channel, what does not is told."""
    sent = forwarded = missed = 0
    while sent < 160 or (channel and forwarded + missed < 80):
        message = ws.recv(timeout=DEADLINE)
        if message.startswith("{"):
            missed += json.loads(message)["missed"]
            continue
        assert message == message[0] * 30_000
        sent += message[0] != "z"
        forwarded += message[0] == "z"
    ws.send("all seen")
    assert (ws.recv(timeout=DEADLINE), sent, forwarded + missed) == ("end", 160, 80 if channel else 0)


# ---- channels ----


def test_what_is_sent_to_joined_channels_and_prefixes_is_forwarded_in_order(server: Server) -> None:
    asked = "/join?channels=ws:a&prefixes=ws:b"
    other = "/join?channels=ws:a"
    with connect(url(server, asked)) as one, connect(url(server, other), max_queue=None) as two:
        assert one.recv(timeout=DEADLINE) == two.recv(timeout=DEADLINE) == "joined"
        for number in range(300):
            server.get(f"/send?channel=ws:a&data={number}") if number % 100 == 0 else one.send(str(number))
            if number % 100 == 0:
                while two.recv(timeout=DEADLINE) != str(number):
                    pass
        seen = [one.recv(timeout=DEADLINE) for _ in range(300)]
        assert sorted(map(int, seen)) == list(range(300))
        assert [int(text) for text in seen if int(text) % 100] == [n for n in range(300) if n % 100]
        server.get("/send?channel=ws:b:new&data=prefix")
        assert one.recv(timeout=DEADLINE) == "prefix"


@pytest.mark.parametrize("how", ["", "&deflate=1"])
def test_a_star_in_a_channel_s_name_is_a_star(server: Server, how: str) -> None:
    with connect(url(server, f"/join?channels=star:*{how}")) as ws:
        assert ws.recv(timeout=DEADLINE) == "joined"
        server.get("/send?channel=star:secret&data=not+ours")
        server.get("/send?channel=star:*&data=ours")
        assert ws.recv(timeout=DEADLINE) == "ours"


def test_a_channel_may_be_forwarded_as_binary(server: Server) -> None:
    with connect(url(server, "/join?channels=ws:bin&binary=1")) as ws:
        assert ws.recv(timeout=DEADLINE) == "joined"
        ws.send(b"\0\xff")
        assert ws.recv(timeout=DEADLINE) == b"\0\xff"
        ws.send("text")
        assert ws.recv(timeout=DEADLINE) == b"text"


def test_what_is_no_utf8_is_binary_in_any_case(server: Server) -> None:
    with connect(url(server, "/join?channels=ws:odd")) as ws:
        assert ws.recv(timeout=DEADLINE) == "joined"
        ws.send(b"\xff")
        assert ws.recv(timeout=DEADLINE) == b"\xff"
        ws.send(b"text")
        assert ws.recv(timeout=DEADLINE) == "text"


def test_compressed_clients_get_channels_too(server: Server) -> None:
    with connect(url(server, "/join?channels=ws:z&deflate=1")) as ws:
        assert ws.recv(timeout=DEADLINE) == "joined"
        for number in range(50):
            ws.send(f"message {number} " * 20)
        assert [ws.recv(timeout=DEADLINE) for _ in range(50)] == [f"message {n} " * 20 for n in range(50)]


def test_a_client_that_does_not_read_is_told_of_the_gap_and_the_numbers_add_up(server: Server) -> None:
    with raw(server, "/join?channels=ws:gap", receive_buffer=4096) as slow:
        reader = Frames(slow)
        assert reader.next() == (Opcode.TEXT, b"joined")
        count, size = 3000, 4000
        server.get(f"/flood?channel=ws:gap&count={count}&size={size}")
        server.get("/send?channel=ws:gap&data=last")
        got, missed = 0, 0
        while True:
            opcode, payload = reader.next()
            if opcode is Opcode.PING:
                continue
            if payload == b"last":
                break
            if payload.startswith(b"{"):
                missed += int(payload.split(b'"missed":')[1].rstrip(b"}"))
                if got + missed >= count:  # the last one may be among those missed
                    break
                continue
            assert len(payload) == size
            assert int(payload[:8]) == got + missed, "in order, and every hole was told"
            got += 1
        assert got + missed in (count, count + 1)
        assert missed > 0


def test_or_it_is_closed_with_1013(server: Server) -> None:
    with raw(server, "/join?channels=ws:cut&slow=close", receive_buffer=4096) as slow:
        reader = Frames(slow)
        assert reader.next() == (Opcode.TEXT, b"joined")
        server.get("/flood?channel=ws:cut&count=3000&size=4000")
        number = 0
        while True:
            opcode, payload = reader.next()
            if opcode is Opcode.CLOSE:
                break
            if opcode is Opcode.TEXT:
                assert int(payload[:8]) == number
                number += 1
        assert struct.unpack("!H", payload[:2]) == (1013,)
        assert number < 3000
        slow.sendall(b"\x88\x82\0\0\0\0" + payload[:2])  # the client's close, masked with nothing
        assert reader.file.read() == b"", "nothing comes behind a close"


# ---- the end ----


def test_the_application_closes_with_code_and_reason(server: Server) -> None:
    with connect(url(server, "/close")) as ws:
        assert closed(ws) == (4001, "enough")


def test_a_handler_that_fails_is_told_to_the_client_as_1011_and_to_the_log_in_full(server: Server) -> None:
    with connect(url(server, "/fail")) as ws:
        assert closed(ws) == (1011, "the application failed")
    server.wait_log("RuntimeError: on purpose")


@pytest.mark.parametrize("how, code", [("Timeout", 1011), ("GreenletExit", 1000)])
def test_a_timeout_that_nobody_catches_fails_a_handler_and_a_greenlet_s_exit_does_not(
    server: Server, how: str, code: int
) -> None:
    with connect(url(server, f"/fail?how={how}")) as ws:
        assert closed(ws)[0] == code


def test_a_client_that_vanishes_leaves_no_subscription_behind(server: Server) -> None:
    with raw(server, "/join?channels=ws:gone") as gone:
        assert Frames(gone).next() == (Opcode.TEXT, b"joined")
        assert server.get("/send?channel=ws:gone&data=x") == b"1"
    server.wait(lambda: server.get("/send?channel=ws:gone&data=x") == b"0")


@pytest.mark.parametrize("path", ["/echo", "/join?channels=drain:a"])
def test_a_reload_closes_with_1012_and_a_stop_with_1001(path: str) -> None:
    with Server("tests.web.apps:application", "--drain-spread", "0.1", workers=1) as mine:
        old = set(mine.workers.values())
        with connect(url(mine, path)) as ws:
            if "join" in path:
                assert ws.recv(timeout=DEADLINE) == "joined"
            mine.send_signal(signal.SIGHUP)
            assert closed(ws)[0] == 1012
        mine.wait_ready(1, without=old)
        with connect(url(mine, path)) as ws:
            if "join" in path:
                assert ws.recv(timeout=DEADLINE) == "joined"
            mine.send_signal(signal.SIGTERM)
            assert closed(ws)[0] == 1001
        assert mine.wait_exit() == 0


def test_a_request_s_timeout_is_not_for_a_websocket() -> None:
    options = ("--request-timeout", "0.3")
    with Server("tests.web.apps:application", *options, workers=1) as mine, connect(url(mine, "/echo")) as ws:
        assert too_long(mine)  # which began later
        ws.send("still here")
        assert ws.recv(timeout=DEADLINE) == "still here"


def too_long(server: Server) -> bool:
    """When a request that never ends has been ended."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.get("/sleep")
    return caught.value.code == 504


# ---- what clients do wrong ----


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=True), 1007),
        (Frame(Opcode.TEXT, b"not masked").serialize(mask=False), 1002),
        (Frame(Opcode.CONT, b"of nothing").serialize(mask=True), 1002),
        (Frame(Opcode.TEXT, b"x" * 2_000_000).serialize(mask=True)[:100], 1009),
        (b"\xf1\x80\0\0\0\0", 1002),
        (b"\x83\x80\0\0\0\0", 1002),
    ],
)
def test_a_client_that_breaks_the_protocol_is_closed_with_the_right_code(
    server: Server, data: bytes, code: int
) -> None:
    with raw(server, "/echo") as sock:
        sock.sendall(data)
        opcode, payload = Frames(sock).next()
        assert (opcode, struct.unpack("!H", payload[:2])[0]) == (Opcode.CLOSE, code)


def test_a_message_larger_than_the_view_allows_is_1009(server: Server) -> None:
    with connect(url(server, "/guarded")) as ws:
        ws.send("x" * 1001)
        assert closed(ws)[0] == 1009


def test_a_flood_is_held_back_in_the_kernel_and_nothing_of_it_is_lost(server: Server) -> None:
    with connect(url(server, "/echo"), max_queue=None) as ws:
        sender = threading.Thread(target=lambda: [ws.send(str(number) * 100) for number in range(3000)])
        sender.start()
        assert [ws.recv(timeout=DEADLINE) for _ in range(3000)] == [str(number) * 100 for number in range(3000)]
        sender.join(DEADLINE)


def test_a_plain_request_is_told_to_upgrade(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.get("/echo")
    assert caught.value.code == 426
    assert caught.value.headers["Upgrade"] == "websocket" or caught.value.headers["Upgrade"] is None


@pytest.mark.parametrize(
    ("origin", "welcome"), [(None, True), ("own", True), ("http://evil.example", False), ("null", False)]
)
def test_pages_of_other_origins_may_not_connect(server: Server, origin: str | None, welcome: bool) -> None:
    given: Any = server.url if origin == "own" else origin
    if welcome:
        with connect(url(server, "/guarded"), origin=given) as ws:
            ws.send("hello")
            assert ws.recv(timeout=DEADLINE) == "hello"
    else:
        with pytest.raises(InvalidStatus) as caught:
            connect(url(server, "/guarded"), origin=given)
        assert caught.value.response.status_code == 403


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["v1"], "v1"), (["v1", "v2"], "v2"), (["v3"], None), (None, None), (["v3", "v1"], "v1")]
)
def test_the_best_sub_protocol_that_both_speak_is_chosen(server: Server, offered: Any, chosen: str | None) -> None:
    with connect(url(server, "/guarded"), subprotocols=offered) as ws:
        assert ws.subprotocol == chosen


# ---- other clients; more of them in tests/system/test_real_clients.py ----


def test_a_browser_talks_to_it(server: Server) -> None:
    with Browser() as browser:
        browser.open(server.url + "/")
        browser.driver.set_script_timeout(DEADLINE)
        script = """
            const [path, done] = arguments, log = []
            const ws = new WebSocket(location.origin.replace('http', 'ws') + path)
            ws.binaryType = 'arraybuffer'
            ws.onopen = () => { ws.send('schön'); ws.send(new Uint8Array([0, 255])); ws.send('x'.repeat(100000)) }
            ws.onmessage = ({data}) => {
              log.push(typeof data === 'string' ? data.slice(0, 10) : new Uint8Array(data).join())
              if (log.length === 3) ws.close(3001, 'bye')
            }
            ws.onclose = event => done([...log, event.code, ws.extensions])
        """
        log = browser.driver.execute_async_script(script, "/echo")
        assert log == ["schön", "0,255", "x" * 10, 3001, ""]
        log = browser.driver.execute_async_script(script, "/echo?deflate=1")
        assert log[:4] == ["schön", "0,255", "x" * 10, 3001]
        assert "permessage-deflate" in log[4]


# ---- a client by hand ----


def raw(server: Server, path: str, receive_buffer: int = 0) -> socket.socket:
    """A connected socket whose handshake is done."""
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(DEADLINE)
    sock.connect(server.address)
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101 "), head
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    return sock


class Frames:
    """Frames from a socket, one after the other."""

    def __init__(self, sock: socket.socket) -> None:
        self.file = sock.makefile("rb")

    def next(self) -> tuple[Opcode, bytes]:
        first, second = self.file.read(2)
        assert first & 0x80 and not second & 0x80, "whole, and not masked"
        size = second
        if size == 126:
            (size,) = struct.unpack("!H", self.file.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.file.read(8))
        return Opcode(first & 0x0F), self.file.read(size)
