"""Serving HTTP in a worker: the server, tied to the segment, the supervisor and the cores.

Runs in: worker.
"""

from __future__ import annotations

import logging
import random
import time
from typing import Any, Callable

import gevent

from channels import passing
from channels.assignment import Assignment
from channels.core import native
from channels.errors import BadSetting, ChannelsError, Draining, Restarting
from channels.settings import Settings
from channels.worker import control, streams, subscription
from channels.worker.application import WSGIApplication, load
from channels.worker.client import Client
from channels.worker.http.accept import AcceptPolicy
from channels.worker.http.config import HttpConfig
from channels.worker.http.exchange import Exchange
from channels.worker.http.server import NEVER, Server
from channels.worker.inbox import InboxReader
from channels.worker.keys import parse
from channels.worker.sticky import Sticky, adopt
from channels.worker.streams import StreamStart

log = logging.getLogger("channels")

OTHERS_FRESH = 0.1  # seconds for which the list of workers that accept is believed; their counts are read each time
ON_THE_WAY = 0.05  # seconds for connections that the router gave before it saw that this worker drains
DRAIN_LOOK = 0.25  # seconds between looks for streams that began after the drain

_COUNTER = native.worker_counter_index


def http_config(settings: Settings) -> HttpConfig:
    """What of the settings is the HTTP server's.  Raises BadSetting."""
    sni = {}
    for entry in settings.sni:
        name, _, files = entry.partition("=")
        certificate, colon, key = files.partition(":")
        if not colon:
            raise BadSetting("sni", entry, "is not NAME=CERTFILE:KEYFILE")
        sni[name] = (certificate, key)
    same = {field for field in HttpConfig.__dataclass_fields__ if hasattr(settings, field)} - {"sni"}
    return HttpConfig(multiprocess=settings.workers > 1, sni=sni, **{field: getattr(settings, field) for field in same})


class Neighbours:
    """How many connections each other worker has that accepts."""

    def __init__(self, client: Client) -> None:
        self._segment = client.segment
        self._own = client.endpoint.slot
        self._slots: list[int] = []
        self._until = 0.0

    def connections(self) -> list[int]:
        now = time.monotonic()
        if now >= self._until:
            self._until = now + OTHERS_FRESH
            self._slots = [slot for slot in range(1, self._segment.slots) if slot != self._own and self._accepts(slot)]
        index = _COUNTER["connections"]
        return [self._segment.worker_counter(slot, index) for slot in self._slots]

    def _accepts(self, slot: int) -> bool:
        generation, _, attached, ready, _ = self._segment.slot(slot)
        return bool(generation & 1) and attached == generation == ready


