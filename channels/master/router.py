"""The router process: the routing greenlet and the greenlets around it.

Runs in: router.  A child of the supervisor like the workers, in slot 0.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Sequence

import gevent

from channels.core import native
from channels.master.routing import Routing
from channels.settings import Settings

log = logging.getLogger("channels")

LINGER = 5.0  # seconds beyond graceful_timeout that a router without a supervisor waits for workers
LINK_BYTES = 65536


class RouterProcess:
    """Words over the link: "bury SLOT GENERATION" comes, "up", "buried ..." and "quarantine ..." go."""

    def __init__(
        self, segment: native.Segment, eventfds: Sequence[int], settings: Settings, link: socket.socket
    ) -> None:
        segment.enter("router")
        self.segment = segment
        self.settings = settings
        self.link = link
        self.routing = Routing(segment, eventfds, settings, self._on_quarantine)

    def run(self) -> int:
        """Until the supervisor says stop, or, when it is gone, until the workers are gone too."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # whoever signals the whole group means the others first
        self.routing.router.heartbeat()
        hub = gevent.get_hub()
        greenlet = gevent.spawn(self.routing.run)
        greenlet.link_exception(lambda dead: os._exit(1))  # a successor goes on where this one stood
        self._say("up")
        io = hub.loop.io(self.link.fileno(), 1)
        while True:
            hub.wait(io)
            try:
                message = self.link.recv(LINK_BYTES, socket.MSG_DONTWAIT).decode()
            except BlockingIOError:
                continue
            except OSError:
                message = ""
            if message == "stop":
                return 0
            if not message:
                io.close()
                self._outlive()
                return 0
            word, *numbers = message.split()
            if word == "bury":
                slot, generation = map(int, numbers)
                self.routing.bury(slot, generation)
                self._say(f"buried {slot} {generation}")

    def _say(self, message: str) -> None:
        try:
            self.link.send(message.encode(), socket.MSG_NOSIGNAL)
        except OSError:
            log.debug("the supervisor does not listen: %s", message)

    def _on_quarantine(self, slot: int, generation: int, reason: str) -> None:
        self._say(f"quarantine {slot} {generation} {reason}")

    def _outlive(self) -> None:
        """The supervisor was killed: the workers finish what they have, and need a router for that."""
        log.error("the supervisor is gone; routing until the workers are")
        deadline = time.monotonic() + self.settings.graceful_timeout + LINGER
        while time.monotonic() < deadline and any(map(self._alive, self.routing.router.live)):
            gevent.sleep(0.1)

    def _alive(self, slot: int) -> bool:
        pid = self.segment.slot(slot)[1]
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                return stat.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
        except OSError:
            return False
