"""`accept = dispatch`: the router takes connections and hands each to the worker that has the fewest.

Runs in: router, in the hub.  Never waits for a worker: while none can take one, connections stay with the kernel.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Callable, NamedTuple

import gevent

from channels import passing
from channels.assignment import Inbox
from channels.core import native

log = logging.getLogger("channels")

ACCEPTS_AT_ONCE = 32  # before messages are routed again
NOBODY_PAUSE = 0.01  # seconds between looks for a worker that can take one
DESCRIPTORS_PAUSE = 0.25  # seconds without accepting after EMFILE and its like
_OPEN = native.worker_counter_index["connections"]
_TOTAL = native.worker_counter_index["connections_total"]


class Load(NamedTuple):
    """What a worker that is ready has."""

    slot: int
    generation: int
    connections: int  # open
    taken: int  # since it started


class Ledger:
    """Who gets the next connection, counting those that were given and not taken yet.  Pure.

    Args:
        limit: Connections that a worker holds at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._given: dict[tuple[int, int], tuple[int, int]] = {}  # -> (given, taken when that was 0)

    def order(self, loads: Iterable[Load]) -> list[Load]:
        """Those that may take one, the least loaded first."""
        given, found = {}, []
        for load in loads:
            key = load.slot, load.generation
            count, since = self._given.get(key, (0, load.taken))
            waiting = count - (load.taken - since)
            given[key] = (count, since) if waiting > 0 else (0, load.taken)
            busy = load.connections + max(waiting, 0)
            if busy < self._limit:
                found.append((busy, load.slot, load))
        self._given = given
        return [load for _, _, load in sorted(found)]

    def gave(self, load: Load) -> None:
        """It was given one."""
        count, since = self._given[load.slot, load.generation]
        self._given[load.slot, load.generation] = count + 1, since


class Dispatcher:
    """Accepts on the listening sockets, from start() to stop()."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        segment: native.Segment,
        live: Callable[[], Mapping[int, int]],
        inboxes: Sequence[Inbox],
        limit: int,
    ) -> None:
        self._listeners = list(listeners)
        self._segment = segment
        self._live = live  # slot -> generation
        self._inboxes = inboxes
        self._ledger = Ledger(limit)
        loop = gevent.get_hub().loop
        self._ios = [loop.io(listener.fileno(), 1) for listener in self._listeners]
        self._timer = loop.timer(0)
        self._loop = loop
        self._held: tuple[socket.socket, object] | None = None  # accepted, and nobody had room for it

    def start(self) -> None:
        for io, listener in zip(self._ios, self._listeners):
            io.start(self._accept, listener)

    def stop(self) -> None:
        """Leave the rest to the kernel's queue.  May be repeated."""
        self._timer.close()
        for io in self._ios:
            io.stop()
            io.close()
        for listener in self._listeners:
            listener.close()
        if self._held is not None:
            self._held[0].close()
        self._ios, self._listeners, self._held = [], [], None

    def _loads(self) -> list[Load]:
        found = []
        for slot, live in self._live().items():
            generation, _, attached, ready, _ = self._segment.slot(slot)
            if generation == live == attached == ready:
                counter = self._segment.worker_counter
                found.append(Load(slot, generation, counter(slot, _OPEN), counter(slot, _TOTAL)))
        return found

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            order = self._ledger.order(self._loads())
            if not order:
                self._pause(NOBODY_PAUSE)
                return
            if self._held is None:
                try:
                    self._held = listener.accept()
                except (BlockingIOError, InterruptedError):
                    return
                except ConnectionAbortedError:
                    continue
                except OSError as error:
                    log.warning("cannot accept: %s; trying again in %g s", error.strerror, DESCRIPTORS_PAUSE)
                    self._pause(DESCRIPTORS_PAUSE)
                    return
            if not self._give(*self._held, order):
                self._pause(NOBODY_PAUSE)
                return
            self._held = None

    def _give(self, connection: socket.socket, address: object, order: Sequence[Load]) -> bool:
        host, port = address[:2] if isinstance(address, tuple) else ("", "")
        for load in order:
            inbox = self._inboxes[load.slot].write
            if passing.give(inbox, passing.HTTP, f"{host} {port}\n".encode(), connection.fileno()):
                self._ledger.gave(load)
                connection.close()
                return True
        return False

    def _pause(self, seconds: float) -> None:
        for io in self._ios:
            io.stop()
        self._timer.close()
        self._timer = self._loop.timer(seconds)
        self._timer.start(self.start)
