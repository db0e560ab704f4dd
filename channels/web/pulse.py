"""One timer for all streams of a worker: who has been silent for too long is told so.

Runs in: worker, in the hub.  While there are no streams there is no timer.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Protocol

import gevent

log = logging.getLogger("channels")

TICK = 1.0  # seconds; periods are rounded up to it, and a silence may be up to one tick shorter


class Member(Protocol):
    """Somebody with a heartbeat."""

    beat_tick: int  # Pulse.tick when it last did something; the member sets it
    beat_due: int  # when it is looked at; the pulse's own

    def beat(self) -> None:
        """Nothing was done for a whole period.  In the hub: must not wait."""


class Pulse:
    """Members, and when to look at them."""

    def __init__(self) -> None:
        self.tick = 0
        self._timer: Any = None
        self._due: dict[int, dict[Member, int]] = {}  # tick -> members with their periods
        self._members = 0

    def add(self, member: Member, seconds: float) -> None:
        """`member.beat()` after so many seconds without a word from it, again and again."""
        period = max(math.ceil(seconds / TICK), 1)
        member.beat_tick = self.tick
        self._put(member, period, self.tick + period)
        self._members += 1
        if self._timer is None:
            self._timer = gevent.get_hub().loop.timer(TICK, TICK, ref=False)
            self._timer.start(self._turn)

    def remove(self, member: Member) -> None:
        """May be repeated."""
        if self._due.get(member.beat_due, {}).pop(member, None) is None:  # not one, or no more
            return
        self._members -= 1
        if not self._members:
            self._stop()

    def _put(self, member: Member, period: int, due: int) -> None:
        member.beat_due = due
        self._due.setdefault(due, {})[member] = period

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        self._due.clear()

    def _turn(self) -> None:
        self.tick += 1
        for member, period in self._due.pop(self.tick, {}).items():
            silent = self.tick - member.beat_tick
            if silent < period:
                self._put(member, period, member.beat_tick + period)
                continue
            member.beat_tick = self.tick
            self._put(member, period, self.tick + period)
            try:
                member.beat()
            except Exception:
                log.exception("heartbeat of %r", member)


_pulse = Pulse()


def pulse() -> Pulse:
    """This worker's."""
    return _pulse
