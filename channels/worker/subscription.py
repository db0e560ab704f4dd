"""Cores and subscriptions: who, inside a worker, receives what; and the waiting.

A core is a request, or, outside of one, a greenlet.  Everything it joined ends with it.  Runs in: worker.
"""

from __future__ import annotations

import contextvars
import os
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Callable

import gevent
from greenlet import getcurrent

from channels.core import native
from channels.errors import ClientGone, Draining, StreamEnded, SubscriptionClosed
from channels.worker import client as fabric
from channels.worker import naming
from channels.worker.room import Timer

POLICIES = {"drop_oldest": native.DROP_OLDEST, "drop_newest": native.DROP_NEWEST, "close": native.CLOSE}

Message = native.Message


class Subscription(native.Queue):
    """Messages of the channels and prefixes it has joined, in a bounded queue of its own.

    Belongs to the core that made it and is closed with it.  One greenlet at a time may wait on it.
    """

    waiter: Any  # a greenlet, or whatever else has a switch() for the dispatcher to call

    def __new__(cls, client: fabric.Client, maxlen: int, max_bytes: int, overflow: int) -> Subscription:
        return super().__new__(cls, client.endpoint, maxlen, max_bytes, overflow)

    def __init__(self, client: fabric.Client, maxlen: int, max_bytes: int, overflow: int) -> None:
        self._client = client
        self._core: Core | None = None
        self._nudged = False
        self.reason: type[StreamEnded] | None = None  # why it was ended, if the server did it

    # ---- joining ----

    def join(self, *channels: str | bytes, prefixes: Iterable[str | bytes] | None = None) -> None:
        """Join channels, and every channel with one of these prefixes, those that come later included.

        Done when it returns.  Waits cooperatively for the router.  Names and `prefixes` as for subscribe(): where a
        name comes from outside, give `prefixes`, if only `()`.

        Raises:
            ChannelTableFull: No row is left; what was joined before stays joined.
            RouterUnavailable: No answer within `settings.join_timeout`.
            BadChannelName, SubscriptionClosed.
        """
        for text, is_prefix in naming.sort_out(channels, prefixes):
            if self.closed:
                raise SubscriptionClosed()
            if is_prefix:
                self._client.membership.join_prefix(self, text)
            else:
                self._client.membership.join(self, text)

    def leave(self, *channels: str | bytes, prefixes: Iterable[str | bytes] | None = None) -> None:
        """Leave what join() joined with these arguments, and forget what waits of it.  Does not wait."""
        for text, is_prefix in naming.sort_out(channels, prefixes):
            if is_prefix:
                self._client.membership.leave_prefix(self, text)
            else:
                self._client.membership.leave(self, text)

    @property
    def channels(self) -> list[str]:
        """What was joined: names, and prefixes with a `*` behind; sorted."""
        return sorted({*self.names, *(f"{prefix}*" for prefix in self.prefixes)})

    @property
    def names(self) -> list[str]:
        """The channels that were joined by their names; sorted."""
        return sorted(channel.name for channel, (exact, _) in self.memberships.items() if exact)

    @property
    def prefixes(self) -> list[str]:
        """The prefixes that were joined; sorted."""
        return sorted(local.name for local in self._client.membership.prefixes.values() if self in local.queues)

    # ---- taking ----

    def get(self, timeout: float | None = None) -> Message | None:
        """The next message; None when `timeout` seconds are over.  Waits cooperatively.

        Raises:
            SubscriptionClosed: It was closed and nothing waits any more.
        """
        message = self.take()
        if message is not None:
            return message
        if not self.wait(timeout):
            if self.closed and not self.pending:
                raise SubscriptionClosed()
            return None
        return self.take()

    def get_nowait(self) -> Message | None:
        """The next message, or None."""
        return self.take()

    def drain(self) -> list[Message]:
        """Every message that waits."""
        return self.take_all()

    def wait(self, timeout: float | None) -> bool:
        """Until a message waits: True; closed, or out of time: False."""
        if self.pending:
            return True
        client = self._client
        greenlet = getcurrent()
        if greenlet is client.hub:
            raise RuntimeError("nothing may wait in a callback of the hub; use gevent.spawn")
        client.room.check_here("waiting on a subscription")
        if self.waiter is not None:
            raise RuntimeError("another greenlet waits on this subscription; give each one of its own")
        if timeout is not None and timeout <= 0:
            return False
        core = self._core
        timer = Timer(client.room, timeout)
        self.waiter = greenlet
        self._nudged = False
        try:
            if core is not None:
                core.begin_wait()
            while not self.pending and not self.closed and not self._nudged and not timer.over:
                client.hub.switch()
        finally:
            self.waiter = None
            timer.close()
            if core is not None:
                core.end_wait()
        return self.pending > 0

    def nudge(self) -> None:
        """Whoever waits here looks up, as if its time were over.  Does not wait."""
        if self.waiter is not None:
            self._nudged = True
            self._client.hub.loop.run_callback(self._look_up)

    def _look_up(self) -> None:
        if self.waiter is not None and self._nudged:
            self._client.room.switch(self.waiter)

    # ---- the end ----

    def close(self) -> None:
        """Leave everything; what waits is forgotten, whoever waits is woken.  May be repeated."""
        self.end(None)
        for name in self.names:
            self._client.membership.leave(self, name)
        for prefix in self.prefixes:
            self._client.membership.leave_prefix(self, prefix)
        self.take_all()
        fd = self.release_fd()
        if fd >= 0:
            os.close(fd)
        if self._core is not None:
            self._core.subscriptions.discard(self)
            self._core = None

    def end(self, reason: type[StreamEnded] | None) -> None:
        """Take nothing new; who iterates gets what waits and then stops."""
        self.reason = self.reason or reason
        self.shut()
        self._client._schedule()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else ", ".join(self.channels) or "nothing joined"
        return f"<Subscription {state}; {self.pending} pending, {self.dropped} dropped>"


