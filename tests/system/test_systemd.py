"""Under systemd: sockets handed in, state told to a socket of the test's."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from channels.master import listeners
from tests.server import Server
from tests.system.clients import is_gone

APP = "tests.system.app:app"


class Systemd:
    """$NOTIFY_SOCKET, and what was told there."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + path[1:] if path.startswith("@") else path)
        self._socket.settimeout(0.05)
        self.told: list[dict[str, str]] = []

    def read(self) -> list[dict[str, str]]:
        while True:
            try:
                data = self._socket.recv(4096).decode()
            except TimeoutError:
                return self.told
            self.told.append(dict(line.split("=", 1) for line in data.splitlines()))

    def heard(self, name: str) -> list[str]:
        return [words[name] for words in self.read() if name in words]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(str(tmp_path / "notify") if request.param == "path" else f"@channels-test-{os.getpid()}")
    yield made
    made.close()


def test_ready_reloading_and_stopping_are_told(systemd: Systemd) -> None:
    with Server(APP, workers=1, environment={"NOTIFY_SOCKET": systemd.path}) as server:
        server.wait(lambda: systemd.heard("READY") == ["1"])
        assert systemd.heard("MAINPID") == [str(server.pid)]
        before = time.monotonic_ns() // 1000
        server.send_signal(signal.SIGHUP)
        server.wait(lambda: systemd.heard("READY") == ["1", "1"])
        assert systemd.heard("RELOADING") == ["1"]
        assert int(systemd.heard("MONOTONIC_USEC")[0]) >= before
        server.send_signal(signal.SIGTERM)
        server.wait(lambda: systemd.heard("STOPPING") == ["1"])
        assert server.wait_exit() == 0


def test_a_refused_reload_is_told_as_ready_again(tmp_path: Path) -> None:
    systemd = Systemd(str(tmp_path / "notify"))
    config = tmp_path / "channels.conf.py"
    config.write_text("timeout = 20\n")
    with Server(APP, workers=1, directory=tmp_path, environment={"NOTIFY_SOCKET": systemd.path}) as server:
        server.wait(lambda: systemd.heard("READY") == ["1"])
        config.write_text("timeout = 'long'\n")
        server.send_signal(signal.SIGHUP)
        server.wait_log("reload refused")
        server.wait(lambda: systemd.heard("READY") == ["1", "1"])
        assert systemd.heard("RELOADING") == ["1"]
    systemd.close()


def test_an_upgrade_tells_the_new_main_process(tmp_path: Path) -> None:
    systemd = Systemd(str(tmp_path / "notify"))
    with Server(APP, workers=1, environment={"NOTIFY_SOCKET": systemd.path}) as server:
        server.wait(lambda: systemd.heard("READY") == ["1"])
        server.send_signal(signal.SIGUSR2)
        new = int(server.wait(lambda: systemd.heard("MAINPID")[1:])[0])
        assert new != server.pid and server.process.wait(30) == 0
        assert systemd.heard("STOPPING") == []  # the service goes on
        os.kill(new, signal.SIGTERM)
        server.wait(lambda: is_gone(new))
        assert systemd.heard("STOPPING") == ["1"]
    systemd.close()


def test_the_watchdog_is_fed_and_the_application_is_not_told_of_it(tmp_path: Path) -> None:
    systemd = Systemd(str(tmp_path / "notify"))
    environment = {"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "400000"}
    with Server(APP, workers=1, environment=environment) as server:
        server.wait(lambda: len(systemd.heard("WATCHDOG")) >= 5)
        assert server.get("/env?name=NOTIFY_SOCKET") == b"-" and server.get("/env?name=WATCHDOG_USEC") == b"-"
    systemd.close()


def with_socket(listener: socket.socket) -> Server:
    """As systemd does: descriptor 3, and its own process id told to the process that is executed."""
    script = 'exec 3<&"$1"; shift; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
    os.set_inheritable(listener.fileno(), True)
    prefix = ["bash", "-c", script, "--", str(listener.fileno())]
    return Server(APP, workers=1, prefix=prefix, pass_fds=[listener.fileno()])


def ask(listener: socket.socket) -> bytes:
    """What is answered there."""
    with socket.socket(listener.family) as client:
        client.settimeout(10)
        client.connect(listener.getsockname())
        client.sendall(b"GET /env?name=LISTEN_FDS HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return client.makefile("rb").read()


@pytest.fixture(params=["tcp", "unix"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    unix = request.param == "unix"
    made = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    with made:
        made.bind(str(tmp_path / "socket") if unix else ("127.0.0.1", 0))
        made.listen()
        yield made


def test_a_socket_of_systemd_is_served_through_an_upgrade_and_by_the_next_server(listener: socket.socket) -> None:
    with with_socket(listener) as server:
        assert server.url.endswith(str(listener.getsockname()).strip("()").rpartition(" ")[2])
        assert ask(listener).endswith(b"\r\n\r\n-")
        old = server.pid
        server.send_signal(signal.SIGUSR2)
        server.wait(lambda: is_gone(old))
        assert ask(listener).endswith(b"\r\n\r\n-")
        new = int(server.wait_log(r"channels: pid=(\d+) listening", count=2)[1])
        os.kill(new, signal.SIGTERM)
        server.wait(lambda: is_gone(new))
    with with_socket(listener):
        assert ask(listener).endswith(b"\r\n\r\n-")


def test_a_socket_that_another_server_left_deaf_is_heard_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listeners.refuse_new([listener])
        with with_socket(listener):
            assert ask(listener).endswith(b"\r\n\r\n-")
