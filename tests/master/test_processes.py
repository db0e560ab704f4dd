"""processes.py: real children, known by their pidfd."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from channels.master import processes, upgrade
from tests.cluster import wait_until


def fork(main: object) -> processes.Process:
    return processes.fork(main, lambda: None)  # type: ignore[arg-type]


def wait_message(process: processes.Process) -> bytes:
    assert select.select([process.link], [], [], 30)[0]
    return process.receive() or b""


@pytest.mark.parametrize("status", [0, 3, 255])
def test_a_child_ends_with_what_its_function_returns(status: int) -> None:
    process = fork(lambda link: status)
    assert process.wait_dead(30)
    assert process.peek() == status and process.peek() == status  # still a zombie
    process.reap()
    assert process.pidfd == -1


def test_a_function_that_raises_is_status_1_with_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    process = fork(lambda link: 1 // 0)
    assert process.wait_dead(30) and process.peek() == 1
    process.reap()
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_sys_exit_in_a_child_is_its_status_and_runs_nothing_of_the_parents() -> None:
    process = fork(lambda link: sys.exit(9))
    assert process.wait_dead(30) and process.peek() == 9
    process.reap()


def test_a_signal_is_told_as_a_negative_status() -> None:
    process = fork(lambda link: select.select([], [], []) and 0)
    assert process.peek() is None and not process.wait_dead(0)
    process.kill(signal.SIGKILL)
    assert process.wait_dead(30) and process.peek() == -signal.SIGKILL
    process.reap()


def test_killing_a_zombie_or_a_stranger_is_nothing() -> None:
    process = fork(lambda link: 0)
    assert process.wait_dead(30)
    process.kill(signal.SIGKILL)
    assert process.peek() == 0
    process.reap()


def test_messages_go_both_ways_and_the_end_is_an_empty_one() -> None:
    def echo(link: socket.socket) -> int:
        link.send(link.recv(100).upper())
        return 0

    process = fork(echo)
    assert process.receive() is None
    assert process.send(b"hello")
    assert wait_message(process) == b"HELLO"
    assert wait_message(process) == b"" and process.hung_up
    assert process.wait_dead(30)
    assert not process.send(b"anybody?")
    process.reap()


def test_a_child_that_does_not_read_never_makes_the_parent_wait() -> None:
    process = fork(lambda link: select.select([], [], []) and 0)
    while process.send(b"x" * 1000):
        pass
    process.kill(signal.SIGKILL)
    assert process.wait_dead(30)
    process.reap()


def test_descriptors_travel_and_are_closed_on_exec() -> None:
    def read_through(link: socket.socket) -> int:
        select.select([link], [], [])
        message, (fd,) = processes.receive_fds(link)
        assert message == b"take" and not os.get_inheritable(fd)
        link.send(os.read(fd, 100))
        return 0

    process = fork(read_through)
    read, write = os.pipe()
    assert process.send_fds(b"take", [read])
    os.close(read)
    os.write(write, b"through the pipe")
    assert wait_message(process) == b"through the pipe"
    os.close(write)
    process.wait_dead(30)
    process.reap()


def test_the_child_closes_what_is_the_parents_alone() -> None:
    read, write = os.pipe()
    process = processes.fork(lambda link: int(Path(f"/proc/self/fd/{write}").exists()), lambda: os.close(write))
    assert process.wait_dead(30) and process.peek() == 0
    process.reap()
    os.close(read)
    os.close(write)


def test_somebody_elses_child_is_never_waited_for() -> None:
    theirs = subprocess.Popen([sys.executable, "-c", "raise SystemExit(5)"])
    ours = fork(lambda link: 0)
    assert ours.wait_dead(30)
    ours.reap()
    assert theirs.wait(30) == 5


def test_forking_many_leaves_no_descriptor_and_no_zombie() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(50):
        process = fork(lambda link: 0)
        assert process.wait_dead(30)
        process.reap()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert not Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Whatever is opened now has a number that select(2) does not take."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 1200:
        pytest.skip("no more than 1024 descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 1200), limits[1]))
    null = os.open(os.devnull, os.O_RDONLY)
    held = [null]
    while held[-1] < 1024:
        held.append(os.dup(null))
    yield
    for fd in held:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_death_is_seen_through_a_descriptor_of_any_number(many_descriptors: None) -> None:
    process = fork(lambda link: 0)
    assert process.pidfd > 1023 and process.wait_dead(30)
    process.reap()


def test_the_other_master_dies_behind_a_descriptor_of_any_number(many_descriptors: None) -> None:
    process = fork(lambda link: signal.pause() or 0)
    peer = upgrade.Peer(process, is_child=True)
    assert process.pidfd > 1023 and not peer.is_dead()
    peer.end(master=True)
    assert peer.is_dead() and peer.status() == -signal.SIGKILL
    peer.close()


def test_a_wait_for_a_death_ends_when_its_time_is_up() -> None:
    process = fork(lambda link: signal.pause() or 0)
    began = time.monotonic()
    assert not process.wait_dead(0.2) and time.monotonic() - began >= 0.2
    process.kill(signal.SIGKILL)
    assert process.wait_dead(30)
    process.reap()


def test_no_descriptors_left_is_an_error_and_leaves_no_child() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) - 1
    for spare in range(4):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, limits[1]))
        try:
            process = fork(lambda link: 0)
        except OSError:
            continue
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        process.wait_dead(30)
        process.reap()
    wait_until(lambda: not Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
    assert len(os.listdir("/proc/self/fd")) - 1 == used


def test_a_process_is_alive_until_it_is_reaped_and_a_number_of_nobodys_is_not() -> None:
    assert processes.is_alive(os.getpid()) and processes.is_alive(1)
    assert not processes.is_alive(2**22 + 1) and not processes.is_alive(2**40)
