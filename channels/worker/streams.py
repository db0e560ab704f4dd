"""Streams that need no greenlet: clients whose channels go straight from the ring to their sockets.

The web face hands its streams over, the HTTP server hands over the sockets; core writes.  Runs in: worker, in the hub's
thread.
"""

from __future__ import annotations

import logging
import random
import weakref
from collections.abc import Iterable
from typing import Any, Callable, Protocol

import gevent

from channels.core import native
from channels.settings import Settings
from channels.worker import client as fabric
from channels.worker.client import Client
from channels.worker.subscription import Subscription

log = logging.getLogger("channels")

DRAIN_STEP = 0.05  # seconds between two lots of streams that are ended

SSE_HEARTBEAT = b":\n\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """RFC 9112, section 7.1."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Owner(Protocol):
    """Who is told about a stream, in the hub: it must not wait."""

    def stream_event(self, stream: native.Stream, what: str) -> None:
        """`what`: "gone" (the client), "done" (after end()), "forgotten", "gap" (it misses messages), or "room"
        (nothing waits any more, and `want_room` was set)."""

    def stream_drain(self, stream: native.Stream) -> None:
        """The worker drains: end it, cleanly."""


class StreamStart(bytes):
    """The first chunk of a response that the server may go on with natively instead of asking for a second one.

    Any middleware may pass it on; one that changes or copies it makes it plain bytes, and the response goes on as an
    ordinary iterable.
    """

    subscription: Subscription  # what the stream has joined, and what came since

    @classmethod
    def make(cls, data: bytes, subscription: Subscription) -> StreamStart:
        self = cls(data)
        self.subscription = subscription
        return self


class EventStream:
    """A response of server-sent events that was taken over."""

    __slots__ = ("_cut", "_ended", "_retry", "_spread")

    def __init__(self, settings: Settings, ended: Callable[[str], None]) -> None:
        self._retry = settings.stream_retry
        self._spread = settings.drain_spread
        self._cut = settings.stream_overflow == "close"
        self._ended = ended

    def stream_event(self, stream: native.Stream, what: str) -> None:
        if what not in ("gap", "room"):
            self._ended(what)
        elif what == "gap" and self._cut:
            self._end(stream, b"")

    def stream_drain(self, stream: native.Stream) -> None:
        self._end(stream, b"retry: %d\n\n" % round(1000 * (self._retry + random.uniform(0, self._spread))))

    def _end(self, stream: native.Stream, last: bytes) -> None:
        if stream.kind == native.SSE_CHUNKED:
            last = (chunk(last) if last else b"") + LAST_CHUNK
        stream.end(last)


Joined = tuple[frozenset[str], frozenset[str]]  # names, prefixes
Key = tuple[int, frozenset[str], frozenset[str]]


