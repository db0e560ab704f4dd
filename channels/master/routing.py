"""The routing greenlet, and what a policy has to answer for the router.

Runs in: router.  Never waits for a worker.
"""

from __future__ import annotations

import logging
import os
import select
import struct
import sys
import time
from collections.abc import Sequence
from typing import Callable

import gevent
from gevent import monkey
from sortedcontainers import SortedDict

from channels.core import native
from channels.settings import Settings

log = logging.getLogger("channels")

_poll = monkey.get_original("select", "poll")

ONE = (1).to_bytes(8, sys.byteorder)  # what an eventfd takes, eventfd(2)
LATE = 0.05  # seconds between showing something and calling, beyond which the call is taken for lost
TURN_RECORDS = 256
TURN_BYTES = 256 * 1024
ROW_IDLE_NS = 10_000_000_000
PARK_FLUSH = 0.05  # seconds for workers that are a little behind
TURNS_AT_ONCE = 32  # before the greenlets around the routing one get their turn


Spilled = dict[int, tuple[int, bytes]]  # slot -> (generation, records)
_SPILLED_HEAD = struct.Struct("<IQQ")  # slot, generation, bytes that follow


def pack_spilled(spilled: Spilled) -> bytes:
    """For a router in another master."""
    return b"".join(
        _SPILLED_HEAD.pack(slot, generation, len(data)) + data for slot, (generation, data) in spilled.items()
    )


def unpack_spilled(packed: bytes) -> Spilled:
    """As much of it as makes sense; the records themselves are checked by the core."""
    spilled: Spilled = {}
    at = 0
    while len(packed) - at >= _SPILLED_HEAD.size:
        slot, generation, size = _SPILLED_HEAD.unpack_from(packed, at)
        at += _SPILLED_HEAD.size
        if size > len(packed) - at:
            break
        spilled[slot] = (generation, packed[at : at + size])
        at += size
    return spilled


class Names:
    """The channels' names in order, for those who join by prefix.  Built when the first of them comes."""

    def __init__(self, router: native.Router) -> None:
        self._router = router
        self._rows: SortedDict[bytes, int] | None = None
        self._names: dict[int, bytes] = {}

    def _refresh(self) -> SortedDict[bytes, int]:
        changed = self._router.take_journal() if self._rows is not None else None
        if self._rows is None or changed is None:
            self._router.start_journal()
            found = self._router.names()
            self._rows = SortedDict((name, row) for row, name in found)
            self._names = dict(found)
            return self._rows
        for row, name in changed:
            old = self._names.pop(row, None)
            if old is not None:
                self._rows.pop(old, None)
            if name is not None:
                self._rows[name] = row
                self._names[row] = name
        return self._rows

    def matching(self, prefix: bytes) -> list[int]:
        """Rows of the channels whose name begins so."""
        rows = self._refresh()
        return [rows[name] for name in rows.irange(prefix, _after(prefix), inclusive=(True, False))]

    def all(self) -> list[tuple[bytes, int]]:
        """Every channel's name and row, by name."""
        return list(self._refresh().items())


def _after(prefix: bytes) -> bytes | None:
    """The least name that comes after every name with this prefix."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


class Routing:
    """The router of one segment, under gevent."""

    def __init__(
        self,
        segment: native.Segment,
        eventfds: Sequence[int],
        settings: Settings,
        on_quarantine: Callable[[int, int, str], None],
        spilled: Spilled | None = None,
    ) -> None:
        native.keep_heap()
        self.router = native.Router(
            segment,
            eventfds,
            turn_records=TURN_RECORDS,
            turn_bytes=TURN_BYTES,
            spill_soft_bytes=settings.spill_soft,
            spill_hard_bytes=settings.spill_hard,
            spill_soft_ns=int(settings.spill_soft_time * 1e9),
            row_idle_ns=ROW_IDLE_NS,
            spilled=spilled,
        )
        self.names = Names(self.router)
        self.on_quarantine = on_quarantine
        self._spin_ns = int(settings.spin * 1e9)
        self._hub = gevent.get_hub()
        self._wake = self._hub.loop.io(eventfds[0], 1)
        self._beat = self._hub.loop.timer(1.0, 1.0, ref=False)
        self._late = self._hub.loop.timer(LATE, ref=False)
        self._eventfd = eventfds[0]
        self._asleep = False
        self._running = True

    def run(self) -> None:
        """Route until stop().  The routing greenlet."""
        router = self.router
        self._beat.start(self._on_beat)
        passes = 0  # since other greenlets had their turn
        promising = True  # something came since the last look in vain
        while self._running:
            more = router.turn()
            self._answer_events()
            passes += 1
            if more:
                promising = True
            elif not promising or not router.look(self._spin_ns):
                promising = False
                if router.sleep():
                    self._asleep = True
                    self._hub.wait(self._wake)
                    self._asleep = False
                    passes = 0
                router.awake()
            if passes >= TURNS_AT_ONCE:  # whatever keeps it going: a join by prefix is none of a turn's records
                gevent.sleep(0)
                passes = 0

    def park(self) -> Spilled:
        """Route no more; what is only in this process's memory, by slot, for the router that follows."""
        self._running = False
        deadline = time.monotonic() + PARK_FLUSH
        while self.spilling() and time.monotonic() < deadline:
            self.router.turn()
            gevent.sleep(0.001)
        spilled = {slot: (generation, self.router.export_spill(slot)) for slot, generation in self.router.live.items()}
        return {slot: (generation, data) for slot, (generation, data) in spilled.items() if data}

    def close(self) -> None:
        """Its watchers go: for tests that end a router without ending the process."""
        self._running = False
        for watcher in (self._wake, self._beat, self._late):
            watcher.stop()
            watcher.close()

    def spilling(self) -> bool:
        """Whether some worker is so far behind that its ring does not hold everything."""
        return any(self.router.spilled_bytes(slot) for slot in self.router.live)

    def describe(self, row: int) -> tuple[str, list[int], int]:
        """(name, slots that listen, last number given) of a channel."""
        name, last = self.router.row(row)
        return name.decode(errors="replace"), self.router.members(row), last

    def bury(self, slot: int, generation: int) -> None:
        """A worker is dead: what it committed is routed, its subscriptions end, everyone is told.  May be repeated."""
        self.router.bury(slot, generation)

    def _on_beat(self) -> None:
        """The heartbeat, and a look for a call that was lost (docs/hazards.md, H14)."""
        self.router.heartbeat()
        if self._is_late():  # or its caller is between showing and calling: it gets a moment
            self._late.start(self._on_late)

    def _on_late(self) -> None:
        if self._is_late():
            log.warning("a call to the router was lost")
            os.write(self._eventfd, ONE)

    def _is_late(self) -> bool:
        """It sleeps, something is there, and nobody has called."""
        if not self._asleep or not self.router.look(0):
            return False
        poll = _poll()
        poll.register(self._eventfd, select.POLLIN)
        return not poll.poll(0)

    def _answer_events(self) -> None:
        for kind, slot, generation, detail in self.router.events():
            if kind == "prefix":
                self._carry_out_prefix(slot)
            elif kind == "quarantine":
                log.error("worker=%d gen=%d quarantined: %s", slot, generation, detail)
                self.on_quarantine(slot, generation, detail)
            elif kind == "attached":
                log.debug("worker=%d gen=%d attached", slot, generation)

    def _carry_out_prefix(self, slot: int) -> None:
        pending = self.router.prefix_pending(slot)
        if pending is not None:
            self.router.prefix(slot, self.names.matching(pending[0]))
