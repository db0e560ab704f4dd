"""Requests that belong to one worker: whoever accepted one reads its head and passes it on to the owner.

Runs in: worker, in the hub.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

from channels import passing
from channels.assignment import Inbox
from channels.core import native
from channels.worker.client import Client
from channels.worker.http.bind import family_and_name
from channels.worker.http.connection import Connection
from channels.worker.http.head import Head
from channels.worker.http.server import Server
from channels.worker.keys import KeyFunction, Owners, Place, may_serve

log = logging.getLogger("channels")

RETRY = 0.005  # seconds between two looks whether the owner may serve

_INDEX = native.worker_counter_index
_NUMBER, _SINCE, _OWN, _GUEST = (_INDEX[f"keys_{name}"] for name in ("number", "since_ns", "own", "guest"))


class Sticky:
    """The server's `on_head`."""

    def __init__(
        self, key: KeyFunction, client: Client, inboxes: Sequence[Inbox], number: int, numbers: int, timeout: float
    ) -> None:
        self._key = key
        self._segment = client.segment
        self._endpoint = client.endpoint
        self._inboxes = inboxes
        self._owners = Owners(numbers)
        self._timeout = timeout
        self._loop = client.hub.loop
        self._running: dict[Any, int] = {}  # connection -> the counter that its request is counted in
        self._timers: set[Any] = set()
        set_count = client.endpoint.set_count
        set_count(_OWN, 0)
        set_count(_GUEST, 0)
        set_count(_SINCE, time.monotonic_ns())
        set_count(_NUMBER, number + 1)

    def _places(self) -> list[Place]:
        found = []
        segment = self._segment
        for slot in range(1, segment.slots):
            generation, _, attached, ready, _ = segment.slot(slot)
            if not generation & 1 or attached != generation:
                continue
            number = segment.worker_counter(slot, _NUMBER)
            if number:
                found.append(
                    Place(
                        slot,
                        number - 1,
                        segment.worker_counter(slot, _SINCE),
                        ready == generation,
                        segment.worker_counter(slot, _OWN),
                        segment.worker_counter(slot, _GUEST),
                    )
                )
        return found

    def __call__(self, connection: Connection, head: Head) -> bool:
        """Serve it here, pass it on, or let it wait; False for a request without a key."""
        try:
            key = self._key(head.environ)
        except Exception:
            log.exception("sticky: no key for %s %s", head.environ["REQUEST_METHOD"], head.environ["RAW_URI"])
            key = None
        if key is None:
            return False
        body = key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogateescape")
        self._place(connection, head, body, time.monotonic() + self._timeout)
        return True

    def _place(self, connection: Connection, head: Head, key: bytes, deadline: float) -> None:
        if connection.closed:
            return
        now = time.monotonic()
        number, place = self._owners.owner(key, self._places(), now)
        if place is not None and place.slot == self._endpoint.slot:
            if self._begin(connection, place, number):
                if connection.detached:
                    connection.take_up()
                connection.serve(head)
                return
        elif place is not None and self._pass(connection, head, place.slot):
            return
        if now >= deadline:
            log.error("sticky: no worker for %s within %g s", head.environ["RAW_URI"], self._timeout)
            connection.refuse_head(503, "no worker for it")
            return
        if not connection.detached:
            connection.set_aside()
        timer = self._loop.timer(RETRY)
        self._timers.add(timer)
        timer.start(self._again, timer, connection, head, key, deadline)

    def _again(self, timer: Any, connection: Connection, head: Head, key: bytes, deadline: float) -> None:
        self._timers.discard(timer)
        timer.close()
        self._place(connection, head, key, deadline)

    def _begin(self, connection: Connection, place: Place, number: int) -> bool:
        """Count it as running, then look once more: others may come or go at the same moment."""
        counter = _OWN if number == place.number else _GUEST
        self._endpoint.count(counter, 1)
        places = self._places()
        own = [one for one in places if one.slot == place.slot]
        still = number == place.number or number not in {one.number for one in places}
        if own and still and may_serve(own[0], number, places):
            self._running[connection] = counter
            return True
        self._endpoint.count(counter, -1)
        return False

    def _pass(self, connection: Connection, head: Head, slot: int) -> bool:
        data = connection.buffer
        sent = passing.give(
            self._inboxes[slot].write,
            passing.HTTP,
            " ".join(connection.address).encode() + b"\n" + head.raw + data,
            connection.fileno(),
        )
        if sent:
            connection.close()
        return sent

    def done(self, connection: Any) -> None:
        """The request on this connection is over."""
        counter = self._running.pop(connection, None)
        if counter is not None:
            self._endpoint.count(counter, -1)


def adopt(server: Server, data: bytes, fd: int) -> None:
    """A connection that another process has passed on: who the client is, and what was read of it."""
    line, _, read = data.partition(b"\n")
    host, _, port = line.decode("latin-1").partition(" ")
    try:
        unix = family_and_name(fd)[0] == socket.AF_UNIX
        server.adopt(fd, read, "" if unix else (host, int(port or 0)))
    except (OSError, ValueError) as error:
        log.warning("a connection that was passed on cannot be taken: %s", error)
        os.close(fd)
