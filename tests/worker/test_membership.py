"""Asking the router: from the right thread, and again when it has died."""

from __future__ import annotations

import signal

import pytest
from gevent.threadpool import ThreadPool

import channels
from channels.worker import client as fabric
from tests.cluster import wait_until
from tests.worker import kept

MIB = 1 << 20


def test_joining_from_a_thread_is_refused_in_words(plain):
    with pytest.raises(RuntimeError, match="thread"):
        plain.workers[1].run(join_in_pool)


def join_in_pool():
    return ThreadPool(1).apply(channels.channel_join, ("room",))


def test_a_join_that_a_dead_router_had_not_answered_is_answered_by_the_next(plain):
    plain.router.signal(signal.SIGSTOP)
    plain.workers[1].start(kept.open_subscription, "s", "room")
    wait_until(lambda: plain.workers[1].run(questions) == 1)
    plain.kill_router()
    assert plain.workers[1].result() is None
    plain.workers[2].run(kept.send, "room", b"x")
    assert plain.workers[1].run(kept.bodies, "s", 1) == [b"x"]


def questions():
    return len(fabric.current().membership._pending)
