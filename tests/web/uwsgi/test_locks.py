from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.web.uwsgi.conftest import Asked

HOLD = "hooks.append(gevent.spawn(lambda: [uwsgi.lock({0}), gevent.sleep(60)])), gevent.sleep(0.05), None"


def test_a_lock_keeps_all_others_out_of_all_workers(server: Asked) -> None:
    server.ask("uwsgi.sharedarea_write64(0, 512, 0)")
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(lambda _: server.get("/locked"), range(12))) == [b"done"] * 12
    assert server.ask("uwsgi.sharedarea_read64(0, 512)") == 12 * 20


def test_locks_are_apart(server: Asked) -> None:
    assert server.ask("uwsgi.lock(0), uwsgi.lock(1), uwsgi.is_locked(0), uwsgi.is_locked(2)") == (
        None,
        None,
        True,
        False,
    )


def test_a_request_that_ends_with_a_lock_frees_it(server: Asked) -> None:
    server.ask("uwsgi.lock(4)")
    server.wait(lambda: server.ask("uwsgi.is_locked(4)") is False)
    assert server.ask("uwsgi.lock(4), uwsgi.unlock(4), uwsgi.is_locked(4)") == (None, None, False)


def test_a_lock_taken_twice_by_one_greenlet_is_an_error_and_no_deadlock(server: Asked) -> None:
    assert server.ask("uwsgi.lock(5), uwsgi.lock(5)").startswith("RuntimeError")
    server.wait(lambda: server.ask("uwsgi.is_locked(5)") is False)


def test_a_greenlet_that_dies_frees_its_lock(server: Asked) -> None:
    server.ask_worker(1, HOLD.format(6))
    server.wait(lambda: server.ask_worker(2, "uwsgi.is_locked(6)"))
    server.ask_worker(1, "hooks.pop().kill()")
    server.wait(lambda: not server.ask_worker(2, "uwsgi.is_locked(6)"))


def test_a_worker_that_is_killed_frees_its_locks(server: Asked) -> None:
    pid = server.ask_worker(1, "__import__('os').getpid()")
    server.ask_worker(1, HOLD.format(7))
    server.wait(lambda: server.ask_worker(2, "uwsgi.is_locked(7)"))
    os.kill(pid, signal.SIGKILL)
    assert server.ask_worker(2, "gevent.with_timeout(20, uwsgi.lock, 7)") is None
    server.wait_ready(3, without={pid})


def test_the_worker_goes_on_while_somebody_waits_for_a_lock(server: Asked) -> None:
    server.ask_worker(2, HOLD.format(8))
    server.wait(lambda: server.ask_worker(3, "uwsgi.is_locked(8)"))
    server.ask_worker(3, HOLD.format(8))
    assert server.ask_worker(3, "1 + 1") == 2
    server.ask_worker(2, "hooks.pop().kill()")
    server.wait(lambda: server.ask_worker(2, "uwsgi.is_locked(8)"))
    server.ask_worker(3, "hooks.pop().kill()")


@pytest.mark.parametrize("call", ["lock", "unlock", "is_locked"])
def test_a_number_that_is_none_is_refused(server: Asked, call: str) -> None:
    assert server.ask(f"uwsgi.{call}(256)").startswith("ValueError")
    assert server.ask(f"uwsgi.{call}(-1)").startswith("ValueError")


def test_unlocking_what_nobody_holds_does_nothing(server: Asked) -> None:
    assert server.ask("uwsgi.unlock(9)") is None
