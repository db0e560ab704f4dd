"""control.py: whoever may talk to the master cannot hold it up, whatever they say."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from channels import control
from tests.server import DEADLINE, Server

IDLE = 1000  # connections that say nothing
NOBODY = 65534


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("tests.flask_app:app", workers=2) as made:
        yield made


def connected(server: Server) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.connect(str(server.control))  # waits while the queue is full; with a timeout it would fail instead
    made.settimeout(DEADLINE)
    return made


def said(connection: socket.socket) -> bytes:
    answer = b""
    try:
        while part := connection.recv(65536):
            answer += part
    except ConnectionResetError:  # it closed with something of ours unread
        pass
    return answer


def ask(server: Server, request: object) -> dict[str, object]:
    with connected(server) as connection:
        connection.sendall(json.dumps(request).encode() + b"\n")
        answer: dict[str, object] = json.loads(said(connection))
        return answer


def works(server: Server) -> bool:
    return ask(server, {"do": "send", "channel": "x", "size": 0}) == {"workers": 0} and "workers" in ask(
        server, {"do": "stats"}
    )


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b'"ls"\n',
        b"\xff\xfe\n",
        b"[" * 50_000 + b"\n",
        b'{"do": "ls", "prefix": {}}\n',
        b'{"do": "nonsense"}\n',
        b'{"do": "tail"}\n',
        b'{"do": "tail", "channels": 7}\n',
        b'{"do": "tail", "channels": [""]}\n',
        b'{"do": "tail", "channels": ["a\\nb"]}\n',
        b'{"do": "send", "channel": "x", "size": -1}\n',
        b'{"do": "send", "channel": "x", "size": 1e400}\n',
        b'{"do": "send", "channel": "x", "size": 99999999999}\n',
        b'{"do": "send", "channel": 7, "size": 0}\n',
        b'{"do": "alert", "worker": 4096, "name": "x", "size": 0}\n',
        b'{"do": "alert", "worker": 1, "name": "", "size": 0}\n',
        b"x" * (control.LINE_MAX * 2),
        b"x" * (control.LINE_MAX * 2) + b"\n",
    ],
    ids=lambda line: repr(line[:40]),
)
def test_nonsense_is_answered_with_an_error_and_harms_nothing(server: Server, line: bytes) -> None:
    before = len(server.lines)
    with connected(server) as connection:
        try:
            connection.sendall(line)
        except (BrokenPipeError, ConnectionResetError):  # it was told enough
            pass
        answer = said(connection)
    assert not answer or "error" in json.loads(answer) or "channels" in json.loads(answer)
    assert works(server)
    assert not [text for text in server.lines[before:] if "Traceback" in text]


def test_connections_that_say_nothing_hold_nobody_up_and_end(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, IDLE + 200), hard), hard))
    idle = [connected(server) for _ in range(min(IDLE, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200))]
    try:
        idle[0].sendall(b'{"do": ')  # half of a line
        assert works(server)
        assert server.get("/rooms/1", data=b"x") == b"0"  # routing goes on
        assert [said(connection) for connection in idle[:10]] == [b""] * 10  # they are closed when their time is up
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert works(server)


def test_only_the_master_s_user_may_open_it(server: Server) -> None:
    found = os.stat(server.control)
    assert (found.st_mode & 0o777, found.st_uid) == (0o600, os.getuid())


@pytest.mark.skipif(os.getuid() != 0, reason="needs a second user")
def test_somebody_else_who_got_in_is_not_served(server: Server) -> None:
    with connected(server) as trusted:
        trusted.sendall(b'{"do": "stats"}\n')
        assert b"workers" in said(trusted)
    modes = [(path, os.stat(path).st_mode) for path in (server.control, server.control.parent)]
    for path, _ in modes:
        os.chmod(path, 0o777)
    try:
        os.seteuid(NOBODY)
        try:
            stranger = connected(server)
        finally:
            os.seteuid(0)
        with stranger:
            with contextlib.suppress(BrokenPipeError):  # it was shown the door already
                stranger.sendall(b'{"do": "stats"}\n')
            assert said(stranger) == b""
    finally:
        for path, mode in modes:
            os.chmod(path, mode)
