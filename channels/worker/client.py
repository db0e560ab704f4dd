"""This process's end of the segment, under gevent: waiting, waking, joining and leaving.

What is to be done is decided here; bytes and cursors are core's.  Runs in: worker, in the hub's thread.
"""

from __future__ import annotations

import collections
import logging
import math
import os
import select
import time
from collections.abc import Iterator, Sequence
from typing import Any, Callable

import gevent
from gevent import monkey
from greenlet import getcurrent

from channels.core import native
from channels.errors import (
    ChannelsError,
    ChannelTableFull,
    ForkedProcess,
    NotAttached,
    RingFull,
    RouterUnavailable,
    WorkerGone,
)
from channels.settings import Settings
from channels.worker import answers

log = logging.getLogger("channels")

DRAIN_RECORDS = 256  # of each ring before greenlets run: fewer than a default subscription holds
ROUNDS = 8  # drains, or deliveries, before other greenlets get their turn
BODY_AGE_NS = 30_000_000_000  # a whole large body whose record of order has not come
PARCEL_RECORDS = 8  # fragments to one peer before others may send to it
DESCRIPTORS_NS = 5_000_000  # between two turns of the loop's descriptors while messages pour in
GREEDY_NS = 2_000_000  # a subscriber that always finds something lets others run after so long
TABLE_RETRY = 0.001  # seconds; the router is in the middle of a change, or being replaced

_allocate_lock = monkey.get_original("_thread", "allocate_lock")
_poll = monkey.get_original("select", "poll")
_get_ident = monkey.get_original("_thread", "get_ident")
_close = monkey.get_original("os", "close")  # gevent's waits for a loop, which a child may never run

_current: Client | None = None
_when_attached: list[Callable[[], object]] = []


class _Wake:
    """Somebody who waits for an answer, or for room."""

    __slots__ = ("fired", "greenlet")

    def __init__(self) -> None:
        self.greenlet: Any = None
        self.fired = False


class Timer:
    """Switches to the running greenlet when the time is up, and says so: an early wake-up is not the end."""

    __slots__ = ("_client", "_greenlet", "_timer", "over")

    def __init__(self, client: Client, seconds: float | None) -> None:
        self.over = False
        self._client = client
        self._greenlet = getcurrent()
        self._timer = None
        if seconds is not None:
            self._timer = client.hub.loop.timer(seconds)
            # The loop's own clock stands still while a greenlet computes.
            self._timer.start(self._on_time, update=True)

    def _on_time(self) -> None:
        self.over = True
        self._client._switch(self._greenlet)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()


class Pending:
    """A question to the router that is not answered yet; several greenlets may wait for the answer."""

    __slots__ = ("name", "owner", "status", "token", "waiters", "what")

    def __init__(self, what: str, name: bytes, token: int, owner: Any) -> None:
        self.what = what
        self.name = name
        self.token = token
        self.waiters: list[_Wake] = []
        self.status: int | None = None
        self.owner = owner


class LocalPrefix:
    """A prefix that someone in this worker has joined."""

    __slots__ = ("joined", "name", "pending", "queues")

    def __init__(self, name: str) -> None:
        self.name = name
        self.queues: list[native.Member] = []
        self.joined = False
        self.pending: Pending | None = None


