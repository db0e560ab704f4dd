"""systemd.py: what is taken from the environment, what is told."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from channels.master.systemd import Notifier, inherited_listeners
from tests.children import in_child


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(tmp_path / "notify"))
    made.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return made


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.state("ready")
    notifier.watchdog(0.0)
    assert notifier.environment == {}


def test_the_variables_are_taken_away_and_given_to_a_successor(
    told: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = os.environ["NOTIFY_SOCKET"]
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier()
    assert "NOTIFY_SOCKET" not in os.environ and "WATCHDOG_PID" not in os.environ
    assert notifier.environment == {"NOTIFY_SOCKET": where, "WATCHDOG_USEC": "2000000"}


def test_the_watchdog_is_due_at_half_its_time_and_not_for_another_process(
    told: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    notifier = Notifier()
    assert notifier.watchdog_period == 1.0
    notifier.watchdog(100.0)
    notifier.watchdog(100.5)
    assert notifier.next_watchdog(100.5) == 101.0
    notifier.watchdog(101.0)
    assert [told.recv(100), told.recv(100)] == [b"WATCHDOG=1"] * 2
    with pytest.raises(BlockingIOError):
        told.recv(100)
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert Notifier().watchdog_period is None


def test_a_socket_that_is_gone_harms_nobody(told: socket.socket, tmp_path: Path) -> None:
    notifier = Notifier()
    told.close()
    (tmp_path / "notify").unlink()
    notifier.state("ready")


def test_sockets_are_taken_from_descriptor_3_on_when_they_are_for_this_process() -> None:
    def take() -> tuple[list[object], list[str]]:
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            addresses = [one.getsockname(), two.getsockname()]
            spare = [os.dup(one.fileno()), os.dup(two.fileno())]
        for number, fd in enumerate(spare):
            os.dup2(fd, 200 + number)
        os.closerange(3, 5)
        os.dup2(200, 3)
        os.dup2(201, 4)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="a:b")
        found = inherited_listeners()
        assert [listener.getsockname() for listener in found] == addresses
        assert not any(os.get_inheritable(listener.fileno()) for listener in found)
        left = [name for name in os.environ if name.startswith("LISTEN_")]
        for listener in found:
            listener.detach()
        return [listener.gettimeout() for listener in found], left

    assert in_child(take) == ([0.0, 0.0], [])


@pytest.mark.parametrize(("pid", "count"), [("1", "1"), ("", "1"), ("self", "x"), ("self", "")])
def test_sockets_of_another_process_are_left_alone(monkeypatch: pytest.MonkeyPatch, pid: str, count: str) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()) if pid == "self" else pid)
    monkeypatch.setenv("LISTEN_FDS", count)
    assert inherited_listeners() == [] and "LISTEN_FDS" not in os.environ
