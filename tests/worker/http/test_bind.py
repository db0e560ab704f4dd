"""Where a server of one's own listens."""

from __future__ import annotations

import socket
from pathlib import Path

import gevent.socket
import pytest

from channels.worker.http.bind import family_and_name, listening, plain, tune
from tests.worker.http.running import Running, hello


@pytest.mark.parametrize("where", [("127.0.0.1", 0), "127.0.0.1:0"])
def test_an_address(where: object) -> None:
    with Running(hello, where) as server:
        assert server.get().body == b"hello"


def test_a_unix_socket_also_where_an_old_one_lies(tmp_path: Path) -> None:
    path = f"unix:{tmp_path / 'socket'}"
    for _ in range(2):
        with Running(hello, path) as server:
            assert server.get().body == b"hello"


@pytest.mark.parametrize("module", [socket, gevent.socket])
def test_a_socket_that_listens_already(module: object) -> None:
    listener = module.socket()  # type: ignore[attr-defined]
    listener.bind(("127.0.0.1", 0))
    listener.listen(5)
    with Running(hello, listener) as server:
        assert server.port == listener.getsockname()[1]
        assert server.get().body == b"hello"


def test_an_address_in_use_is_an_error() -> None:
    taken = listening(("127.0.0.1", 0))
    with pytest.raises(OSError):
        listening(taken.getsockname())
    taken.close()


def test_several_at_once(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Running(hello, [("127.0.0.1", 0), f"unix:{path}"]) as server:
        assert server.get().body == b"hello"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def test_connections_inherit_how_those_who_vanish_are_found() -> None:
    listener = listening(("127.0.0.1", 0))
    tune(plain(listener), 2.5)
    with socket.create_connection(listener.getsockname()):
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            tcp = [socket.TCP_NODELAY, socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL]
            assert [accepted.getsockopt(socket.IPPROTO_TCP, option) for option in tcp] == [1, 2500, 60, 10]
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    listener.close()


def test_a_descriptor_says_what_it_is_and_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(2):
            assert family_and_name(listener.fileno()) == (socket.AF_INET, listener.getsockname())
    with pytest.raises(OSError, match="Bad file descriptor"):
        family_and_name(10**6)
