"""The benchmark's servers and clients: what is counted is what is there."""

from __future__ import annotations

import pytest

pytest.importorskip("flask")

from benchmarks.rigs import Clients, Rig, ask


def test_clients_are_counted_by_the_process_that_serves_them() -> None:
    rig = Rig("channels", "mixed", 2)
    clients = Clients(rig.address)
    try:
        assert ask(rig.address, "/") in rig.pids
        found = clients.open("/stream", 6, 3)
        assert set(found) <= rig.pids and sum(found.values()) == 6
        assert sum(clients.counts(rig.pids)) == 6
        one = next(iter(found))
        clients.close(one)
        assert sum(clients.counts(rig.pids)) == 6 - found[one]
        assert all(bytes_ > 1 << 20 for bytes_ in rig.memory())
    finally:
        clients.close()
        rig.close()


def test_a_server_that_cannot_start_is_an_error_with_what_it_said() -> None:
    with pytest.raises(RuntimeError, match="no_such_name"):
        Rig("channels", "no_such_name")
