from __future__ import annotations

import contextlib
import signal
import socket
import struct
from typing import Any

import pytest
import websocket

from tests.server import Server
from tests.web.uwsgi.conftest import APPLICATION, Asked

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def connect(server: Server, path: str = "/echo", **options: object) -> Any:
    return contextlib.closing(open_socket(server, path, **options))


def open_socket(server: Server, path: str = "/echo", **options: object) -> websocket.WebSocket:
    return websocket.create_connection(server.url.replace("http", "ws") + path, timeout=20, **options)


def masked(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    size = len(payload)
    head = bytes([opcode | (0x80 if fin else 0), 0x80 | (size if size < 126 else 126)])
    return head + (struct.pack("!H", size) if size >= 126 else b"") + bytes(4) + payload


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 300_000])
def test_messages_of_every_size_come_back(server: Asked, size: int) -> None:
    with connect(server) as client:
        client.send("x" * size)
        assert client.recv() == "x" * size
        client.send_binary(b"\0" + b"y" * size)
        assert client.recv() == b"\0" + b"y" * size


def test_a_ping_is_answered_with_what_it_carried(server: Asked) -> None:
    with connect(server) as client:
        client.ping("still there?")
        frame = client.recv_frame()
        assert (frame.opcode, frame.data) == (PONG, b"still there?")


def test_fragments_of_two_clients_never_mix(server: Asked) -> None:
    with connect(server) as one, connect(server) as two:
        for part in range(3):
            for client, letter in ((one, b"a"), (two, b"b")):
                client.sock.sendall(masked(TEXT if part == 0 else 0, letter * 5, fin=part == 2))
            one.ping("between fragments")
        assert one.recv() == "a" * 15
        assert two.recv() == "b" * 15


def test_the_descriptor_stays_readable_while_frames_wait(server: Asked) -> None:
    """All of them arrive in one piece; each read takes one, and the next wait returns at once."""
    with connect(server, "/polled") as client:
        client.sock.sendall(b"".join(masked(TEXT, b"%d" % i) for i in range(20)))
        assert [client.recv() for _ in range(20)] == [f"woken for {i}" for i in range(20)]


def test_a_frame_that_comes_byte_by_byte_is_taken_when_it_is_whole(server: Asked) -> None:
    with connect(server, "/polled") as client:
        for byte in masked(TEXT, b"slow"):
            client.sock.sendall(bytes([byte]))
        assert client.recv() == "woken for slow"


def test_greenlets_of_no_request_send_whole_frames_over_its_connection(server: Asked) -> None:
    with connect(server, "/apart") as client:
        client.send("z" * 20_000)
        sizes = sorted(len(client.recv()) for _ in range(100))
        assert sizes == sorted(20_000 * number for number in range(1, 6) for _ in range(20))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (masked(TEXT, b"\xff\xfe"), 1007),
        (masked(0, b"no beginning"), 1002),
        (masked(TEXT, b"a", fin=False) + masked(TEXT, b"b"), 1002),
        (masked(3, b"no such opcode"), 1002),
        (b"\x81\x01x", 1002),  # not masked
        (bytes([0x82, 0xFF]) + struct.pack("!Q", 1 << 40), 1009),
    ],
)
def test_what_breaks_the_protocol_ends_it_with_the_right_code(server: Asked, data: bytes, code: int) -> None:
    with connect(server) as client:
        client.sock.sendall(data)
        opcode, payload = client.recv_data(control_frame=True)
        assert opcode == CLOSE and struct.unpack("!H", payload[:2]) == (code,)


def test_the_first_offered_subprotocol_is_chosen(server: Asked) -> None:
    with connect(server, subprotocols=["b", "a"]) as client:
        assert client.subprotocol == "b"


def test_an_application_that_returns_says_goodbye(server: Asked) -> None:
    with connect(server) as client:
        client.send("bye")
        opcode, payload = client.recv_data(control_frame=True)
        assert opcode == CLOSE and payload == struct.pack("!H", 1000)


def test_a_client_that_goes_leaves_no_traceback(server: Asked) -> None:
    before = server.log.count("Traceback")
    for polite in (True, False):
        client = open_socket(server)
        client.send("here")
        client.recv()
        if polite:
            client.close()
        else:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sock.close()
    running = "sum(worker['status'] == b'busy' for worker in uwsgi.workers())"
    server.wait(lambda: server.ask(running) <= 1)
    assert server.log.count("Traceback") == before


def test_a_request_that_is_no_handshake_can_be_answered(server: Asked) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException, match="400"):
        connect(server, "/refuse", header={"Sec-WebSocket-Version": "7"})
    assert "OSError" in server.ask("uwsgi.websocket_handshake()")
    assert "no WebSocket" in server.ask("uwsgi.websocket_recv()")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 1001), (signal.SIGHUP, 1012)])
@pytest.mark.parametrize("path", ["/echo", "/polled"])
def test_a_worker_that_drains_says_so(number: int, code: int, path: str) -> None:
    with Server(APPLICATION, workers=1) as server, connect(server, path) as client:
        client.send("here")
        client.recv()
        server.send_signal(number)
        opcode, payload = client.recv_data(control_frame=True)
        assert opcode == CLOSE and struct.unpack("!H", payload[:2]) == (code,)
        client.sock.close()
        server.wait_log("died: status 0")


def test_a_client_that_does_not_answer_pings_is_ended(server: Asked) -> None:
    with Server(APPLICATION, "--stream-heartbeat", "0.2", workers=1) as impatient:
        client = open_socket(impatient)
        for _ in range(2):
            frame = client.recv_frame()
            assert frame.opcode == PING
            client.pong(frame.data)
        client.close()
