"""One timer for everybody who waits."""

from __future__ import annotations

import gevent

from channels.worker.http.deadlines import Deadline, Deadlines


def test_those_whose_time_is_up_expire_in_the_order_they_came() -> None:
    expired: list[str] = []
    deadline = Deadline(10.0, expired.append)
    deadline.entries.update(a=0.0, b=1.0, c=5.0)
    deadline.sweep(9.9)
    assert expired == []
    deadline.sweep(11.0)
    assert expired == ["a", "b"] and list(deadline.entries) == ["c"]


def test_who_enters_anew_waits_anew() -> None:
    expired: list[str] = []
    deadline = Deadline(10.0, expired.append)
    deadline.entries.update(a=0.0, b=1.0)
    del deadline.entries["a"]
    deadline.entries["a"] = 5.0
    deadline.sweep(11.5)
    assert expired == ["b"]


def test_one_that_expires_may_take_others_out() -> None:
    deadline = Deadline(1.0, lambda who: deadline.entries.clear())
    deadline.entries.update(a=0.0, b=0.0)
    deadline.sweep(5.0)
    assert not deadline.entries


def test_the_timer_runs_only_while_somebody_waits() -> None:
    def check() -> None:
        done = gevent.event.Event()
        deadlines = Deadlines(gevent.get_hub().loop)
        never = deadlines.add(0, lambda who: None)
        soon = deadlines.add(0.01, lambda who: done.set())
        never.entries["x"] = 0.0
        soon.entries["y"] = gevent.get_hub().loop.now()
        deadlines.start()
        assert done.wait(20)
        gevent.sleep(0)
        assert list(never.entries) == ["x"], "0 is never"
        while deadlines._running:
            gevent.sleep(0.05)
        deadlines.close()

    gevent.spawn(check).get(timeout=20)
