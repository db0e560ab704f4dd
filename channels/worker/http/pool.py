"""Greenlets that run one request after the other.

A request costs two switches, not the making of a greenlet; each runs in a context of its own (contextvars).
Nothing tells one request of a greenlet from the next: a gevent.Timeout that is still armed when its request is over,
or a kill() by somebody who has kept the greenlet, hits whatever runs there by then.
Runs in: worker.
"""

from __future__ import annotations

import contextvars
from typing import Any, Protocol

import gevent
from greenlet import GreenletExit, getcurrent

IDLE_MAX = 256


class Job(Protocol):
    """What a runner runs."""

    runner: Any

    def run(self) -> None:
        """Must not raise, but for GreenletExit."""


class Runner(gevent.Greenlet):  # type: ignore[type-arg]
    """Runs its job, then waits in the pool for the next one."""

    __slots__ = ("_pool", "job", "spoilt")
    spawning_stack_limit = 1  # the hub spawns it, for nobody in particular

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self._pool = pool
        self.job: Job | None = None
        self.spoilt = False  # somebody may still switch here: it must not serve another request

    def _run(self) -> None:
        pool = self._pool
        switch = pool.hub.switch
        while True:
            job = self.job
            if job is not None:
                self.gr_context = contextvars.Context()  # Context.run would cost stack that is kept while it waits
                try:
                    job.run()
                except GreenletExit:
                    return
                finally:
                    self.job = self.gr_context = None
                if self.spoilt or len(pool.idle) >= IDLE_MAX:
                    return
                pool.idle.append(self)
            try:
                switch()
            except BaseException:  # it dies, and what is switched to then is lost in silence
                if self in pool.idle:
                    pool.idle.remove(self)
                raise


class Pool:
    """The runners of a worker."""

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self.idle: list[Runner] = []

    def run(self, job: Job) -> None:
        """Begin it now, until it waits for the first time.  In the hub."""
        assert getcurrent() is self.hub
        runner = self.idle.pop() if self.idle else Runner(self)
        runner.job = job
        job.runner = runner
        runner.switch()

    def close(self) -> None:
        """Those that have nothing to do end."""
        idle, self.idle = self.idle, []
        for runner in idle:
            runner.kill(block=False)
