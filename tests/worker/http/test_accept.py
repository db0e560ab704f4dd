"""When to accept and when to let go, and what comes of it with several servers on one listening socket."""

from __future__ import annotations

import contextlib
import socket

import pytest

from channels.worker.http.accept import FULL_PAUSE, PATIENCE, STEP, STEP_MAX, AcceptPolicy
from channels.worker.http.bind import listening
from tests.worker.http.running import Running, hello, read_answer, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def test_the_least_loaded_accepts_at_once() -> None:
    assert AcceptPolicy(lambda: [5, 3]).delay(3, 100) == 0
    assert AcceptPolicy(lambda: [5, 3]).delay(0, 100) == 0
    assert AcceptPolicy().delay(50, 100) == 0, "alone"


def test_who_has_more_lets_go_for_longer_the_more_it_has() -> None:
    assert AcceptPolicy(lambda: [2]).delay(3, 100) == STEP
    assert AcceptPolicy(lambda: [2]).delay(5, 100) == 3 * STEP
    assert AcceptPolicy(lambda: [2]).delay(80, 1000) == STEP_MAX


def test_patience_ends_and_begins_anew() -> None:
    policy = AcceptPolicy(lambda: [0])
    for _ in range(3):
        assert [policy.delay(5, 100) > 0 for _ in range(PATIENCE + 1)] == [True] * PATIENCE + [False]


def test_above_seven_eighths_it_stops_unless_all_are_there() -> None:
    assert AcceptPolicy(lambda: [10]).delay(88, 100) == FULL_PAUSE
    assert AcceptPolicy(lambda: [88, 95]).delay(88, 100) == 0
    assert AcceptPolicy(lambda: []).delay(88, 100) == 0


def test_full_is_full() -> None:
    assert AcceptPolicy(lambda: [200]).delay(100, 100) == FULL_PAUSE


@pytest.mark.parametrize("burst", [1, 20])
def test_streams_are_spread_evenly_over_servers_that_share_a_socket(burst: int) -> None:
    shared = listening(("127.0.0.1", 0))
    counts = [0, 0, 0]
    with contextlib.ExitStack() as stack:
        servers = []
        for index in range(3):
            policy = AcceptPolicy(lambda mine=index: [count for other, count in enumerate(counts) if other != mine])
            copy = socket.socket(fileno=socket.dup(shared.fileno()))
            server = stack.enter_context(Running(hello, copy, accept_policy=policy))

            def changed(change: int, mine: int = index) -> None:
                counts[mine] += change

            server.server.on_connections = changed
            servers.append(server)
        clients = []
        for _ in range(60 // burst):
            batch = [servers[0].connect() for _ in range(burst)]
            for client in batch:
                client.sendall(GET)
            for client in batch:
                assert read_answer(client).status == 200
            clients += batch
        assert sum(counts) == 60
        assert max(counts) - min(counts) <= 3, counts
        for client in clients:
            client.close()
        wait_until(lambda: sum(counts) == 0)
    shared.close()
