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

from channels import identity, passing
from channels import log as logs
from channels.assignment import Inbox
from channels.core import native
from channels.master.control import ControlSocket
from channels.master.dispatch import NOBODY_PAUSE, Dispatcher
from channels.master.processes import receive_fds, send_fds
from channels.master.routing import Routing, Spilled, pack_spilled, unpack_spilled
from channels.settings import Settings

log = logging.getLogger("channels")

LINGER = 5.0  # seconds beyond graceful_timeout that a router without a supervisor waits for workers


class RouterProcess:
    """Words over the link: "go", "bury SLOT GENERATION", "park", "reopen" and "stop" come; "prepared", "up",
    "buried ...", "quarantine ..." and "parked" (with a descriptor of what was spilled) go."""

    def __init__(
        self,
        segment: native.Segment,
        eventfds: Sequence[int],
        inboxes: Sequence[Inbox],
        settings: Settings,
        link: socket.socket,
        control: socket.socket | None,
        listeners: Sequence[socket.socket] = (),
    ) -> None:
        self.segment = segment
        self.eventfds = eventfds
        self.inboxes = list(inboxes)
        self.control = control
        self.listeners = listeners  # to accept on, for the workers
        self.settings = settings
        self.link = link
        self.hub = gevent.get_hub()
        self._io = self.hub.loop.io(link.fileno(), 1)
        self._passing_on: set[int] = set()  # slots of the dead, while connections wait there

    def run(self, candidate: bool) -> int:
        """Until the supervisor says stop, or, when it is gone, until the workers are gone too.

        Args:
            candidate: Another router has the role: prepare, and touch nothing before "go".
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # whoever signals the whole group means the others first
        self.segment.enter("router")
        self.segment.forget_fd()
        identity.drop_privileges(self.settings.user, self.settings.group)
        spilled: Spilled = {}
        if candidate:
            self._say("prepared")
            word, spilled = self._wait_for_go()
            if word != "go":
                return 0
        self.routing = Routing(self.segment, self.eventfds, self.settings, self._on_quarantine, spilled)
        self.routing.router.heartbeat()
        greenlet = gevent.spawn(self.routing.run)
        greenlet.link_exception(lambda dead: os._exit(1))  # a successor goes on where this one stood
        self._say("up")
        if self.control is not None:
            ControlSocket(self.control, self.routing, self.segment, self.inboxes).start()
        routes = self.routing.router
        limit = self.settings.worker_connections
        dispatcher = Dispatcher(self.listeners, self.segment, lambda: routes.live, self.inboxes, limit)
        dispatcher.start()
        try:
            return self._obey(dispatcher, greenlet)
        finally:
            dispatcher.stop()

    def _obey(self, dispatcher: Dispatcher, greenlet: gevent.Greenlet[[], None]) -> int:
        while True:
            message, _ = self._receive()
            word, *numbers = message.split()
            if word == "stop":
                return 0
            if word == "gone":
                dispatcher.stop()
                self._outlive()
                return 0
            if word == "park":
                dispatcher.stop()
                self._park(greenlet)
                return 0
            if word == "bury":
                self._bury(*map(int, numbers))

    def _bury(self, slot: int, generation: int) -> None:
        if self.segment.slot(slot)[0] == generation + 1:  # else this was asked for twice, and the slot is another's now
            try:
                self.routing.bury(slot, generation)
            except MemoryError as error:
                log.error("worker=%d gen=%d: %s; the supervisor asks again", slot, generation, error)
                return
            if slot not in self._passing_on:
                self._passing_on.add(slot)
                gevent.spawn(self._pass_on, slot)
        self._say(f"buried {slot} {generation}")

    def _pass_on(self, slot: int) -> None:
        """Connections that were given to the dead worker and not taken yet go to others, as soon as one is ready.

        Until then they stay where they are, for a successor in the same slot takes them itself.  In a greenlet.
        """
        inbox = self.inboxes[slot]
        try:
            while passing.waits(inbox.read) and slot not in (ready := self._ready()):
                if not ready:
                    gevent.sleep(NOBODY_PAUSE)
                    continue
                passed = passing.take(inbox.read)
                if passed is None:
                    continue
                kind, data, fd = passed
                if not any(passing.give(self.inboxes[other].write, kind, data, fd) for other in ready):
                    passing.give(inbox.write, kind, data, fd)  # everybody is full; here it has just made room
                    gevent.sleep(NOBODY_PAUSE)
                os.close(fd)
                gevent.sleep(0)
        except OSError as error:
            log.warning("connections given to worker=%d wait for its successor: %s", slot, error.strerror)
        finally:
            self._passing_on.discard(slot)

    def _ready(self) -> list[int]:
        """Slots of workers that take connections."""
        found = []
        for slot, live in self.routing.router.live.items():
            generation, _, _, ready, _ = self.segment.slot(slot)
            if generation == live == ready:
                found.append(slot)
        return found

    def _wait_for_go(self) -> tuple[str, Spilled]:
        while True:
            word, fds = self._receive()
            spilled: Spilled = {}
            for fd in fds:
                with os.fdopen(fd, "rb") as file:
                    file.seek(0)
                    spilled = unpack_spilled(file.read())
            if word in ("go", "stop", "gone"):
                return word, spilled

    def _park(self, greenlet: gevent.Greenlet[[], None]) -> None:
        spilled = self.routing.park()
        greenlet.kill()
        fd = os.memfd_create("channels-spill", os.MFD_CLOEXEC)
        with os.fdopen(fd, "wb") as file:
            file.write(pack_spilled(spilled))
            file.flush()
            if not send_fds(self.link, b"parked", [file.fileno()]):
                log.debug("the supervisor does not listen: parked")

    def _receive(self) -> tuple[str, list[int]]:
        """The next word but "reopen"; "gone" when the supervisor is."""
        while True:
            self.hub.wait(self._io)
            message, fds = receive_fds(self.link)
            if message is not None:
                word = message.decode() or "gone"
                if word != "reopen":
                    return word, fds
                logs.reopen()

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
