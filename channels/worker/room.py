"""Waiting: for an answer, for a time, and for room in a ring, whose queues are served in order.

Runs in: worker, in the hub's thread.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Iterable, Sequence
from typing import Any, Callable

from gevent import monkey
from greenlet import getcurrent

from channels.core import native

_get_ident = monkey.get_original("_thread", "get_ident")


class Wake:
    """Somebody who waits for an answer, or for room."""

    __slots__ = ("fired", "greenlet")

    def __init__(self) -> None:
        self.greenlet: Any = None
        self.fired = False


class Timer:
    """Switches to the running greenlet when the time is up, and says so: an early wake-up is not the end."""

    __slots__ = ("_greenlet", "_room", "_timer", "over")

    def __init__(self, room: Room, seconds: float | None) -> None:
        self.over = False
        self._room = room
        self._greenlet = getcurrent()
        self._timer = None
        if seconds is not None:
            self._timer = room.hub.loop.timer(seconds)
            # The loop's own clock stands still while a greenlet computes.
            self._timer.start(self._on_time, update=True)

    def _on_time(self) -> None:
        self.over = True
        self._room.switch(self._greenlet)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()


class Room:
    """Who waits in this worker, and for which ring."""

    def __init__(self, endpoint: native.Endpoint, hub: Any) -> None:
        self.hub = hub
        self._thread = _get_ident()
        self.before: Callable[[], None] = lambda: None  # what needs room before whoever waits for it
        self._endpoint = endpoint
        self._up: collections.deque[tuple[Wake, int]] = collections.deque()
        self._peers: dict[int, collections.deque[tuple[Wake, int, int]]] = {}

    def switch(self, waiter: Any) -> None:
        """Let `waiter` run now.  In the hub; an error of the waiter's is the hub's to report."""
        try:
            waiter.switch()
        except BaseException as error:
            self.hub.handle_error(waiter, type(error), error, error.__traceback__)

    def is_here(self) -> bool:
        """Whether this is the thread that serves requests: another has no hub that we could wait in."""
        return bool(_get_ident() == self._thread)

    def check_here(self, what: str) -> None:
        """Raises RuntimeError in another thread."""
        if not self.is_here():
            raise RuntimeError(f"{what} must be called in the thread that serves requests, not in a thread of a pool")

    def park(self, wake: Wake, timeout: float | None) -> bool:
        """Wait until `wake` is fired; False when the time is up.  Nothing is handed over, only woken (H31)."""
        greenlet = getcurrent()
        if greenlet is self.hub or not self.is_here():
            return False
        if wake.fired:
            return True
        if timeout is not None and timeout <= 0:
            return False
        timer = Timer(self, timeout)
        wake.greenlet = greenlet
        try:
            while not wake.fired and not timer.over:
                self.hub.switch()
        finally:
            wake.greenlet = None
            timer.close()
        return wake.fired

    def fire(self, wake: Wake) -> None:
        """Wake whoever parks there.  In the hub."""
        wake.fired = True
        if wake.greenlet is not None:
            self.switch(wake.greenlet)

    def serve(self) -> None:
        """Fire whoever can go on now, in their order.  In the hub."""
        endpoint = self._endpoint
        self.before()
        if self._up:
            endpoint.unwant_up()
            wake, size = self._up[0]
            if endpoint.want_up(size):
                self.fire(wake)
        for slot in list(self._peers):
            waiters = self._peers.get(slot, ())
            for entry in list(waiters):
                if entry not in waiters:  # it has found room elsewhere meanwhile
                    continue
                wake, generation, size = entry
                endpoint.unwant_peer(slot)
                if not endpoint.want_peer(slot, generation, size):
                    break
                self.fire(wake)

    def with_up(self, size: int, deadline: float | None, send: Callable[[], bool]) -> bool:
        """Call `send` until it says True, waiting for room in between; False when the time is up."""
        entry = (Wake(), size)
        self._up.append(entry)
        self._endpoint.add_sender(1)
        try:
            while True:
                if self._up[0] is entry:
                    self._endpoint.unwant_up()
                    if self._endpoint.want_up(size) and send():
                        return True
                entry[0].fired = False
                if not self.park(entry[0], None if deadline is None else deadline - time.monotonic()):
                    return False
        finally:
            self._up.remove(entry)
            self._endpoint.add_sender(-1)
            self._endpoint.unwant_up()
            self.hub.loop.run_callback(self.serve)  # others may have relied on what was asked for until now

    def park_peers(self, targets: Sequence[tuple[int, int]], size: int, timeout: float | None) -> bool:
        """Wait until one of these peers may have room for `size` more bytes; False when the time is up.

        Who waits already goes first, even where there is room for both: a large body must not starve a small one.
        """
        wake = Wake()
        entries = []
        others = self.is_wanted(slot for slot, _ in targets)
        try:
            for slot, generation in targets:
                entry = (wake, generation, size)
                self._peers.setdefault(slot, collections.deque()).append(entry)
                entries.append((slot, entry))
                if self._endpoint.want_peer(slot, generation, size) and not others:
                    return True
            if others:
                self.hub.loop.run_callback(self.serve)
            return self.park(wake, timeout)
        finally:
            for slot, entry in entries:
                waiters = self._peers[slot]
                waiters.remove(entry)
                if not waiters:
                    del self._peers[slot]
                    self._endpoint.unwant_peer(slot)

    def is_wanted(self, slots: Iterable[int]) -> bool:
        """Whether somebody waits for room towards one of these peers."""
        return any(slot in self._peers for slot in slots)

    def peer_gone(self, slot: int) -> None:
        """Whoever waited for room there looks again."""
        for wake, _, _ in list(self._peers.get(slot, ())):
            self.fire(wake)