class Core:
    """A request, or a greenlet outside of one: owner of subscriptions, one of which is that of channel_join."""

    def __init__(self, client: fabric.Client, watcher: Any = None) -> None:
        self.client = client
        self.subscriptions: set[Subscription] = set()
        self.own: Subscription | None = None
        self.ended: type[StreamEnded] | None = None
        self.on_end: Callable[[type[StreamEnded]], None] | None = None  # for who does not wait; must not wait either
        self.on_close: list[Callable[[], None]] = []  # none of which may wait
        self._watcher = watcher  # .start(core), .stop(): sees that the client has gone while somebody waits
        self._waiting = 0
        self._wakes: set[Any] = set()

    def subscription(self, maxlen: int | None, max_bytes: int | None, overflow: str) -> Subscription:
        """A new one that is closed with this core."""
        if overflow not in POLICIES:
            raise ValueError(f"overflow must be one of {', '.join(POLICIES)}, not {overflow!r}")
        settings = self.client.settings
        made = Subscription(
            self.client,
            settings.queue_length if maxlen is None else maxlen,
            settings.queue_bytes if max_bytes is None else max_bytes,
            POLICIES[overflow],
        )
        made._core = self
        self.subscriptions.add(made)
        if self.ended is not None:
            made.end(self.ended)
        return made

    def main(self) -> Subscription:
        """The subscription of channel_join, channel_fd and channel_recv."""
        if self.own is None:
            self.own = self.subscription(None, None, "drop_oldest")
        return self.own

    def begin_wait(self) -> None:
        self._waiting += 1
        if self._waiting == 1 and self._watcher is not None:
            self._watcher.start(self)

    def end_wait(self) -> None:
        self._waiting -= 1
        if self._waiting == 0 and self._watcher is not None:
            self._watcher.stop()

    def unwatch(self) -> None:
        """Who asks reads from the connection itself and will notice a client that has gone."""
        if self._waiting and self._watcher is not None:
            self._watcher.stop()
        self._watcher = None

    def end(self, reason: type[StreamEnded]) -> None:
        """The client has gone, or the worker drains: whoever waits here is woken and told."""
        if self.ended is None:
            self.ended = reason
        for subscription in list(self.subscriptions):
            subscription.end(reason)
        if self.on_end is not None:
            self.on_end(self.ended)
        if self._wakes:
            self.client.hub.loop.run_callback(self._wake)

    def _wake(self) -> None:
        for greenlet in list(self._wakes):
            if greenlet in self._wakes:  # it still waits where it said
                self.client.room.switch(greenlet)

    def check(self) -> None:
        """Raises ClientGone or Draining when this core is to end."""
        if self.ended is not None:
            raise self.ended()

    def close(self) -> None:
        """The request, or the greenlet, is over.  May be repeated; never waits."""
        self._watcher = None
        for subscription in list(self.subscriptions):
            subscription.close()
        self.own = None
        while self.on_close:
            self.on_close.pop()()


class Seat:
    """A request that may get a core: it is made when the request first needs one."""

    __slots__ = ("core", "request", "watcher")

    def __init__(self, watcher: Any) -> None:
        self.watcher = watcher
        self.core: Core | None = None
        self.request: Any = None  # what a layer above keeps with it

    def take(self) -> Core:
        """Its core."""
        if self.core is None:
            self.core = Core(fabric.current("a request"), self.watcher)
            _open_cores.add(self.core)
        return self.core

    def close(self) -> None:
        """The request is over, however it ended."""
        if self.core is not None:
            self.core.close()


_request: contextvars.ContextVar[Seat | None] = contextvars.ContextVar("channels_request", default=None)
_greenlet_cores: weakref.WeakKeyDictionary[Any, Core] = weakref.WeakKeyDictionary()
_open_cores: weakref.WeakSet[Core] = weakref.WeakSet()


def seat_request(watcher: Any) -> Seat:
    """The server: a request begins in this context, which is given up with it."""
    seat = Seat(watcher)
    _request.set(seat)
    return seat