class Client:
    """The worker's client of the fabric.  One per process; `current()` is it."""

    def __init__(
        self, segment: native.Segment, eventfds: Sequence[int], slot: int, generation: int, settings: Settings
    ) -> None:
        self.segment = segment
        self.settings = settings
        self.pid = os.getpid()
        self.thread = _get_ident()
        self.hub = gevent.get_hub()
        self.endpoint = native.Endpoint(
            segment,
            eventfds,
            slot,
            generation,
            spin_ns=int(settings.spin * 1e9),
            greedy_ns=GREEDY_NS,
            message_max=settings.message_max,
            assembly_max=settings.assembly_max,
            alert_hops_max=settings.alert_hops_max,
            getcurrent=getcurrent,
        )
        self.endpoint.resolve = self._resolve
        self.endpoint.schedule = self._schedule
        self.endpoint.slow_send = self.slow_send
        self.endpoint.yield_hub = self._yield_hub
        self.channels: dict[str, native.LocalChannel] = {}
        self.prefixes: dict[str, LocalPrefix] = {}
        self.on_event: dict[str, Callable[..., None]] = {}
        self.closing = False
        self.eventfds = list(eventfds)
        self._eventfd = eventfds[slot]
        self._token = 0
        self._pending: dict[int, Pending] = {}
        self._outbox: collections.deque[tuple[str, int, bytes]] = collections.deque()
        self._room_up: collections.deque[tuple[_Wake, int]] = collections.deque()
        self._room_peers: dict[int, collections.deque[tuple[_Wake, int, int]]] = {}
        self._aborts: list[native.Parcel] = []
        self._scheduled = False
        loop = self.hub.loop
        self._watcher = loop.io(self._eventfd, 1, ref=False)
        self._watcher.start(self._on_wake)
        self._again: Any = loop.timer(0.0)  # unlike run_callback, lets descriptors have their turn in between
        self._serving_soon = False
        self._descriptors_ns = time.monotonic_ns()
        self._tick = loop.timer(1.0, 1.0, ref=False)
        self._tick.start(self._on_tick)
        self.endpoint.heartbeat()
        self._serve()

    # ---- waking ----

    def _on_wake(self) -> None:
        self.endpoint.begin_wake()
        self._descriptors_ns = time.monotonic_ns()
        self._serve()

    def _serve(self) -> None:
        """Drain until nothing is left, then arm.  In the hub; runs no user code but by switching to whoever waits."""
        endpoint = self.endpoint
        total = 0
        while total < DRAIN_RECORDS:  # whoever could run, but does not wait here, must not see its queue overflow
            taken = endpoint.drain(DRAIN_RECORDS)
            self._deliver()
            self._room()
            if not taken and not endpoint.look() and endpoint.sleep():
                return
            total += taken + DRAIN_RECORDS // ROUNDS
        self._serve_soon()

    def _serve_soon(self) -> None:
        """After whoever can run has run; and, from time to time, after descriptors have had their turn."""
        if self._serving_soon:
            return
        self._serving_soon = True
        if time.monotonic_ns() - self._descriptors_ns < DESCRIPTORS_NS:
            self.hub.loop.run_callback(self._serve_on)
        else:
            self._again.start(self._serve_after_descriptors)

    def _serve_on(self) -> None:
        self._serving_soon = False
        self._serve()

    def _serve_after_descriptors(self) -> None:
        self._descriptors_ns = time.monotonic_ns()
        self._serve_on()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.hub.loop.run_callback(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        endpoint = self.endpoint
        for _ in range(ROUNDS):
            if not endpoint.events and not endpoint.woken:
                return
            events, endpoint.events = endpoint.events, []
            for event in events:
                try:
                    getattr(self, f"_on_{event[0]}", self._on_other)(*event)
                except Exception:
                    log.exception("event %r failed", event[0])
            for queue in endpoint.take_woken():
                if queue.waiter is not None:
                    self._switch(queue.waiter)
        self._schedule()

    def _switch(self, waiter: Any) -> None:
        try:
            waiter.switch()
        except BaseException as error:
            self.hub.handle_error(waiter, type(error), error, error.__traceback__)

    def _yield_hub(self) -> None:
        if getcurrent() is not self.hub:
            gevent.sleep(0)

    def _on_tick(self) -> None:
        """Once a second: the heartbeat, and a look for a lost wake-up (HAZARDS H14: the counter must stay 0)."""
        endpoint = self.endpoint
        endpoint.heartbeat()
        endpoint.expire(BODY_AGE_NS)
        if endpoint.something() and not self._readable():
            endpoint.count(native.worker_counter_index["late_wakeups"], 1)
        self._flush_aborts()
        self._serve()

    def _readable(self) -> bool:
        poll = _poll()
        poll.register(self._eventfd, select.POLLIN)
        return bool(poll.poll(0))

    # ---- waiting ----

    def park(self, wake: _Wake, timeout: float | None) -> bool:
        """Wait until `wake` is fired; False when the time is up.  HAZARDS H31: nothing is handed over, only woken."""
        greenlet = getcurrent()
        if greenlet is self.hub or _get_ident() != self.thread:
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

    def fire(self, wake: _Wake) -> None:
        """Wake whoever parks there.  In the hub."""
        wake.fired = True
        if wake.greenlet is not None:
            self._switch(wake.greenlet)

    # ---- room ----

    def _room(self) -> None:
        endpoint = self.endpoint
        if self._outbox:
            self._flush_outbox()
        if self._room_up:
            endpoint.unwant_up()
            wake, size = self._room_up[0]
            if endpoint.want_up(size):
                self.fire(wake)
        for slot in list(self._room_peers):
            waiters = self._room_peers.get(slot, ())
            for entry in list(waiters):
                if entry not in waiters:  # it has found room elsewhere meanwhile
                    continue
                wake, generation, size = entry
                endpoint.unwant_peer(slot)
                if not endpoint.want_peer(slot, generation, size):
                    break
                self.fire(wake)

    def _with_room_up(self, size: int, deadline: float | None, send: Callable[[], bool]) -> bool:
        """Call `send` until it says True, waiting for room in between; False when the time is up."""
        entry = (_Wake(), size)
        self._room_up.append(entry)
        self.endpoint.add_sender(1)
        try:
            while True:
                if self._room_up[0] is entry:
                    self.endpoint.unwant_up()
                    if self.endpoint.want_up(size) and send():
                        return True
                entry[0].fired = False
                if not self.park(entry[0], None if deadline is None else deadline - time.monotonic()):
                    return False
        finally:
            self._room_up.remove(entry)
            self.endpoint.add_sender(-1)
            self.endpoint.unwant_up()
            if self._room_up:
                self.hub.loop.run_callback(self._room)

    def _park_peers(self, targets: Sequence[tuple[int, int]], size: int, timeout: float | None) -> bool:
        """Wait until one of these peers may have room for `size` more bytes; False when the time is up.

        Who waits already goes first, even where there is room for both: a large body must not starve a small one.
        """
        wake = _Wake()
        entries = []
        others = any(slot in self._room_peers for slot, _ in targets)
        try:
            for slot, generation in targets:
                entry = (wake, generation, size)
                self._room_peers.setdefault(slot, collections.deque()).append(entry)
                entries.append((slot, entry))
                if self.endpoint.want_peer(slot, generation, size) and not others:
                    return True
            if others:
                self.hub.loop.run_callback(self._room)
            return self.park(wake, timeout)
        finally:
            for slot, entry in entries:
                waiters = self._room_peers[slot]
                waiters.remove(entry)
                if not waiters:
                    del self._room_peers[slot]
                    self.endpoint.unwant_peer(slot)

    # ---- sending ----

    def slow_send(self, channel: Any, data: Any, event: bytes | None, timeout: float | None, need: int) -> int:
        """What channel_send does when it cannot do it at once."""
        if timeout == -1.0:
            timeout = self.settings.send_timeout
        if timeout == math.inf:
            timeout = None
        if _get_ident() != self.thread:
            return self._from_thread(channel, data, event, timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        return self._send_until(channel, data, event, timeout, deadline, need)

    def send_event(self, channel: Any, data: Any, event: bytes | None, timeout: float | None) -> int:
        """channel_send with an event's name."""
        members, need = self.endpoint.send_now(channel, data, event)
        return self.slow_send(channel, data, event, timeout, need) if need else members

    def _send_until(
        self, channel: Any, data: Any, event: bytes | None, timeout: float | None, deadline: float | None, need: int
    ) -> int:
        members = 0
        while need:
            if need == native.needs_room:

                def send() -> bool:
                    nonlocal members, need
                    members, need = self.endpoint.send_now(channel, data, event, True)
                    return need != native.needs_room

                if not self._with_room_up(memoryview(data).nbytes + len(event or b""), deadline, send):
                    raise RingFull("the router", timeout or 0.0)
                continue
            if need == native.needs_table:
                if deadline is not None and time.monotonic() >= deadline:
                    raise RingFull("the router", timeout or 0.0)
                self.pause(TABLE_RETRY)
            elif need == native.needs_row:
                status = self._ask_and_wait(Pending("open", native.check_name(channel).encode(), 0, None), deadline)
                if status == _JOIN_TABLE_FULL:
                    raise ChannelTableFull(self.segment.rows)
                if status == _JOIN_NOBODY:
                    return 0
            elif need == native.needs_parcel:
                sent = self._send_large(channel, data, event, timeout, deadline)
                if sent is not None:
                    return sent
            members, need = self.endpoint.send_now(channel, data, event)
        return members

    def pause(self, seconds: float) -> None:
        """Let others run for a moment."""
        if getcurrent() is self.hub:
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
                members, need = self.endpoint.send_now(channel, body, event)
                outcome.append(self._send_until(channel, body, event, timeout, deadline, need) if need else members)
            except BaseException as error:
                outcome.append(error)
            done.release()

        self.hub.loop.run_callback_threadsafe(gevent.spawn, send)
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
        found = self.endpoint.listeners(channel)
        if found is None:
            return None
        row, row_generation, slots = found
        body = data if isinstance(data, bytes) else bytes(data)
        targets = [(slot, self.segment.slot(slot)[0]) for slot in slots if slot != self.endpoint.slot]
        parcel = native.Parcel(self.endpoint, native.BODY, 0, 0, 0, event or b"", body, targets)
        sent = False
        try:
            if not self.pump(parcel, deadline, self.settings.stall_timeout):
                raise RingFull("the channel's workers", timeout or 0.0)
            if self.endpoint.slot in slots:
                self.endpoint.keep_body(parcel.message_id, body, event)
            sent = self._with_room_up(
                256,
                deadline,
                lambda: self.endpoint.send_large(row, row_generation, parcel.message_id, len(body), slots),
            )
            if not sent:
                raise RingFull("the router", timeout or 0.0)
        finally:
            if not sent:
                self.endpoint.drop_body(parcel.message_id)
                self.abort(parcel)
        return len(slots)

    def pump(self, parcel: native.Parcel, deadline: float | None, patience: float | None) -> bool:
        """Put a parcel into its receivers' rings; False when the time is up.

        Args:
            patience: Seconds after which a receiver that takes nothing is left out; None: all are waited for.
        """
        moved: dict[int, tuple[int, float]] = {}
        while not parcel.pump(1 if any(slot in self._room_peers for slot, _ in parcel.waiting) else PARCEL_RECORDS):
            now = time.monotonic()
            timeout = None if deadline is None else deadline - now
            if timeout is not None and timeout <= 0:
                return False
            if patience is not None:
                for slot, _ in parcel.waiting:
                    progress = parcel.progress(slot)
                    if slot not in moved or moved[slot][0] != progress:
                        moved[slot] = (progress, now)
                    elif now - moved[slot][1] >= patience and not parcel.give_up(slot):
                        self._aborts.append(parcel)
                timeout = patience if timeout is None else min(timeout, patience)
            waiting = parcel.waiting
            if waiting and not self._park_peers(waiting, parcel.next_size, timeout) and getcurrent() is self.hub:
                return False
        return True

    def abort(self, parcel: native.Parcel) -> None:
        """Nothing more comes of this parcel; receivers that have no room to be told are told later."""
        if not parcel.give_up():
            self._aborts.append(parcel)

    def _flush_aborts(self) -> None:
        self._aborts = [parcel for parcel in self._aborts if not parcel.tell_aborted()]

    # ---- asking the router ----

    def _ask(self, what: str, token: int, name: bytes) -> None:
        """Never waits: what does not fit now goes, in order, when there is room."""
        if self._outbox or not self.endpoint.ask(what, token, name):
            self._outbox.append((what, token, name))
            self.hub.loop.run_callback(self._room)

    def _flush_outbox(self) -> None:
        while self._outbox:
            what, token, name = self._outbox[0]
            if not self.endpoint.ask(what, token, name):
                self.endpoint.unwant_up()
                if not self.endpoint.want_up(len(name)):
                    return
                continue
            self._outbox.popleft()

    def _start(self, pending: Pending) -> None:
        self._token += 1
        pending.token = self._token
        self._pending[pending.token] = pending
        if isinstance(pending.owner, native.LocalChannel):
            self.endpoint.pending_joins[pending.token] = pending.owner
        self._ask(pending.what, pending.token, pending.name)

    def _await(self, pending: Pending, deadline: float | None) -> int | None:
        wake = _Wake()
        pending.waiters.append(wake)
        try:
            while pending.status is None:
                if not self.park(wake, None if deadline is None else deadline - time.monotonic()):
                    break
        finally:
            pending.waiters.remove(wake)
        return pending.status

    def _ask_and_wait(self, pending: Pending, deadline: float | None) -> int:
        self._start(pending)
        status = self._await(pending, deadline)
        if status is None:
            self._forget(pending)
            raise RouterUnavailable(pending.what, self.settings.join_timeout)
        return status

    def _forget(self, pending: Pending) -> None:
        self._pending.pop(pending.token, None)
        self.endpoint.pending_joins.pop(pending.token, None)

    def _on_joined(self, _: str, token: int, status: int) -> None:
        pending = self._pending.pop(token, None)
        if pending is None:
            return
        pending.status = status
        owner = pending.owner
        if isinstance(owner, native.LocalChannel):
            owner.join = None
            owner.joined = status == _JOIN_OK
        elif isinstance(owner, LocalPrefix):
            owner.pending = None
            owner.joined = status == _JOIN_OK
        for wake in list(pending.waiters):
            self.fire(wake)
        if not pending.waiters:
            self._tidy(owner)

    def _on_resync(self, _: str) -> None:
        """There is a new router: what the old one had not answered is asked again; it may be done twice."""
        for pending in list(self._pending.values()):
            self._ask(pending.what, pending.token, pending.name)
        self._on_other("resync")

    def _on_other(self, kind: str, *facts: Any) -> None:
        handler = self.on_event.get(kind)
        if handler is not None:
            handler(*facts)

    def _on_refused(self, _: str, source: int, correlation: int, name: bytes, why: str) -> None:
        answers.answer(self, source, correlation, None, ChannelsError(why))

    def _on_gone(self, kind: str, slot: int, generation: int) -> None:
        for wake, _, _ in list(self._room_peers.get(slot, ())):
            self.fire(wake)
        self._on_other(kind, slot, generation)

    # ---- joining and leaving ----

    def join(self, queue: native.Member, name: Any) -> None:
        """Done when it returns: whatever anyone sends afterwards gets into `queue`."""
        text = native.check_name(name)
        self._check_wait("channel_join")
        channel = self.channels.get(text)
        if channel is None:
            channel = self._add_channel(text)
        self.endpoint.bind(channel, queue)
        if channel.joined:
            return
        pending = channel.join
        if pending is None:
            pending = channel.join = Pending("join", text.encode(), 0, channel)
            self._start(pending)
        status = None
        try:
            status = self._await(pending, time.monotonic() + self.settings.join_timeout)
        finally:
            if status != _JOIN_OK:
                self.leave(queue, text)
        if status == _JOIN_TABLE_FULL:
            raise ChannelTableFull(self.segment.rows)
        if status is None:
            raise RouterUnavailable(f"joining {text!r}", self.settings.join_timeout)

    def _check_wait(self, what: str) -> None:
        if _get_ident() != self.thread:
            raise RuntimeError(f"{what} must be called in the thread that serves requests, not in a thread of a pool")

    def leave(self, queue: native.Member, name: Any) -> None:
        """Done when it returns: nothing of the channel is received afterwards.  Does not wait."""
        channel = self.channels.get(native.check_name(name))
        if channel is not None:
            self.endpoint.release(channel, queue)
            self._tidy(channel)

    def join_prefix(self, queue: native.Member, prefix: str) -> None:
        """Every channel whose name begins so, those that come later included."""
        if prefix:
            native.check_name(prefix)
        self._check_wait("subscribe")
        local = self.prefixes.get(prefix)
        if local is None:
            local = self.prefixes[prefix] = LocalPrefix(prefix)
        if queue not in local.queues:
            local.queues.append(queue)
        for channel in self.channels.values():
            if channel.name.startswith(prefix):
                self.endpoint.bind(channel, queue, prefix)
        if local.joined:
            return
        if local.pending is None:
            local.pending = Pending("join_prefix", prefix.encode(), 0, local)
            self._start(local.pending)
        status = None
        try:
            status = self._await(local.pending, time.monotonic() + self.settings.join_timeout)
        finally:
            if status != _JOIN_OK:
                self.leave_prefix(queue, prefix)
        if status == _JOIN_TABLE_FULL:
            raise ChannelTableFull(self.segment.rows)
        if status is None:
            raise RouterUnavailable(f"joining {prefix + '*'!r}", self.settings.join_timeout)

    def leave_prefix(self, queue: native.Member, prefix: str) -> None:
        local = self.prefixes.get(prefix)
        if local is None or queue not in local.queues:
            return
        local.queues.remove(queue)
        for channel in list(self.channels.values()):
            if channel.name.startswith(prefix):
                self.endpoint.release(channel, queue, prefix)
                self._tidy(channel)
        self._tidy(local)

    def _tidy(self, owner: Any) -> None:
        """Leave at the router what nobody here is in any more."""
        if isinstance(owner, LocalPrefix):
            if owner.queues or self.prefixes.get(owner.name) is not owner:
                return
            if owner.pending is not None:
                self._forget(owner.pending)
            if owner.joined or owner.pending is not None:
                self._ask("leave_prefix", 0, owner.name.encode())
            del self.prefixes[owner.name]
        elif isinstance(owner, native.LocalChannel):
            if self.channels.get(owner.name) is not owner:
                return
            if (owner.joined or owner.join is not None) and not owner.exact_members:
                if owner.join is not None:
                    self._forget(owner.join)
                    owner.join = None
                owner.joined = False
                self._ask("leave", 0, owner.name.encode())
            if not owner.members:
                self.endpoint.displace(owner)
                del self.channels[owner.name]

    def _resolve(self, name: str) -> native.LocalChannel | None:
        """A channel seen for the first time, because of a prefix."""
        if not any(name.startswith(local.name) and local.queues for local in self.prefixes.values()):
            return None
        channel = self.channels.get(name)
        return self._add_channel(name) if channel is None else channel

    def _add_channel(self, name: str) -> native.LocalChannel:
        """A channel that somebody here is in from now on, and with them those whose prefixes it matches."""
        channel = self.channels[name] = native.LocalChannel(name)
        for local in self.prefixes.values():
            if name.startswith(local.name):
                for queue in local.queues:
                    self.endpoint.bind(channel, queue, local.name)
        return channel

    # ---- peers ----

    def ready_peers(self) -> Iterator[tuple[int, int]]:
        """(slot, generation) of every other worker that takes alerts."""
        for slot in range(1, self.segment.slots):
            generation, _, _, ready, _ = self.segment.slot(slot)
            if generation & 1 and ready == generation and slot != self.endpoint.slot:
                yield slot, generation

    def find_worker(self, pid: int | None, worker: int | None) -> tuple[int, int]:
        """(slot, generation) of a ready worker.  Raises WorkerGone."""
        if worker is not None:
            if 1 <= worker < self.segment.slots:
                generation, _, _, ready, _ = self.segment.slot(worker)
                if generation & 1 and ready == generation:
                    return worker, generation
            raise WorkerGone(worker)
        found = native.ready_worker(self.segment, pid) if isinstance(pid, int) and pid > 0 else None
        if found is None:
            raise WorkerGone(pid)
        return found

    def close(self) -> None:
        """Stop taking part: for the end of a worker, and for tests."""
        self.closing = True
        for watcher in (self._watcher, self._tick, self._again):
            watcher.stop()
            watcher.close()


_JOIN_OK, _JOIN_TABLE_FULL, _JOIN_NOBODY = 0, 1, 3


def attach(segment: native.Segment, eventfds: Sequence[int], slot: int, generation: int, settings: Settings) -> Client:
    """Make this process the worker in `slot`."""
    global _current
    segment.enter("worker", slot)
    native.keep_heap()
    _current = Client(segment, eventfds, slot, generation, settings)
    _current.endpoint.install()
    for callback in _when_attached:
        callback()
    return _current


def when_attached(callback: Callable[[], object]) -> None:
    """Call it at once in a worker; else in each that comes of this process, before it serves."""
    if _current is not None and _current.pid == os.getpid():
        callback()
    else:
        _when_attached.append(callback)


def is_attached() -> bool:
    """Whether this process is a worker."""
    return _current is not None and _current.pid == os.getpid()


def current(what: str = "this call") -> Client:
    """This worker's client.  Raises NotAttached, ForkedProcess."""
    if _current is None:
        raise NotAttached(what)
    if _current.pid != os.getpid():
        raise ForkedProcess(what)
    return _current


def detach() -> None:
    """Forget it: for tests."""
    global _current
    if _current is not None and _current.pid == os.getpid():
        _current.close()
    _current = None
    native.uninstall()


def _in_forked_child() -> None:
    """A child of the application's: its copy of our eventfds must not steal wake-ups (HAZARDS H11)."""
    if _current is None or _current.pid == os.getpid():
        return
    try:
        _current.close()
    except Exception:  # its copy of the loop may be in any state, and nobody needs it
        log.debug("watchers of the parent not stopped", exc_info=True)
    for fd in _current.eventfds:
        try:
            _close(fd)
        except OSError:
            pass


os.register_at_fork(after_in_child=_in_forked_child)
