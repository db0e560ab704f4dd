"""Waiting for descriptors as uWSGI's asynchronous mode does: register some, suspend, ask which is ready.

Under gevent uWSGI refuses this; here it works, in a request, in a greenlet, and between the items of a generator.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import Any

import gevent
from gevent import monkey
from greenlet import getcurrent

from channels.core import native
from channels.web.uwsgi import request
from channels.web.uwsgi.request import Context
from channels.worker import subscription
from channels.worker.waiting import READ, WRITE, wait_ready

_poll = monkey.get_original("select", "poll")
_EVENTS = {READ: select.POLLIN, WRITE: select.POLLOUT}

Wait = tuple[int, int, float]  # descriptor, READ or WRITE, seconds; 0: for ever


class _Lone:
    """The waits of a greenlet outside of a request."""

    def __init__(self) -> None:
        self.waits: list[Wait] = []
        self.ready_fd = -1
        self.signal_received = -1


_lone: dict[Any, _Lone] = {}


def place(given: Any = None) -> Context | _Lone:
    """This request's place, or this greenlet's."""
    context = request.find(given)
    if context is not None:
        return context
    greenlet = getcurrent()
    found = _lone.get(greenlet)
    if found is None:
        found = _lone[greenlet] = _Lone()
        if isinstance(greenlet, gevent.Greenlet):
            greenlet.rawlink(lambda dead: _lone.pop(dead, None))
    return found


def wait_any(waits: Sequence[Wait], seconds: float | None, core: subscription.Core | None, last: int = -1) -> int:
    """Wait until one of them is ready: its descriptor, or -1 when the time is up.

    Of several that are ready the one after `last` is taken, so that none is starved.  With a core, the end of its
    request ends the wait: ClientGone, Draining.
    """
    if core is not None:
        core.check()
    ready = _ready(waits, last)
    if ready >= 0:
        gevent.sleep(0)  # others want to run too
        return ready
    if seconds is not None and seconds <= 0:
        return -1
    wait_ready([(fd, events) for fd, events, _ in waits], seconds, core)
    return _ready(waits, last)


def _ready(waits: Sequence[Wait], last: int) -> int:
    poll = _poll()
    wanted: dict[int, int] = {}
    for fd, events, _ in waits:
        wanted[fd] = wanted.get(fd, 0) | _EVENTS[events]
    for fd, events in wanted.items():
        poll.register(fd, events)
    ready = [fd for fd, events in poll.poll(0)]
    if not ready:
        return -1
    order = list(wanted)
    start = order.index(last) + 1 if last in wanted else 0
    return next(fd for fd in order[start:] + order[:start] if fd in ready)


def _register(fd: Any, timeout: Any, events: int, given: Any) -> bytes:
    number = fd if isinstance(fd, int) else fd.fileno()
    if number < 0:
        raise ValueError(f"{number} is no descriptor")
    if timeout is not None and timeout < 0:
        raise ValueError("a timeout is in seconds, 0: for ever")
    place(given).waits.append((number, events, float(timeout or 0)))
    return b""


def resume(here: Context | _Lone) -> None:
    """Carry out the waits that were registered."""
    waits, here.waits = here.waits, []
    core = here.core if isinstance(here, Context) else None
    if not waits:
        if core is not None:
            core.check()
        gevent.sleep(0)
        return
    timeouts = [seconds for _, _, seconds in waits if seconds]
    here.ready_fd = wait_any(waits, min(timeouts) if timeouts else None, core, here.ready_fd)


# ---- the calls ----


def wait_fd_read(fd: Any, timeout: float = 0, request_context: Any = None) -> bytes:
    """Register a descriptor: the next suspend(), or `yield` of a generator, waits until it is readable.

    Args:
        timeout: Seconds after which the wait ends all the same; 0: none.
    """
    return _register(fd, timeout, READ, request_context)


def wait_fd_write(fd: Any, timeout: float = 0, request_context: Any = None) -> bytes:
    """The same until it is writable."""
    return _register(fd, timeout, WRITE, request_context)


def suspend(request_context: Any = None) -> bool:
    """Let others run until one of the registered descriptors is ready or the shortest timeout is over.

    Raises ClientGone, Draining: the request is to end; let it pass.
    """
    resume(place(request_context))
    return True


def ready_fd(request_context: Any = None) -> int:
    """The descriptor that ended the last suspend(); -1: its timeout did."""
    return place(request_context).ready_fd


def async_sleep(timeout: float, request_context: Any = None) -> bytes:
    """Sleep for so many seconds, cooperatively."""
    if timeout < 0:
        raise ValueError("seconds cannot be negative")
    context = request.find(request_context)
    core = context.core if context is not None else None
    wait_any((), timeout, core) if timeout else gevent.sleep(0)
    return b""


def green_schedule() -> bool:
    """uWSGI's other name for suspend()."""
    return suspend()


def micros() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


def channel_recv() -> bytes | None:
    """The next message of this core, or None.  At the end of the request: ClientGone, Draining."""
    return subscription.channel_recv()


CALLS = {
    **{
        call.__name__: call
        for call in (async_sleep, channel_recv, green_schedule, micros, ready_fd, suspend, wait_fd_read, wait_fd_write)
    },
    "channel_join": subscription.channel_join,
    "channel_leave": subscription.channel_leave,
    "channel_fd": subscription.channel_fd,
    "channel_send": native.channel_send,
}