def bind_request(watcher: Any = None) -> tuple[Core, contextvars.Token[Seat | None]]:
    """A request begins in this greenlet, in a context that goes on."""
    seat = Seat(watcher)
    return seat.take(), _request.set(seat)


def unbind_request(core: Core, token: contextvars.Token[Seat | None]) -> None:
    """It is over, however it ended."""
    try:
        _request.reset(token)
    except ValueError:  # closed from another context, as when a response is closed by another greenlet
        pass
    core.close()


def known_core() -> Core | None:
    """This request's core, or this greenlet's if it has one."""
    seat = _request.get()
    if seat is not None:
        return seat.take()
    return _greenlet_cores.get(getcurrent()) if fabric.is_attached() else None


def request_seat() -> Seat | None:
    """This request's; None outside of a request."""
    return _request.get()


def current_core() -> Core:
    """This request's core, or this greenlet's."""
    seat = _request.get()
    if seat is not None:
        return seat.take()
    greenlet = getcurrent()
    core = _greenlet_cores.get(greenlet)
    if core is None:
        core = _greenlet_cores[greenlet] = Core(fabric.current("a channel"))
        _open_cores.add(core)
        if isinstance(greenlet, gevent.Greenlet):
            greenlet.rawlink(_close_greenlet_core)
        else:
            weakref.finalize(greenlet, core.close).atexit = False
    return core


def _close_greenlet_core(greenlet: Any) -> None:
    core = _greenlet_cores.pop(greenlet, None)
    if core is not None:
        core.close()


def open_cores() -> Iterator[Core]:
    """Every core that has not ended."""
    return iter(list(_open_cores))


def drain_cores(reason: type[Draining] = Draining) -> None:
    """The worker drains: every stream is to end.  Restarting: another worker takes its place."""
    for core in open_cores():
        core.end(reason)


def close_cores() -> None:
    """This process stops being a worker: for tests."""
    for core in open_cores():
        core.close()
    _greenlet_cores.clear()


# ---- the classical face, as uWSGI drew it ----


def channel_join(channel: str | bytes) -> None:
    """Join a channel: whatever anyone on this host sends after it returned is received by this core.

    A core is the running request, or the running greenlet outside of a request.  Waits cooperatively for the router.
    Runs in: worker.

    Args:
        channel: 1 to 255 bytes of UTF-8 without control characters; a trailing `*` is a name's own here.

    Raises:
        ChannelTableFull, RouterUnavailable, BadChannelName, TypeError, NotAttached, ForkedProcess.
    """
    fabric.current("channel_join")
    core = current_core()
    core.check()
    core.client.membership.join(core.main(), native.check_name(channel))


def channel_leave(channel: str | bytes) -> None:
    """Leave it: nothing of it is received afterwards, what waits in the queue included.  Does not wait."""
    fabric.current("channel_leave")
    core = current_core()
    core.client.membership.leave(core.main(), native.check_name(channel))


def channel_fd() -> int:
    """A real descriptor of this core, readable while messages wait, or for ever once the core is to end."""
    fabric.current("channel_fd")
    return current_core().main().fileno()


def channel_recv() -> bytes | None:
    """The next message's body, or None when none waits.  Never waits.

    Raises:
        ClientGone, Draining: None waits and none will; let it pass, the server ends the response cleanly.
    """
    fabric.current("channel_recv")
    core = current_core()
    body = core.main().take_data()
    if body is None:
        core.check()
    return body


def subscribe(
    *channels: str | bytes,
    prefixes: Iterable[str | bytes] | None = None,
    maxlen: int | None = None,
    max_bytes: int | None = None,
    overflow: str = "drop_oldest",
) -> Subscription:
    """A subscription of this core to these channels and prefixes, joined when it returns.

    Caution: `subscribe(f"room:{room}")` with `room` from a request joins every room when someone asks for the room
    `*`.  Say `subscribe(f"room:{room}", prefixes=())` there: then each name is taken as it is.

    Args:
        channels: Names; a trailing `*` stands for every channel with that prefix, unless `prefixes` is given.
        prefixes: Prefixes without `*`; "" is that of every channel.  Given, even as `()`, names are literal.
        maxlen: Messages it holds; default `settings.queue_length`.
        max_bytes: Bytes of bodies it holds; default `settings.queue_bytes`.
        overflow: "drop_oldest", "drop_newest" or "close".

    Raises:
        ChannelTableFull, RouterUnavailable, BadChannelName, ValueError, NotAttached, ForkedProcess.
    """
    fabric.current("subscribe")
    core = current_core()
    core.check()
    made = core.subscription(maxlen, max_bytes, overflow)
    try:
        made.join(*channels, prefixes=prefixes)
    except BaseException:
        made.close()
        raise
    return made


__all__ = [
    "ClientGone",
    "Core",
    "Message",
    "Seat",
    "Subscription",
    "bind_request",
    "channel_fd",
    "channel_join",
    "channel_leave",
    "channel_recv",
    "current_core",
    "drain_cores",
    "known_core",
    "open_cores",
    "seat_request",
    "subscribe",
    "unbind_request",
]
