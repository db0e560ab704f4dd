"""This process's end of the segment, under gevent: waiting, waking, joining and leaving.

What is to be done is decided here; bytes and cursors are core's.  Runs in: worker, in the hub's thread.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Iterator, Sequence
from typing import Any, Callable

import gevent
from gevent import monkey
from greenlet import getcurrent

from channels.core import native
from channels.errors import ChannelsError, ForkedProcess, NotAttached, WorkerGone
from channels.settings import Settings
from channels.worker import answers
from channels.worker.membership import Membership
from channels.worker.room import Room
from channels.worker.sending import Sender

log = logging.getLogger("channels")

DRAIN_RECORDS = 256  # of each ring before greenlets run: fewer than a default subscription holds
ROUNDS = 8  # drains, or deliveries, before other greenlets get their turn
LATE = 0.05  # seconds between showing something and calling, beyond which the call is taken for lost
BODY_AGE_NS = 600_000_000_000  # a whole large body whose record of order has not come
BODY_PRESSED_NS = 30_000_000_000  # the same where many are kept
DESCRIPTORS_NS = 5_000_000  # between two turns of the loop's descriptors while messages pour in
GREEDY_NS = 2_000_000  # a subscriber that always finds something lets others run after so long

_poll = monkey.get_original("select", "poll")
_close = monkey.get_original("os", "close")  # gevent's waits for a loop, which a child may never run

_current: Client | None = None
_when_attached: list[Callable[[], object]] = []


class Client:
    """The worker's client of the fabric.  One per process; `current()` is it."""

    def __init__(
        self, segment: native.Segment, eventfds: Sequence[int], slot: int, generation: int, settings: Settings
    ) -> None:
        self.segment = segment
        self.settings = settings
        self.pid = os.getpid()
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
        self.endpoint.schedule = self._schedule
        self.endpoint.yield_hub = self._yield_hub
        self.room = Room(self.endpoint, self.hub)
        self.membership = Membership(segment, self.endpoint, self.room, settings)
        self.sender = Sender(segment, self.endpoint, self.room, self.membership, settings)
        self.on_event: dict[str, Callable[..., None]] = {}
        self.closing = False
        self.eventfds = list(eventfds)
        self._handlers: dict[str, Callable[..., None]] = {
            "joined": self.membership.on_answer,
            "resync": self._on_resync,
            "refused": self._on_refused,
            "gone": self._on_gone,
            "displaced": self.membership.on_displaced,
        }
        self._events: list[tuple[Any, ...]] = []  # being acted on, the next one last
        self._eventfd = eventfds[slot]
        self._scheduled = False
        loop = self.hub.loop
        self._watcher: Any = loop.io(self._eventfd, 1, ref=False)
        self._watcher.start(self._on_wake)
        self._again: Any = loop.timer(0.0)  # unlike run_callback, lets descriptors have their turn in between
        self._serving_soon = False
        self._descriptors_ns = time.monotonic_ns()
        self._tick = loop.timer(1.0, 1.0, ref=False)
        self._tick.start(self._on_tick)
        self._late = loop.timer(LATE, ref=False)
        self.endpoint.heartbeat()
        self._serve()

    # ---- waking ----

    def _on_wake(self) -> None:
        try:
            self.endpoint.begin_wake()
            self._descriptors_ns = time.monotonic_ns()
            self._serve()
        except MemoryError:
            pass  # _on_tick goes on

    def _serve(self) -> None:
        """Drain until nothing is left, then arm.  In the hub; runs no user code but by switching to whoever waits."""
        endpoint = self.endpoint
        total = 0
        while total < DRAIN_RECORDS:  # whoever could run, but does not wait here, must not see its queue overflow
            taken = endpoint.drain(DRAIN_RECORDS)
            self._deliver()
            self.room.serve()
            if not taken and not endpoint.look() and endpoint.sleep():
                return
            total += taken + DRAIN_RECORDS // ROUNDS
        self._serve_soon()

    def _serve_soon(self) -> None:
        """After whoever can run has run; and, from time to time, after descriptors have had their turn."""
        if self._serving_soon:
            return
        if time.monotonic_ns() - self._descriptors_ns < DESCRIPTORS_NS:
            self.hub.loop.run_callback(self._serve_on)
        else:
            self._again.start(self._serve_after_descriptors)
        self._serving_soon = True

    def _serve_on(self) -> None:
        self._serving_soon = False
        self._serve()

    def _serve_after_descriptors(self) -> None:
        self._descriptors_ns = time.monotonic_ns()
        self._serve_on()

    def _schedule(self) -> None:
        if not self._scheduled:
            self.hub.loop.run_callback(self._deliver)
            self._scheduled = True

    def _deliver(self) -> None:
        self._scheduled = False
        endpoint = self.endpoint
        for _ in range(ROUNDS):
            if not self._events and not endpoint.events and not endpoint.woken:
                return
            all_acted_on = self._act()
            for queue in endpoint.take_woken():
                if queue.waiter is not None:
                    self.room.switch(queue.waiter)
            if not all_acted_on:
                return  # _on_tick goes on, if nothing else does
        self._schedule()

    def _act(self) -> bool:
        """On what came, in order; False: there is no memory for one, which stays with what is behind it.

        A handler may be called again with what it has raised MemoryError for.
        """
        if not self._events:
            self._events, self.endpoint.events = self.endpoint.events, []
            self._events.reverse()
        while self._events:
            event = self._events[-1]
            handle: Callable[..., None] = self._handlers.get(event[0], self._on_other)
            try:
                handle(*event)
            except MemoryError:
                return False
            except Exception:
                log.exception("event %r failed", event[0])
            self._events.pop()
        return True

    def _yield_hub(self) -> None:
        if getcurrent() is not self.hub:
            gevent.sleep(0)

    def _on_tick(self) -> None:
        """Once a second: the heartbeat, and a look for a call that was lost (docs/hazards.md, H14)."""
        endpoint = self.endpoint
        endpoint.heartbeat()
        if not self._watcher.active:  # gevent stops it when its callback raises
            self._watcher.start(self._on_wake)
        if self._is_late():  # or its caller is between showing and calling: it gets a moment
            self._late.start(self._on_late)
            return
        endpoint.expire(BODY_AGE_NS, BODY_PRESSED_NS)
        self.sender.flush_aborts()
        self._serve()

    def _on_late(self) -> None:
        if self._is_late():
            self.endpoint.count(native.worker_counter_index["late_wakeups"], 1)
        self._serve()

    def _is_late(self) -> bool:
        """It sleeps, something is there, and nobody has called."""
        asleep = not self._serving_soon and not self._scheduled
        return asleep and self.endpoint.something() and not self._readable()

    def _readable(self) -> bool:
        poll = _poll()
        poll.register(self._eventfd, select.POLLIN)
        return bool(poll.poll(0))

    def _on_other(self, kind: str, *facts: Any) -> None:
        handler = self.on_event.get(kind)
        if handler is not None:
            handler(*facts)

    def _on_refused(self, _: str, source: int, correlation: int, name: bytes, why: str) -> None:
        answers.send(self, source, correlation, None, ChannelsError(why))

    def _on_gone(self, kind: str, slot: int, generation: int) -> None:
        self.room.peer_gone(slot)
        self._on_other(kind, slot, generation)

    def _on_resync(self, kind: str) -> None:
        self.membership.ask_again()
        self._on_other(kind)

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
        for watcher in (self._watcher, self._tick, self._late, self._again):
            watcher.stop()
            watcher.close()


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
    """A child of the application's: its copy of our eventfds must not steal wake-ups (docs/hazards.md, H11)."""
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