class Streams:
    """All of this worker's streams, by the channels they are in."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._native = native.Streams(client.endpoint)
        self._groups: dict[Key, native.StreamGroup] = {}
        self._joining: dict[Key, int] = {}
        client.on_event["stream"] = self._on_event
        loop = client.hub.loop
        self._watcher = loop.io(self._native.fileno(), 1, ref=False)
        self._watcher.start(self._on_ready)
        period = client.settings.stream_heartbeat
        self._timer = loop.timer(period, period, ref=False) if period else None
        if self._timer is not None:
            self._timer.start(self._heartbeat)
        self.draining = False

    def __len__(self) -> int:
        return len(self._native)

    def open(self, fd: int, kind: int, owner: Owner) -> native.Stream:
        """A stream on a connected non-blocking socket, in no channel yet.

        The socket stays open until the owner is told "gone", "done" or "forgotten".  Raises OSError.
        """
        return self._native.open(fd, kind, self._client.settings.stream_buffer, owner)

    def take_over(self, start: StreamStart, fd: int, chunked: bool, ended: Callable[[str], None]) -> native.Stream:
        """Go on with a response whose head and first chunk are written.

        Args:
            ended: Called in the hub with "gone" or "done", once; the socket is the caller's again.
        """
        owner = EventStream(self._client.settings, ended)
        subscription = start.subscription
        stream = self.open(fd, native.SSE_CHUNKED if chunked else native.SSE, owner)
        try:
            self._move(stream, (frozenset(subscription.names), frozenset(subscription.prefixes)), subscription)
        except BaseException:
            stream.owner = None  # who calls goes on with the response as it was
            self._native.forget(stream)
            raise
        if self.draining:
            owner.stream_drain(stream)
        return stream

    def quit(self, stream: native.Stream, tell_gap: bool = True) -> None:
        """Out of every channel, with what was gathered for it written first.  Does not wait.

        Args:
            tell_gap: What it missed is told behind that; otherwise never.
        """
        self._native.ungroup(stream, tell_gap)

    def forget(self, stream: native.Stream) -> None:
        """Its socket is the caller's again; what waited is dropped."""
        self._native.forget(stream)

    def join(self, stream: native.Stream, *names: str, prefixes: Iterable[str] = ()) -> None:
        """Into channels, and every channel with such a prefix; done when it returns.  Waits for the router.

        Names are literal.  Raises: as channel_join.
        """
        exact = frozenset(native.check_name(name) for name in names)
        beginnings = frozenset(prefixes)
        while not stream.ended and not stream.ending:
            before = self._joined(stream)
            if self._move(stream, (before[0] | exact, before[1] | beginnings), None, before):
                return

    def leave(self, stream: native.Stream, *names: str, prefixes: Iterable[str] = ()) -> None:
        """Out of them; nothing of them is written afterwards."""
        exact, beginnings = frozenset(names), frozenset(prefixes)
        while not stream.ended and not stream.ending:
            before = self._joined(stream)
            if self._move(stream, (before[0] - exact, before[1] - beginnings), None, before):
                return

    def names(self, stream: native.Stream) -> list[str]:
        """What it has joined, prefixes with a `*` behind; sorted."""
        exact, prefixes = self._joined(stream)
        return sorted([*exact, *(f"{prefix}*" for prefix in prefixes)])

    def _joined(self, stream: native.Stream) -> Joined:
        return (frozenset(), frozenset()) if stream.group is None else stream.group.key[1:]

    def _move(
        self, stream: native.Stream, joined: Joined, subscription: Subscription | None, before: Joined | None = None
    ) -> bool:
        """Put it into the group of exactly these; False: it was moved by someone else meanwhile."""
        exact, prefixes = joined
        key = (stream.kind, exact, prefixes)
        if not exact and not prefixes:
            self._native.ungroup(stream)
            return True
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = native.StreamGroup(self._native, stream.kind)
            group.key = key
            group.only = next(iter(exact)) if len(exact) == 1 and not prefixes else None
        self._joining[key] = self._joining.get(key, 0) + 1
        try:
            for name in exact:
                self._client.membership.join(group, name)
            for prefix in prefixes:
                self._client.membership.join_prefix(group, prefix)
            if before is not None and before != self._joined(stream):
                return False
            if subscription is not None:
                group.flush()
                for message in subscription.take_all():
                    stream.send_message(message)
            group.add(stream)
            return True
        finally:
            self._joining[key] -= 1
            if not self._joining[key]:
                del self._joining[key]
            self._tidy(group)

    def _tidy(self, group: native.StreamGroup) -> None:
        """A group that nobody is in leaves its channels."""
        if len(group) or group.key in self._joining or self._groups.get(group.key) is not group:
            return
        del self._groups[group.key]
        for name in group.key[1]:
            self._client.membership.leave(group, name)
        for prefix in group.key[2]:
            self._client.membership.leave_prefix(group, prefix)

    # ---- in the hub ----

    def _on_ready(self) -> None:
        try:
            self._native.ready()
        except MemoryError:
            pass  # it stays readable; gevent stops a watcher of descriptors whose callback raises

    def _on_event(self, who: Any, what: str) -> None:
        if what == "empty":
            self._tidy(who)
        elif who.owner is not None:
            owner = who.owner
            if what not in ("gap", "room"):
                who.owner = None
            try:
                owner.stream_event(who, what)
            except MemoryError:
                who.owner = owner  # it is told again
                raise

    def _heartbeat(self) -> None:
        for group in list(self._groups.values()):
            if group.kind in (native.SSE, native.SSE_CHUNKED):
                group.heartbeat(SSE_HEARTBEAT)

    # ---- the end ----

    def drain(self, seconds: float) -> None:
        """End every stream, spread over so long, in no order.  Returns when each has been told."""
        self.draining = True
        left = self._native.all
        random.shuffle(left)
        steps = max(int(seconds / DRAIN_STEP), 1)
        lot = -(-len(left) // steps)
        while left:
            for stream in left[:lot]:
                if stream.owner is not None:
                    stream.owner.stream_drain(stream)
            left = left[lot:]
            if left:
                gevent.sleep(DRAIN_STEP)

    def close(self) -> None:
        """For the end of a worker, and for tests."""
        self._watcher.stop()
        self._watcher.close()
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()


_made: weakref.WeakKeyDictionary[Client, Streams] = weakref.WeakKeyDictionary()


def current() -> Streams:
    """This worker's, made on first use.  Raises NotAttached, ForkedProcess."""
    client = fabric.current("a stream")
    found = _made.get(client)
    if found is None:
        found = _made[client] = Streams(client)
    return found
