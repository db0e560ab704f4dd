"""What becomes of a message that could not leave at once: it waits for room, for the table, or goes in fragments.

Runs in: worker, in the hub's thread; `slow_send` in any.
"""

from __future__ import annotations

import math
import time
from typing import Any

import gevent
from gevent import monkey
from greenlet import getcurrent

from channels.core import native
from channels.errors import ChannelTableFull, RingFull
from channels.settings import Settings
from channels.worker.membership import NOBODY, TABLE_FULL, Membership, Pending
from channels.worker.room import Room

PARCEL_RECORDS = 8  # fragments to one peer before others may send to it
TABLE_RETRY = 0.001  # seconds; the router is in the middle of a change, or being replaced

_allocate_lock = monkey.get_original("_thread", "allocate_lock")


class Sender:
    """This worker's way out for what takes time."""

    def __init__(
        self, segment: native.Segment, endpoint: native.Endpoint, room: Room, membership: Membership, settings: Settings
    ) -> None:
        self._settings = settings
        self._segment = segment
        self._endpoint = endpoint
        self._room = room
        self._membership = membership
        self._aborts: list[native.Parcel] = []
        endpoint.slow_send = self.slow_send

    def slow_send(self, channel: Any, data: Any, event: bytes | None, timeout: float | None, need: int) -> int:
        """What channel_send does when it cannot do it at once."""
        if timeout == -1.0:
            timeout = self._settings.send_timeout
        if timeout == math.inf:
            timeout = None
        if not self._room.is_here():
            return self._from_thread(channel, data, event, timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        return self._send_until(channel, data, event, timeout, deadline, need)

    def send_event(self, channel: Any, data: Any, event: bytes | None, timeout: float | None) -> int:
        """channel_send with an event's name."""
        members, need = self._endpoint.send_now(channel, data, event)
        return self.slow_send(channel, data, event, timeout, need) if need else members

    def _send_until(
        self, channel: Any, data: Any, event: bytes | None, timeout: float | None, deadline: float | None, need: int
    ) -> int:
        members = 0
        while need:
            if need == native.needs_room:

                def send() -> bool:
                    nonlocal members, need
                    members, need = self._endpoint.send_now(channel, data, event, True)
                    return need != native.needs_room

                if not self._room.with_up(memoryview(data).nbytes + len(event or b""), deadline, send):
                    raise RingFull("the router", timeout or 0.0)
                continue
            if need == native.needs_table:
                if deadline is not None and time.monotonic() >= deadline:
                    raise RingFull("the router", timeout or 0.0)
                self._pause(TABLE_RETRY)
            elif need == native.needs_row:
                status = self._membership.ask_and_wait(
                    Pending("open", native.check_name(channel).encode(), 0, None), deadline
                )
                if status == TABLE_FULL:
                    raise ChannelTableFull(self._segment.rows)
                if status == NOBODY:
                    return 0
            elif need == native.needs_parcel:
                sent = self._send_large(channel, data, event, timeout, deadline)
                if sent is not None:
                    return sent
            members, need = self._endpoint.send_now(channel, data, event)
        return members

    def _pause(self, seconds: float) -> None:
        """Let others run for a moment."""
        if getcurrent() is self._room.hub:
            raise RingFull("the router", 0.0)
        gevent.sleep(seconds)

    def _from_thread(self, channel: Any, data: Any, event: bytes | None, timeout: float | None) -> int:
        """From a thread without our hub: the hub's thread sends, this one waits for the outcome."""
        done = _allocate_lock()
        done.acquire()
        outcome: list[Any] = []
        body = bytes(data)

        def send() -> None:
            try:
                deadline = None if timeout is None else time.monotonic() + timeout
                members, need = self._endpoint.send_now(channel, body, event)
                outcome.append(self._send_until(channel, body, event, timeout, deadline, need) if need else members)
            except BaseException as error:
                outcome.append(error)
            done.release()

        self._room.hub.loop.run_callback_threadsafe(gevent.spawn, send)
        done.acquire()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return int(outcome[0])

    def _send_large(
        self, channel: Any, data: Any, event: bytes | None, timeout: float | None, deadline: float | None
    ) -> int | None:
        """The body straight to every listener, then a small record through the router that gives it its place.

        None: the channel's row changed meanwhile, look again.
        """
        began_ns = time.monotonic_ns()  # who attaches from here on is not meant, whatever his slot listened to
        found = self._endpoint.listeners(channel)
        if found is None:
            return None
        row, row_generation, slots = found
        body = data if isinstance(data, bytes) else bytes(data)
        targets = [(slot, self._segment.slot(slot)[0]) for slot in slots if slot != self._endpoint.slot]
        parcel = native.Parcel(self._endpoint, native.BODY, 0, 0, 0, event or b"", body, targets)
        sent: bool | None = False

        def send() -> bool:
            nonlocal sent
            sent = self._endpoint.send_large(row, row_generation, parcel.message_id, began_ns, len(body), slots)
            return sent is not False

        try:
            if not self.pump(parcel, deadline, self._settings.stall_timeout):
                raise RingFull("the channel's workers", timeout or 0.0)
            if self._endpoint.slot in slots:
                self._endpoint.keep_body(parcel.message_id, body, event)
            if not self._room.with_up(256, deadline, send):
                raise RingFull("the router", timeout or 0.0)
        finally:
            if not sent:
                self._endpoint.drop_body(parcel.message_id)
                self.abort(parcel, whole=True)
        return len(slots) if sent else None

    def pump(self, parcel: native.Parcel, deadline: float | None, patience: float | None) -> bool:
        """Put a parcel into its receivers' rings; False when the time is up.

        Args:
            patience: Seconds after which a receiver that takes nothing is left out; None: all are waited for.
        """
        moved: dict[int, tuple[int, float]] = {}
        in_hub = getcurrent() is self._room.hub  # where nothing can wait
        while not parcel.pump(1 if self._room.is_wanted(slot for slot, _ in parcel.waiting) else PARCEL_RECORDS):
            now = time.monotonic()
            timeout = None if deadline is None else deadline - now
            if timeout is not None and timeout <= 0:
                return False
            if patience is not None:
                for slot, _ in parcel.waiting:
                    taken = self._endpoint.taken_by(slot)  # of this parcel or another: it takes
                    if slot not in moved or moved[slot][0] != taken:
                        moved[slot] = (taken, now)
                    elif now - moved[slot][1] >= patience and not parcel.give_up(slot):
                        self._aborts.append(parcel)
                timeout = patience if timeout is None else min(timeout, patience)
            waiting = parcel.waiting
            if waiting and not self._room.park_peers(waiting, parcel.next_size, timeout) and in_hub:
                return False
        return True

    def abort(self, parcel: native.Parcel, whole: bool = False) -> None:
        """Nothing more comes of this parcel; receivers that have no room to be told are told later.

        `whole`: nothing comes of it at all, so who has all of it already may drop it.
        """
        if not parcel.give_up(whole=whole):
            self._aborts.append(parcel)

    def flush_aborts(self) -> None:
        """Tell receivers that had no room to be told."""
        self._aborts = [parcel for parcel in self._aborts if not parcel.tell_aborted()]
