"""An upgrade's part of the supervisor: what the other master says is heard, what handover.py decides is carried out.

Runs in: supervisor.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Callable

from channels.errors import BadSetting
from channels.master import handover, lifecycle, processes, upgrade, words
from channels.master.control_path import ControlPath
from channels.master.estate import Estate
from channels.master.pidfile import PidFile

log = logging.getLogger("channels")

Watch = Callable[[int, Callable[[], None]], None]  # descriptor, what to call when it is readable


class Succession:
    """The other master, if there is one, and what changes hands between the two."""

    def __init__(
        self,
        estate: Estate,
        life: lifecycle.Lifecycle,
        pidfile: PidFile | None,
        control: ControlPath,
        post: Callable[[words.Event], None],
    ) -> None:
        self.peer = estate.peer
        self.router: processes.Process | None = None  # ours, kept up to date by the master
        self.workers: dict[int, processes.Process] = {}  # the same
        self._estate = estate
        self._life = life
        self._pidfile = pidfile
        self._control = control
        self._post = post
        self._spill_fd = -1  # what a parked router had spilled, until it is handed on

    # ---- hearing ----

    def watch(self, watch: Watch) -> None:
        """What of the other master's is to be polled."""
        peer = self.peer
        if peer is None:
            return
        if not peer.process.hung_up:
            watch(peer.process.link.fileno(), self._read)
        if self._life.other.peer_alive:
            watch(peer.process.pidfd, self._look)
        for slot, pidfd in peer.workers.items():
            watch(pidfd, lambda slot=slot: self._foreign_died(slot))  # type: ignore[misc]

    def _read(self) -> None:
        while self.peer is not None:
            received = self.peer.receive()
            if received is None:
                return
            word, facts, fds = received
            if word == "forked" and fds:
                self.peer.workers[facts[0]] = fds.pop()
                self._post(words.Foreign(*facts))
            elif word in ("router", "prepared") and fds:
                self.peer.meet_router(fds.pop())
            elif word == "offered" and fds:
                self.take_spill(fds.pop())
            for fd in fds:
                os.close(fd)
            self._post(handover.Said(word, facts))

    def _look(self) -> None:
        if self.peer is not None and self.peer.is_dead():
            self._read()
            self._post(handover.PeerDied(self.peer.status()))

    def _foreign_died(self, slot: int) -> None:
        assert self.peer is not None
        os.close(self.peer.workers.pop(slot))
        self._post(handover.ForeignDied(slot))

    def forget_if_over(self) -> None:
        """The other master and its workers are dead, and that was handled."""
        if self.peer is not None and not self._life.other.peer_alive and not self.peer.workers:
            self.peer.close()
            self.peer = None

    def take_spill(self, fd: int) -> None:
        """What our parked router, or the other master's, had spilled."""
        self._close_spill()
        self._spill_fd = fd

    def _close_spill(self) -> None:
        if self._spill_fd >= 0:
            os.close(self._spill_fd)
            self._spill_fd = -1

    def close_in_child(self) -> None:
        if self.peer is not None:
            self.peer.close_in_child()
        self._close_spill()

    # ---- carrying out ----

    def carry_out(self, command: handover.Command) -> None:
        """Those of handover.py that are not the lifecycle's own."""
        if isinstance(command, handover.Say):
            self._say(command)
        elif isinstance(command, handover.Restore):
            self._restore()
        elif isinstance(command, handover.ParkRouter):
            if self.router is None or not self.router.send(b"park"):
                log.warning("upgrade: the router is not there to be parked")
        elif isinstance(command, handover.GoRouter):
            self._go_router()
        elif isinstance(command, handover.SetRole):
            self._set_role(command)
        elif isinstance(command, handover.EndPeer) and self.peer is not None:
            self.peer.end(command.master)

    def execute(self, environment: Mapping[str, str]) -> None:
        """The new binary, with what it inherits; the pidfile steps aside."""
        if self._pidfile is not None:
            self._pidfile.step_aside()
        estate = self._estate
        try:
            self.peer = upgrade.execute(
                estate.segment,
                estate.eventfds,
                estate.listeners,
                estate.other_fds(),
                environment,
            )
        except OSError as error:
            log.error("upgrade: the new master cannot be forked: %s", error)
            self._post(handover.PeerDied(1))

    def _say(self, command: handover.Say) -> None:
        if self.peer is None:
            return
        fds: list[int] = []
        if command.word == "forked":
            fds = [self.workers[command.facts[0]].pidfd]
        elif command.word in ("router", "prepared") and self.router is not None:
            fds = [self.router.pidfd]
        elif command.word == "offered" and self._spill_fd >= 0:
            fds = [self._spill_fd]
        self.peer.say(command.word, command.facts, fds)
        if command.word == "stable":
            self.write_pidfile()

    def write_pidfile(self) -> None:
        """Nobody else serves any more, or soon: without the file this one serves on."""
        if self._pidfile is not None:
            try:
                self._pidfile.write()
            except BadSetting as error:
                log.error("going on without a pidfile: %s", error)

    def _restore(self) -> None:
        if self._pidfile is not None:
            if self._life.other.new is not None and self._life.other.old is None:
                self.write_pidfile()
            else:
                self._pidfile.step_back()
        if self._life.other.routes:
            self._control.publish()
        self._close_spill()

    def _go_router(self) -> None:
        if self.router is not None:
            self.router.send_fds(b"go", [self._spill_fd] if self._spill_fd >= 0 else [])
        self._control.publish()
        self._close_spill()

    def _set_role(self, command: handover.SetRole) -> None:
        expect = None if command.expect is None else int(command.expect)
        won = self._estate.segment.set_owner(int(command.role), expect)
        if command.expect is not None:
            self._post(handover.RoleAnswer(won))
