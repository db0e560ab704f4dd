"""The router accepts, and gives each connection to the worker that has the fewest."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest

from channels.master.dispatch import Ledger
from channels.master.dispatch import Load as Has
from tests.server import Server
from tests.system.clients import Load

LIMIT = 10


def order(ledger: Ledger, *loads: tuple[int, int, int]) -> list[int]:
    """Slots in their order, from (slot, open, taken)."""
    return [load.slot for load in ledger.order([Has(slot, 1, count, taken) for slot, count, taken in loads])]


def give(ledger: Ledger, slot: int, *loads: tuple[int, int, int]) -> None:
    made = {number: Has(number, 1, count, taken) for number, count, taken in loads}
    ledger.order(made.values())
    ledger.gave(made[slot])


def test_the_least_loaded_comes_first_and_the_full_do_not_come() -> None:
    assert order(Ledger(LIMIT), (1, 5, 5), (2, 3, 9), (3, LIMIT, 20)) == [2, 1]


def test_what_was_given_counts_until_it_is_taken() -> None:
    ledger = Ledger(LIMIT)
    give(ledger, 1, (1, 0, 7), (2, 0, 7))
    assert order(ledger, (1, 0, 7), (2, 0, 7)) == [2, 1]
    assert order(ledger, (1, 1, 8), (2, 2, 9)) == [1, 2]  # taken: counted once


def test_a_worker_to_which_as_much_was_given_as_it_holds_gets_no_more() -> None:
    ledger = Ledger(2)
    for _ in range(2):
        give(ledger, 1, (1, 0, 0))
    assert order(ledger, (1, 0, 0)) == []
    assert order(ledger, (1, 1, 2)) == [1]


def test_a_successor_begins_at_nothing() -> None:
    ledger = Ledger(LIMIT)
    give(ledger, 1, (1, 0, 0), (2, 0, 0))
    assert [load.slot for load in ledger.order([Has(1, 3, 0, 0), Has(2, 1, 0, 0)])] == [1, 2]


APP = """
import os
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"%d %s" % (os.getpid(), environ["SERVER_PORT"].encode())]
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "whoami.py").write_text(APP)
    return tmp_path


def held(server: Server) -> tuple[socket.socket, bytes]:
    """A connection that is kept, and what it was told."""
    client = socket.create_connection(server.address, timeout=20)
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    data = b""
    while b"\r\n0\r\n\r\n" not in data and not data.partition(b"\r\n\r\n")[2]:
        data += client.recv(4096)
    return client, data.partition(b"\r\n\r\n")[2].split()[0]


def test_connections_spread_evenly_over_the_workers(directory: Path) -> None:
    with Server("whoami:app", "--accept", "dispatch", "--chdir", str(directory), workers=3) as server:
        kept = [held(server) for _ in range(30)]
        counts = [sum(who == b"%d" % pid for _, who in kept) for pid in server.workers.values()]
        assert counts == [10, 10, 10]
        for client, _ in kept:
            client.close()


def test_a_worker_s_death_and_the_router_s_cost_no_connection_that_comes_then(directory: Path) -> None:
    with Server("whoami:app", "--accept", "dispatch", "--chdir", str(directory), workers=2) as server:
        before = set(server.workers.values())
        os.kill(min(before), signal.SIGKILL)
        for _ in range(20):
            assert int(server.get("/").split()[0]) != min(before)
        server.wait_ready(without={min(before)})
        [router] = {int(pid) for pid in _children(server.pid)} - set(server.workers.values())
        os.kill(router, signal.SIGKILL)
        for _ in range(20):
            assert int(server.get("/").split()[0]) in server.workers.values()


def test_connections_that_a_dead_worker_did_not_take_wait_for_its_only_successor(directory: Path) -> None:
    options = "--accept", "dispatch", "--chdir", str(directory), "--worker-connections", "10"
    with Server("whoami:app", *options, workers=1) as server, contextlib.ExitStack() as stack:
        [before] = server.workers.values()
        os.kill(before, signal.SIGSTOP)
        clients = [stack.enter_context(socket.create_connection(server.address, timeout=20)) for _ in range(5)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        server.wait(lambda: not _queued(server.address[1]))
        os.kill(before, signal.SIGKILL)
        for client in clients:
            assert client.recv(4096).startswith(b"HTTP/1.1 200"), server.log
        assert before not in server.workers.values()


def _queued(port: int) -> int:
    """Connections that nobody has accepted yet, proc_net_tcp: a listener's rx_queue."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    [found] = [row[4] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"]
    return int(found.partition(":")[2], 16)


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_each_connection_knows_where_it_came_in(directory: Path) -> None:
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in (one, other)]
    first, second = (f"127.0.0.1:{port}" for port in ports)
    options = "--accept", "dispatch", "--chdir", str(directory), "--bind", second
    with Server("whoami:app", *options, bind=first, workers=1) as server:
        for port in ports:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                data = b"".join(iter(lambda: client.recv(4096), b""))
            assert data.endswith(b" %d" % port), server.log


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_a_reload_and_an_upgrade_lose_no_request(directory: Path, number: int) -> None:
    with Server("whoami:app", "--accept", "dispatch", "--chdir", str(directory), workers=2) as server:
        address, old = server.address, set(server.workers.values())
        with Load(address, "/") as load:
            server.send_signal(number)
            server.wait(lambda: len({int(body.split()[0]) for body in load.bodies[-50:]} - old) >= 2)
            if number == signal.SIGUSR2:
                assert server.process.wait(30) == 0
        assert load.failures == []


def test_the_end_leaves_no_request_unanswered(directory: Path) -> None:
    with Server("whoami:app", "--accept", "dispatch", "--chdir", str(directory), workers=2) as server:
        clients = [socket.create_connection(server.address, timeout=20) for _ in range(20)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        server.send_signal(signal.SIGTERM)
        for client in clients:
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
            client.close()
        assert server.wait_exit() == 0


def test_connections_over_a_unix_socket_are_given_too(directory: Path) -> None:
    path = directory / "here.sock"
    options = "--accept", "dispatch", "--chdir", str(directory)
    with Server("whoami:app", *options, bind=f"unix:{path}", workers=2) as server:
        seen = set()
        kept = []
        for _ in range(4):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(20)
            client.connect(str(path))
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            seen.add(int(client.recv(4096).partition(b"\r\n\r\n")[2].split()[0]))
            kept.append(client)
        assert seen == set(server.workers.values())
        for client in kept:
            client.close()
