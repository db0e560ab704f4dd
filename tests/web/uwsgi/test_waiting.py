from __future__ import annotations

import os

import gevent
import pytest

from channels.errors import Draining
from channels.web.uwsgi import waiting
from channels.worker import subscription
from channels.worker.client import Client
from tests.web.uwsgi.conftest import Asked


@pytest.fixture
def pipes() -> list[tuple[int, int]]:
    return [os.pipe(), os.pipe()]


def test_the_descriptor_that_is_ready_ends_the_wait(fabric: Client, pipes: list[tuple[int, int]]) -> None:
    (first, _), (second, write) = pipes
    gevent.spawn_later(0.01, os.write, write, b"x")
    assert waiting.wait_fd_read(first) == waiting.wait_fd_read(second, 10) == b""
    assert waiting.suspend() is True
    assert waiting.ready_fd() == second


def test_the_shortest_timeout_ends_it_too(fabric: Client, pipes: list[tuple[int, int]]) -> None:
    waiting.wait_fd_read(pipes[0][0], 60)
    waiting.wait_fd_read(pipes[1][0], 0.01)
    waiting.suspend()
    assert waiting.ready_fd() == -1


def test_a_wait_is_for_one_suspend_only(fabric: Client, pipes: list[tuple[int, int]]) -> None:
    waiting.wait_fd_write(pipes[0][1])
    waiting.suspend()
    assert waiting.ready_fd() == pipes[0][1]
    waiting.suspend()  # nothing to wait for: others run, and it goes on


def test_of_two_that_are_always_ready_none_is_starved(fabric: Client, pipes: list[tuple[int, int]]) -> None:
    for _, write in pipes:
        os.write(write, b"x")
    seen = []
    for _ in range(6):
        for read, _ in pipes:
            waiting.wait_fd_read(read)
        waiting.suspend()
        seen.append(waiting.ready_fd())
    assert seen == [pipes[0][0], pipes[1][0]] * 3


def test_a_channel_and_a_pipe_are_waited_for_at_once(fabric: Client, pipes: list[tuple[int, int]]) -> None:
    def listen() -> list[object]:
        calls = waiting.CALLS
        calls["channel_join"]("room")
        fd = calls["channel_fd"]()
        found: list[object] = []
        while len(found) < 2:
            waiting.wait_fd_read(pipes[0][0])
            waiting.wait_fd_read(fd)
            waiting.suspend()
            if waiting.ready_fd() == fd:
                found.append(calls["channel_recv"]())
            else:
                found.append(os.read(pipes[0][0], 10))
        return found

    listener = gevent.spawn(listen)
    gevent.sleep(0.05)
    waiting.CALLS["channel_send"]("room", b"hello")
    gevent.sleep(0.05)
    os.write(pipes[0][1], b"pipe")
    assert listener.get(timeout=10) == [b"hello", b"pipe"]


def test_the_end_of_a_request_ends_its_waits(fabric: Client, pipes: list[tuple[int, int]]) -> None:
    core, token = subscription.bind_request()
    try:
        gevent.spawn_later(0.01, core.end, Draining)
        with pytest.raises(Draining):
            waiting.wait_any([(pipes[0][0], waiting.READ, 0.0)], None, core)
    finally:
        subscription.unbind_request(core, token)


def test_bad_values_are_refused(fabric: Client) -> None:
    for call in (waiting.wait_fd_read, waiting.wait_fd_write):
        with pytest.raises(ValueError, match="descriptor"):
            call(-1)
        with pytest.raises(ValueError, match="timeout"):
            call(0, -1)
    with pytest.raises(ValueError, match="negative"):
        waiting.async_sleep(-1)


def test_a_generator_waits_between_its_items(server: Asked) -> None:
    assert server.get("/steps") == b"woken then -1"


def test_others_run_meanwhile(server: Asked) -> None:
    assert server.ask("uwsgi.async_sleep(0.01), uwsgi.suspend(), uwsgi.green_schedule()") == (b"", True, True)
