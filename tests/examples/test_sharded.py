"""The sharded counters: exact, whoever asks, and whatever happens to the workers."""

from __future__ import annotations

import http.client
import signal
import threading
from pathlib import Path

from tests.server import Server

CLIENTS = 16
USERS = [f"user-{number}" for number in range(7)]


class Client(threading.Thread):
    """Counts for one user after the other over one connection, for as long as it is told."""

    def __init__(self, server: Server, first: int, rounds: int) -> None:
        super().__init__()
        self.server = server
        self.first = first
        self.rounds = rounds
        self.seen: list[tuple[str, int, int]] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            connection = http.client.HTTPConnection(*self.server.address, timeout=30)
            for number in range(self.rounds):
                user = USERS[(self.first + number) % len(USERS)]
                connection.request("GET", f"/count/{user}")
                response = connection.getresponse()
                text = response.read().decode()
                assert response.status == 200, text
                value, pid = map(int, text.split())
                self.seen.append((user, value, pid))
        except BaseException as error:
            self.error = error


def counted(server: Server, rounds: int, during: object = None) -> list[tuple[str, int, int]]:
    clients = [Client(server, number, rounds) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    if callable(during):
        during()
    for client in clients:
        client.join()
    assert [client.error for client in clients if client.error is not None] == []
    return [entry for client in clients for entry in client.seen]


def check_exact(seen: list[tuple[str, int, int]]) -> None:
    for user in USERS:
        values = sorted(value for name, value, _ in seen if name == user)
        assert values == list(range(1, len(values) + 1)), user


def start(store: Path, workers: int = 4) -> Server:
    return Server(
        "examples.sharded:app", "--sticky", "path:2", workers=workers, environment={"SHARDED_STORE": str(store)}
    )


def test_sixteen_clients_count_exactly_and_each_user_has_one_worker(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        seen = counted(server, 40)
        check_exact(seen)
        workers = {user: {pid for name, _, pid in seen if name == user} for user in USERS}
        assert all(len(pids) == 1 for pids in workers.values())
        assert len(set().union(*workers.values())) > 1, "the users are spread"
        assert b"user-3" in server.get("/")


def test_they_count_exactly_through_reloads(tmp_path: Path) -> None:
    with start(tmp_path) as server:

        def reload() -> None:
            for _ in range(2):
                old = set(server.workers.values())
                server.send_signal(signal.SIGHUP)
                server.wait_ready(4, without=old)

        check_exact(counted(server, 100, reload))
