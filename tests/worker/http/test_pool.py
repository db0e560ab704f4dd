"""Greenlets that run one job after the other."""

from __future__ import annotations

import contextvars
import weakref
from typing import Any, Callable

import gevent
import pytest
from greenlet import GreenletExit, getcurrent

from channels.worker.http.pool import IDLE_MAX, Pool

variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


class Job:
    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.runner: Any = None

    def run(self) -> None:
        self.function()


def in_hub(function: Callable[[Pool], Any]) -> Any:
    """Run it in a callback of the hub."""
    result = gevent.event.AsyncResult()
    pool = Pool(gevent.get_hub())

    def call() -> None:
        try:
            result.set(function(pool))
        except BaseException as error:
            result.set_exception(error)

    gevent.get_hub().loop.run_callback(call)
    try:
        return result.get(timeout=20)
    finally:
        pool.close()


def test_jobs_one_after_the_other_share_a_greenlet() -> None:
    seen: list[Any] = []

    def jobs(pool: Pool) -> int:
        for _ in range(5):
            pool.run(Job(lambda: seen.append(getcurrent())))
        return len(pool.idle)

    assert in_hub(jobs) == 1
    assert len(set(seen)) == 1 and len(seen) == 5


def test_each_job_has_a_context_of_its_own() -> None:
    seen: list[int] = []

    def job() -> None:
        seen.append(variable.get())
        variable.set(5)

    in_hub(lambda pool: [pool.run(Job(job)) for _ in range(3)])
    assert seen == [0, 0, 0]


def test_what_a_job_has_left_in_its_context_is_let_go_with_it() -> None:
    class Kept:
        pass

    left: contextvars.ContextVar[Kept] = contextvars.ContextVar("left")
    kept: list[weakref.ref[Kept]] = []

    def job() -> None:
        value = Kept()
        kept.append(weakref.ref(value))
        left.set(value)

    assert in_hub(lambda pool: pool.run(Job(job)) or len(pool.idle)) == 1
    assert kept[0]() is None


def test_jobs_that_wait_run_beside_each_other_and_idle_greenlets_are_bounded() -> None:
    event = gevent.event.Event()
    done: list[int] = []

    def wait(number: int) -> None:
        event.wait()
        done.append(number)

    pool = Pool(gevent.get_hub())
    for number in range(IDLE_MAX + 50):
        gevent.get_hub().loop.run_callback(pool.run, Job(lambda number=number: wait(number)))  # type: ignore[misc]
    gevent.sleep(0.01)
    assert done == []
    event.set()
    while len(done) < IDLE_MAX + 50:
        gevent.sleep(0.01)
    gevent.sleep(0)
    assert len(pool.idle) <= IDLE_MAX
    pool.close()


def test_a_greenlet_that_was_killed_serves_nobody_else() -> None:
    def die() -> None:
        raise GreenletExit

    def jobs(pool: Pool) -> int:
        pool.run(Job(die))
        return len(pool.idle)

    assert in_hub(jobs) == 0


def test_a_spoilt_greenlet_serves_nobody_else() -> None:
    def jobs(pool: Pool) -> int:
        job = Job(lambda: setattr(job.runner, "spoilt", True))
        pool.run(job)
        return len(pool.idle)

    assert in_hub(jobs) == 0


def test_a_stray_switch_to_an_idle_greenlet_does_nothing() -> None:
    def jobs(pool: Pool) -> int:
        pool.run(Job(lambda: None))
        pool.idle[0].switch()
        pool.run(Job(lambda: None))
        return len(pool.idle)

    assert in_hub(jobs) == 1


@pytest.mark.parametrize("error", [gevent.Timeout, GreenletExit])
def test_an_idle_greenlet_that_is_killed_serves_nobody_else(error: type[BaseException]) -> None:
    seen: list[Any] = []

    def jobs(pool: Pool) -> int:
        pool.run(Job(lambda: seen.append(getcurrent())))
        pool.idle[0].throw(error())
        pool.run(Job(lambda: seen.append(getcurrent())))
        return len(pool.idle)

    assert in_hub(jobs) == 1
    assert len(set(seen)) == 2
