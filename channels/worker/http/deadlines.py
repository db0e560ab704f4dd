"""Many connections that each may wait for so long, and one timer for all of them.

What waits for the same thing waits equally long, so the order of entering is the order of expiring.  Runs in: worker,
in the hub.
"""

from __future__ import annotations

from typing import Any, Callable

TICK = 0.25  # seconds between looks: how late an end may come


class Deadline:
    """Whoever waits for one thing: `entries[who] = now` enters, `del entries[who]` leaves."""

    __slots__ = ("entries", "expire", "seconds")

    def __init__(self, seconds: float, expire: Callable[[Any], None]) -> None:
        self.seconds = seconds
        self.expire = expire  # called with one that waited too long, and has been removed
        self.entries: dict[Any, float] = {}

    def sweep(self, now: float) -> None:
        """Expire those whose time is up."""
        limit = now - self.seconds
        entries = self.entries
        while entries:
            who, since = next(iter(entries.items()))
            if since > limit:
                return
            del entries[who]
            self.expire(who)


class Deadlines:
    """All of them, looked at while there is anyone."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._all: list[Deadline] = []
        self._timer = loop.timer(TICK, TICK, ref=False)
        self._running = False

    def add(self, seconds: float, expire: Callable[[Any], None]) -> Deadline:
        made = Deadline(seconds, expire)
        if seconds > 0:
            self._all.append(made)
        return made

    def start(self) -> None:
        """Somebody may wait from now on."""
        if not self._running:
            self._running = True
            self._timer.start(self._tick)

    def _tick(self) -> None:
        now = self._loop.now()
        for deadline in self._all:
            if deadline.entries:
                deadline.sweep(now)
        if not any(deadline.entries for deadline in self._all):
            self._running = False
            self._timer.stop()

    def close(self) -> None:
        self._timer.stop()
        self._timer.close()
