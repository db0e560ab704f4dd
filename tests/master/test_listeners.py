"""listeners.py: addresses as people write them, real sockets, an end without a reset."""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path

import pytest

from channels.errors import BadSetting
from channels.master import listeners


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:80", "127.0.0.1", 80), (":80", "", 80), ("[::1]:80", "::1", 80), ("localhost:0", "localhost", 0)],
)
def test_an_address_is_host_and_port(text: str, host: str, port: int) -> None:
    address = listeners.Address(text)
    assert (address.host, address.port, address.path) == (host, port, None)


@pytest.mark.parametrize(
    "text", ["", "80", "host", "host:", "host:port", "host:65536", "host:-1", "::1:80", "unix:", "unix:" + "x" * 108]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadSetting, match=r"HOST:PORT|brackets|1 to 107 bytes"):
        listeners.Address(text)


def test_a_listener_accepts_and_says_where_it_is() -> None:
    with listeners.open_listener("127.0.0.1:0") as listener:
        where = listener.getsockname()
        assert listeners.shown(listener) == f"http://127.0.0.1:{where[1]}"
        assert listeners.shown(listener, secure=True) == f"https://127.0.0.1:{where[1]}"
        assert listener.getblocking() is False and not listener.get_inheritable()
        with socket.create_connection(where):
            assert select.select([listener], [], [], 10)[0]
            listener.accept()[0].close()


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_every_address_of_the_machine_is_served_by_one_socket() -> None:
    with listeners.open_listener(":0") as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port)).close()
    with listeners.open_listener("[::1]:0") as listener:
        assert listeners.shown(listener) == f"http://[::1]:{listener.getsockname()[1]}"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", listener.getsockname()[1]))


def test_an_address_in_use_is_refused_and_can_be_shared_on_purpose() -> None:
    with listeners.open_listener("127.0.0.1:0", reuse_port=True) as first:
        text = f"127.0.0.1:{first.getsockname()[1]}"
        with pytest.raises(BadSetting, match="Address already in use"):
            listeners.open_listener(text)
        listeners.open_listener(text, reuse_port=True).close()


@pytest.mark.parametrize("text", ["no.such.host.invalid:80", "192.0.2.1:80"])
def test_an_address_that_is_not_here_is_one_clear_error(text: str) -> None:
    with pytest.raises(BadSetting, match="cannot listen there"):
        listeners.open_listener(text)


def test_a_unix_socket_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o22)
    try:
        for umask, mode in ((0, 0o777), (0o77, 0o700)):
            path = tmp_path / f"socket-{umask}"
            with listeners.open_listener(f"unix:{path}", umask=umask):
                assert path.stat().st_mode & 0o777 == mode
    finally:
        assert os.umask(before) == 0o22


def test_a_socket_file_that_a_killed_server_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listeners.open_listener(f"unix:{path}").close()
    assert path.exists()
    with listeners.open_listener(f"unix:{path}") as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert listeners.shown(listener) == f"unix:{path}"


def test_a_live_servers_socket_file_and_a_plain_file_are_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listeners.open_listener(f"unix:{path}"):
        with pytest.raises(BadSetting, match="Address already in use"):
            listeners.open_listener(f"unix:{path}")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    plain = tmp_path / "plain"
    plain.write_text("mine")
    with pytest.raises(BadSetting, match="Address already in use"):
        listeners.open_listener(f"unix:{plain}")
    assert plain.read_text() == "mine"


def test_who_was_queued_before_the_refusal_is_still_served_and_nobody_comes_after() -> None:
    with listeners.open_listener("127.0.0.1:0") as listener:
        where = listener.getsockname()
        clients = [socket.create_connection(where) for _ in range(20)]
        listeners.refuse_new([listener])
        with socket.socket() as late:
            late.setblocking(False)
            late.connect_ex(where)
            for client in clients:
                client.sendall(b"still here")
                accepted = listener.accept()[0]
                accepted.setblocking(True)
                assert accepted.recv(100) == b"still here"
                accepted.close()
                client.close()
            assert not select.select([listener], [], [], 0)[0]
            assert not select.select([], [late], [], 0)[1]


def test_a_refusal_is_taken_back_for_the_next_server_with_the_same_socket(tmp_path: Path) -> None:
    unix = listeners.open_listener(f"unix:{tmp_path / 'socket'}")
    with listeners.open_listener("127.0.0.1:0") as listener, unix:
        listeners.refuse_new([listener])
        listeners.admit_new([listener, unix])
        listeners.admit_new([listener])  # again is nothing
        socket.create_connection(listener.getsockname(), timeout=10).close()
        assert select.select([listener], [], [], 10)[0]


def test_the_path_of_a_unix_socket_goes_with_the_refusal_and_the_queue_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listeners.open_listener(f"unix:{path}") as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        listeners.refuse_new([listener])
        assert not path.exists()
        listener.accept()[0].close()
