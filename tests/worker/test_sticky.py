"""Requests with a key, in a real server: always the same worker, whoever accepts."""

from __future__ import annotations

import http.client
import os
import signal
import socket

import pytest

from tests.server import Server
from tests.worker.http.running import read_answer

APP = "tests.system.app:app"


def pid_of(server: Server, who: str, connection: http.client.HTTPConnection | None = None) -> int:
    mine = connection or http.client.HTTPConnection(*server.address, timeout=30)
    mine.request("GET", f"/pid?who={who}")
    response = mine.getresponse()
    assert response.status == 200
    pid = int(response.read())
    if connection is None:
        mine.close()
    return pid


@pytest.fixture
def server():
    with Server(APP, "--sticky", "query:who", workers=3) as made:
        yield made


def test_a_key_has_one_worker_over_many_connections_and_on_one(server: Server) -> None:
    owners = {who: pid_of(server, who) for who in map(str, range(12))}
    assert len(set(owners.values())) == 3
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    for _ in range(3):
        for who, pid in owners.items():
            assert pid_of(server, who) == pid
            assert pid_of(server, who, connection) == pid, "from request to request on one connection"
    connection.close()


def test_requests_that_come_together_go_each_to_its_worker(server: Server) -> None:
    owners = [pid_of(server, str(who)) for who in range(8)]
    with socket.create_connection(server.address, timeout=30) as client:
        client.sendall(b"".join(b"GET /pid?who=%d HTTP/1.1\r\nHost: a\r\n\r\n" % who for who in range(8)))
        assert [int(read_answer(client).body) for _ in range(8)] == owners


def test_a_body_goes_with_its_request(server: Server) -> None:
    for who in range(6):
        connection = http.client.HTTPConnection(*server.address, timeout=30)
        connection.request("POST", f"/upload?who={who}", body=b"x" * 300_000)
        assert connection.getresponse().read() == b"300000"
        connection.close()


def test_requests_without_a_key_are_served_by_whoever_accepts(server: Server) -> None:
    assert int(server.get("/pid")) in server.workers.values()


def test_the_keys_of_a_worker_that_was_killed_come_back_to_its_successor(server: Server) -> None:
    owners = {who: pid_of(server, who) for who in map(str, range(12))}
    victim = owners["0"]
    os.kill(victim, signal.SIGKILL)
    for who, pid in owners.items():
        if pid != victim:
            assert pid_of(server, who) == pid, "nobody else's keys move"
    server.wait_ready(3, without={victim})
    successor = pid_of(server, "0")
    assert successor != victim
    assert all(pid_of(server, who) == successor for who, pid in owners.items() if pid == victim)


def test_tls_and_sticky_do_not_go_together(tmp_path) -> None:
    with Server(APP, "--sticky", "query:who", "--certfile", str(tmp_path / "cert"), wait=False) as server:
        assert server.wait_exit() == 3
        server.wait_log("sticky")
