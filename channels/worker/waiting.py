"""Waiting for descriptors, as uWSGI's applications do it; ends with the core.

Runs in: worker.
"""

from __future__ import annotations

from typing import Any

import gevent
from greenlet import getcurrent

from channels.worker.subscription import known_core

READ, WRITE = 1, 2


def _wait_fd(fd: Any, events: int, timeout: float | None) -> bool:
    hub = gevent.get_hub()
    if getcurrent() is hub:
        raise RuntimeError("nothing may wait in a callback of the hub; use gevent.spawn")
    number = fd if isinstance(fd, int) else fd.fileno()
    core = known_core()
    if core is not None:
        core.check()
        if events == READ and core.own is not None and core.own.event_fileno == number:
            ready = core.own.wait(timeout)
            core.check()
            return ready or core.own.closed
    io = hub.loop.io(number, events)
    timer = None
    greenlet = getcurrent()
    fired = False

    def ready_now() -> None:
        nonlocal fired
        fired = True
        greenlet.switch()

    try:
        if timeout is not None:
            timer = hub.loop.timer(max(timeout, 0.0))
            timer.start(greenlet.switch, update=True)
        if core is not None:
            core._wakes.add(greenlet)
            core.begin_wait()
        io.start(ready_now)
        hub.switch()
    finally:
        io.stop()
        io.close()
        if timer is not None:
            timer.stop()
            timer.close()
        if core is not None:
            core._wakes.discard(greenlet)
            core.end_wait()
    if core is not None:
        core.check()
    return fired


def wait_fd_read(fd: Any, timeout: float | None = None) -> bool:
    """Wait cooperatively until a descriptor is readable: True; False after `timeout` seconds.

    Works for any descriptor; for that of channel_fd() without a system call.

    Raises:
        ClientGone: The client of the running request has gone meanwhile; let it pass.
        Draining: The worker drains; let it pass, or finish, and the stream ends cleanly.
    """
    return _wait_fd(fd, READ, timeout)


def wait_fd_write(fd: Any, timeout: float | None = None) -> bool:
    """The same until it is writable."""
    return _wait_fd(fd, WRITE, timeout)
