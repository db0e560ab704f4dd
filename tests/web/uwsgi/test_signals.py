from __future__ import annotations

import pytest

from channels.web.uwsgi import signals
from channels.web.uwsgi.state import Peer
from tests.web.uwsgi.conftest import Asked


def peer(number: int, *registered: int, slot: int = 0) -> Peer:
    return Peer(slot or number, 1, 100 + number, number, {"signals": {str(entry): "" for entry in registered}})


def fired(server: Asked, number: int) -> list[int]:
    return [seen.count(number) for seen in server.ask_all("fired")]


@pytest.mark.parametrize(("number", "target"), [(7, "workers"), (11, "active-workers")])
def test_a_signal_for_all_workers_is_handled_once_by_each(server: Asked, number: int, target: str) -> None:
    before = fired(server, number)
    assert server.ask(f"uwsgi.signal({number})") is None
    server.wait(lambda: fired(server, number) == [count + 1 for count in before])


@pytest.mark.parametrize("number", [8, 9])
def test_a_signal_for_any_worker_is_handled_once(server: Asked, number: int) -> None:
    before = sum(fired(server, number))
    for _ in range(6):
        server.ask(f"uwsgi.signal({number})")
    server.wait(lambda: sum(fired(server, number)) == before + 6)


def test_a_signal_for_one_worker_is_handled_there(server: Asked) -> None:
    before = fired(server, 10)
    server.ask("uwsgi.signal(10)")
    server.wait(lambda: fired(server, 10) == [before[0], before[1] + 1, before[2]])


def test_a_signal_that_only_one_worker_knows_goes_there(server: Asked) -> None:
    server.ask_worker(2, "uwsgi.register_signal(50, '', fired.append)")
    for number in (1, 2, 3):
        server.ask_worker(number, "uwsgi.signal(50)")
    server.wait(lambda: fired(server, 50) == [0, 3, 0])
    assert server.ask_worker(2, "uwsgi.signal_registered(50)") is True
    assert server.ask_worker(1, "uwsgi.signal_registered(50)") is None


def test_a_handler_that_raises_harms_nothing(server: Asked) -> None:
    server.ask("uwsgi.signal(13)")
    server.wait_log("signal 13 fails on purpose", count=3)
    assert server.ask("1 + 1") == 2


def test_a_signal_for_a_worker_that_is_none_is_told(server: Asked) -> None:
    server.ask("uwsgi.signal(12)")
    server.wait_log("nobody can handle signal 12")


def test_who_waits_for_a_signal_is_woken_by_it(server: Asked) -> None:
    server.ask_worker(3, "hooks.append(gevent.spawn(lambda: [uwsgi.signal_wait(7), uwsgi.signal_received()]))")
    server.ask_worker(3, "gevent.sleep(0)")
    server.ask("uwsgi.signal(8)")
    server.ask("uwsgi.signal(7)")
    assert server.ask_worker(3, "hooks.pop().get(timeout=10)") == [b"", 7]


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("uwsgi.register_signal(256, '', print)", "ValueError"),
        ("uwsgi.register_signal(1, 'nobody', print)", "ValueError"),
        ("uwsgi.register_signal(1, 'mule1', print)", "ValueError"),
        ("uwsgi.register_signal(1, '', 7)", "TypeError"),
        ("uwsgi.signal(-1)", "ValueError"),
        ("uwsgi.signal('1')", "TypeError"),
        ("uwsgi.signal(1, 'elsewhere:3031')", "OSError"),
    ],
)
def test_bad_values_are_refused(server: Asked, expression: str, error: str) -> None:
    assert server.ask(expression).startswith(error)


def test_those_who_did_not_register_a_signal_are_never_its_target() -> None:
    peers = [peer(1), peer(2, 5), peer(3, 5)]
    assert [found.number for found, _ in signals.targets(5, "workers", peers)] == [2, 3]
    assert [found.number for found, _ in signals.targets(5, "worker1", peers)] == []
    assert [found.number for found, _ in signals.targets(5, "worker3", peers)] == [3]
    assert signals.targets(6, "", peers) == []
