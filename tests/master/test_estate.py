"""What a master owns: with `accept = reuseport` a listening socket for each worker, which outlives it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.server import Server
from tests.system.clients import Load

APP = """
import os
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"%d" % os.getpid()]
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "whoami.py").write_text(APP)
    return tmp_path


def start(directory: Path, *options: str, workers: int = 3) -> Server:
    return Server("whoami:app", "--accept", "reuseport", "--chdir", str(directory), *options, workers=workers)


def sockets_there(address: tuple[str, int]) -> int:
    """Listening sockets at an address, as /proc/net/tcp has them."""
    where = f"{socket.inet_aton(address[0])[::-1].hex().upper()}:{address[1]:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[1] == where and line.split()[3] == "0A" for line in lines)


def test_each_worker_has_a_socket_and_the_kernel_spreads_connections(directory: Path) -> None:
    with start(directory) as server:
        assert sockets_there(server.address) == 3
        assert server.log.count(f"listening on {server.url},") == 1, "the address is told once"
        assert {int(server.get("/")) for _ in range(80)} == set(server.workers.values())


def test_what_waits_for_a_worker_that_does_not_take_it_is_served_by_another(directory: Path) -> None:
    with start(directory) as server:
        stopped = min(server.workers.values())
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert stopped not in {int(server.get("/")) for _ in range(20)}
        finally:
            os.kill(stopped, signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_a_reload_and_an_upgrade_lose_no_request(directory: Path, number: int) -> None:
    with start(directory, workers=2) as server:
        address, old = server.address, set(server.workers.values())
        with Load(address, "/") as load:
            server.send_signal(number)
            server.wait(lambda: len({int(body) for body in load.bodies[-50:]} - old) >= 2)
            if number == signal.SIGUSR2:
                assert server.process.wait(30) == 0
        assert load.failures == []
        assert sockets_there(address) == 2


def test_the_end_leaves_no_request_unanswered(directory: Path) -> None:
    with start(directory) as server:
        clients = [socket.create_connection(server.address, timeout=20) for _ in range(30)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        server.send_signal(signal.SIGTERM)
        for client in clients:
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
            client.close()
        assert server.wait_exit() == 0
