"""A fabric in this very process, for the tests of applications: no server, no other process.

    with channels.testing.local():
        response = app.test_client().get("/events", buffered=False)
        channels.channel_send("news", b"hello")

Router and worker are greenlets of the calling thread; what they do is what a server's do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import gevent

from channels import settings as settings_module
from channels.core import native
from channels.master.routing import Routing
from channels.worker import client, subscription

log = logging.getLogger("channels")

SLOTS = 4


@contextlib.contextmanager
def local(**settings: Any) -> Iterator[client.Client]:
    """Make this process a worker for as long as the block lasts.  Give settings as keywords.

    Raises:
        RuntimeError: It is one already.
    """
    if client.is_attached():
        raise RuntimeError("this process is a worker already")
    given = settings_module.make([{"channels_max": 4096, "ring_size": 64 * 1024, **settings}])
    segment = native.Segment.create(
        SLOTS,
        given.ring_size,
        given.ring_size,
        given.direct_ring_size,
        given.channels_max,
        os.urandom(16),
        time.time_ns() // 1000,
    )
    eventfds = [native.make_eventfd() for _ in range(SLOTS)]
    seen_by_worker = native.Segment.attach(segment.fd)
    segment.set_slot(1, 1, os.getpid())
    segment.enter("router")
    routing = Routing(segment, eventfds, given, lambda *facts: log.error("quarantined: %s", facts))
    routing.router.heartbeat()
    greenlet = gevent.spawn(routing.run)
    mine = client.attach(seen_by_worker, eventfds, 1, 1, given)
    mine.endpoint.set_ready(True)
    try:
        yield mine
    finally:
        subscription.close_cores()
        client.detach()
        greenlet.kill()
        routing.close()
        for fd in eventfds:
            os.close(fd)
        fd = segment.fd
        seen_by_worker.close()
        segment.close()
        os.close(fd)


def pause(seconds: float = 0.001) -> None:
    """Let router, worker and other greenlets run."""
    gevent.sleep(seconds)
