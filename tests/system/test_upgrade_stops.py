"""SIGTERM to one of the two masters of an upgrade: the other serves on, on the same sockets.  Or SIGKILL."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import Server
from tests.system.clients import Load, children, get, in_flight, is_gone

APP = "tests.system.app:app"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "version").write_text("one")
    with Server(APP, "--pid", str(tmp_path / "pid"), workers=1, directory=tmp_path) as made:
        yield made


def start_upgrade(server: Server, directory: Path, version: str) -> int:
    """The new master's pid; with "slow" it is not ready for a while."""
    (directory / "version").write_text(version)
    server.send_signal(signal.SIGUSR2)
    server.wait_log("the new master routes")
    return int(re.findall(r"channels: pid=(\d+) listening", server.log)[-1])


def end(server: Server, pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    server.wait(lambda: is_gone(pid))


def test_the_old_master_may_be_stopped_before_the_new_one_is_ready(server: Server, tmp_path: Path) -> None:
    with Load(server.address, "/version") as load:
        new = start_upgrade(server, tmp_path, "slow")
        server.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        server.wait(lambda: b"slow" in load.bodies)
    assert load.failures == [] and get(server.address, "/version")[1] == b"slow"
    end(server, new)


def test_the_new_master_may_be_stopped_before_it_is_ready(server: Server, tmp_path: Path) -> None:
    with Load(server.address, "/version") as load:
        end(server, start_upgrade(server, tmp_path, "slow"))
        server.wait_log("upgrade failed")
    assert load.failures == [] and get(server.address, "/version")[1] == b"one"


def test_an_old_master_finishes_though_the_new_one_is_killed_meanwhile(server: Server, tmp_path: Path) -> None:
    slow = in_flight(server, "/slow?s=2")
    new = start_upgrade(server, tmp_path, "two")
    server.wait_log("the new master serves")
    server.send_signal(signal.SIGTERM)  # it finishes already
    os.kill(new, signal.SIGKILL)
    assert slow.result()[0] == 200
    assert server.process.wait(30) == 0


def test_a_new_master_whose_old_one_is_killed_before_they_have_met_leaves_its_segment_alone(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "version").write_text("two")
    slow = in_flight(server, "/slow?s=2")
    before = children(server.pid)
    server.send_signal(signal.SIGUSR2)
    (new,) = server.wait(lambda: children(server.pid) - before)
    server.process.kill()
    server.wait(lambda: "the old master died before it told" in server.log)
    # The router and the worker that the dead one leaves finish, and nobody is in their way.
    assert slow.result()[0] == 200
    server.wait(lambda: is_gone(new))
    assert len(re.findall(r"worker=\d+ gen=\d+ pid=\d+ ready", server.log)) == 1
