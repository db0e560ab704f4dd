"""Waiting for descriptors, as uWSGI's applications do it; ends with the core.

Runs in: worker.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gevent
from greenlet import getcurrent

from channels.worker.subscription import Core, known_core

READ, WRITE = 1, 2


def wait_ready(waits: Iterable[tuple[int, int]], seconds: float | None, core: Core | None) -> bool:
    """Let others run until one of these descriptors is ready for its READ or WRITE; False when the time is up.

    With a core, the end of its request ends the wait: ClientGone, Draining.
    """
    hub = gevent.get_hub()
    greenlet = getcurrent()
    if greenlet is hub:
        raise RuntimeError("nothing may wait in a callback of the hub; use gevent.spawn")
    fired = begun = False

    def ready() -> None:
        nonlocal fired
        fired = True
        greenlet.switch()

    watchers: list[Any] = []
    try:
        for fd, events in waits:
            watchers.append(hub.loop.io(fd, events))
            watchers[-1].start(ready)
        if seconds is not None:
            watchers.append(hub.loop.timer(max(seconds, 0.0)))
            watchers[-1].start(greenlet.switch, update=True)
        if core is not None:
            core._wakes.add(greenlet)
            begun = True
            core.begin_wait()
        hub.switch()
    finally:
        for watcher in watchers:
            watcher.stop()
            watcher.close()
        if core is not None and begun:
            core._wakes.discard(greenlet)
            core.end_wait()
    if core is not None:
        core.check()
    return fired


def _wait_fd(fd: Any, events: int, timeout: float | None) -> bool:
    number = fd if isinstance(fd, int) else fd.fileno()
    if number < 0:
        raise ValueError(f"there is no descriptor {number}")
    core = known_core()
    if core is not None:
        core.check()
        if events == READ and core.own is not None and core.own.event_fileno == number:
            ready = core.own.wait(timeout)
            core.check()
            return ready or core.own.closed
    return wait_ready([(number, events)], timeout, core)


def wait_fd_read(fd: Any, timeout: float | None = None) -> bool:
    """Wait cooperatively until a descriptor is readable: True; False after `timeout` seconds.

    Works for any descriptor; for that of channel_fd() without a system call.

    Raises:
        ValueError: It is negative, as that of what was closed.
        ClientGone: The client of the running request has gone meanwhile; let it pass.
        Draining: The worker drains; let it pass, or finish, and the stream ends cleanly.
    """
    return _wait_fd(fd, READ, timeout)


def wait_fd_write(fd: Any, timeout: float | None = None) -> bool:
    """The same until it is writable."""
    return _wait_fd(fd, WRITE, timeout)