class Serving:
    """The HTTP server of one worker."""

    def __init__(self, given: Assignment, client: Client, application: WSGIApplication) -> None:
        self.on_leaving: Callable[[str], None] = lambda reason: None
        self._settings = settings = given.settings
        self._endpoint = client.endpoint
        self._leaving = False
        self._dispatched = settings.accept == "dispatch"  # the router accepts
        neighbours = Neighbours(client)
        self.server = server = Server(
            [*given.listeners, *given.others],
            application,
            http_config(settings),
            bind_request=self._bind,
            unbind_request=self._unbind,
            accept_policy=AcceptPolicy(neighbours.connections) if settings.accept == "load" else None,
        )
        for listener in server.listeners[len(given.listeners) :]:
            listener.guest = True
        self._stats = server.stats
        self._streams = streams.current()
        server.on_stream = self._take_stream
        server.on_connections = self._count_connections
        if settings.max_requests:
            server.requests_limit = settings.max_requests + random.randint(0, settings.max_requests_jitter)
            server.limit_reached = lambda: self._leave(f"max_requests={settings.max_requests}")
        self._sticky = self._make_sticky(given, client) if settings.sticky else None
        server.on_head = self._sticky
        self._age: Any = None
        if settings.max_age:
            age = settings.max_age + random.uniform(0, settings.max_age_jitter)
            self._age = server.loop.timer(age, ref=False)
        self._inbox = InboxReader(
            given.inboxes[given.slot].read,
            {
                passing.CONTROL: lambda line, fd: gevent.spawn(control.serve, line, fd, settings.message_max),
                passing.HTTP: lambda data, fd: adopt(server, data, fd),
            },
        )

    @staticmethod
    def _make_sticky(given: Assignment, client: Client) -> Sticky:
        settings = given.settings
        if settings.certfile:
            raise BadSetting("sticky", settings.sticky, "does not go with certfile: TLS cannot move between processes")
        key = parse(settings.sticky, lambda text: load(text, settings.chdir))
        return Sticky(key, client, given.inboxes, given.number, settings.workers, settings.sticky_timeout)

    # ---- what the segment shows of it ----

    def _bind(self, connection: Any) -> subscription.Seat:
        self._endpoint.set_count(_COUNTER["requests_running"], self._stats.running)
        return subscription.seat_request(connection)

    def _unbind(self, seat: subscription.Seat) -> None:
        seat.close()
        if self._sticky is not None:
            self._sticky.done(seat.watcher)
        set_count = self._endpoint.set_count
        set_count(_COUNTER["requests_running"], max(self._stats.running - 1, 0))
        set_count(_COUNTER["requests_total"], self._stats.requests)
        if self._stats.timeouts:
            set_count(_COUNTER["requests_timed_out"], self._stats.timeouts)

    def _count_connections(self, change: int) -> None:
        self._endpoint.count(_COUNTER["connections"], change)
        if change > 0:
            self._endpoint.count(_COUNTER["connections_total"], change)

    def _take_stream(self, exchange: Exchange, start: Any) -> bool:
        """Event streams that need nothing of their application any more are written natively."""
        if type(start) is not StreamStart or not exchange.give_away():
            return False

        def ended(what: str) -> None:
            exchange.connection.gone = exchange.connection.gone or what == "gone"
            exchange.complete()

        try:
            self._streams.take_over(start, exchange.connection.fileno(), exchange.chunked, ended)
        except BaseException as error:
            exchange.take_back()
            if isinstance(error, (ChannelsError, OSError)):
                return False
            raise
        if self._sticky is not None:
            self._sticky.done(exchange.connection)
        return True

    # ---- life ----

    def start(self) -> None:
        if not self._dispatched:
            self.server.start()
        self._inbox.start()
        if self._age is not None:
            self._age.start(self._leave, f"max_age={self._settings.max_age:g}")

    def _leave(self, reason: str) -> None:
        """Served enough: ask for a successor, and go on until it is there."""
        self.server.requests_limit = NEVER
        if not self._leaving:
            self._leaving = True
            self.on_leaving(reason)

    def flush(self) -> None:
        """Write what is buffered."""
        if self.server.access_log is not None:
            self.server.access_log.flush()

    def reopen(self) -> None:
        """After a log rotation."""
        if self.server.access_log is not None:
            self.server.access_log.reopen()

    def drain(self, seconds: float, last: bool) -> None:
        """Take nothing new; what runs may finish, streams are told to end, one after the other.

        Args:
            last: Nobody else listens: what the kernel has queued is still accepted.
        """
        deadline = time.monotonic() + seconds
        self.server.begin_drain(last)
        if self._dispatched:
            gevent.sleep(ON_THE_WAY)
        ending = gevent.spawn(self._end_streams, Draining if last else Restarting, seconds)
        self.server.wait_empty(max(deadline - time.monotonic(), 0.0))
        ending.kill()
        self.server.stop(max(deadline - time.monotonic(), 0.0))
        subscription.drain_cores()

    def _end_streams(self, reason: type[Draining], seconds: float) -> None:
        spread = min(self._settings.drain_spread, seconds * 0.8)
        gevent.spawn(self._streams.drain, spread)
        cores = list(subscription.open_cores())
        pause = spread / max(len(cores), 1)
        for core in cores:
            core.end(reason)
            gevent.sleep(pause)
        while True:  # those that came over connections that were open
            subscription.drain_cores(reason)
            gevent.sleep(DRAIN_LOOK)
