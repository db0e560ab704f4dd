"""The supervisor's loop: wait, ask lifecycle, carry out.

Plain Python, one thread, no event loop of gevent's: a forked child would go on running its greenlets (HAZARDS H12).  Reads
nothing of the segment but state words.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from typing import Callable

from channels import log as logs
from channels.core import native
from channels.errors import BadSetting, ChannelsError
from channels.master import lifecycle, limits, listeners, processes, signals
from channels.master.children import Phase
from channels.master.router import RouterProcess
from channels.settings import Settings

log = logging.getLogger("channels")

WorkerEntry = Callable[[native.Segment, Sequence[int], int, int, Settings, Sequence[socket.socket], socket.socket], int]
TICK = 1.0  # seconds between two looks at the heartbeats
HEARTBEAT_SLACK = 1.0  # a heartbeat is written once a second
FINAL_WAIT = 2.0


class Master:
    """One server: its segment, its router, its workers."""

    def __init__(
        self, settings: Settings, run_worker: WorkerEntry, reload_settings: Callable[[], Settings] | None = None
    ) -> None:
        self.settings = settings
        self._run_worker = run_worker
        self._reload_settings = reload_settings
        size = native.segment_size(
            settings.slots, settings.ring_size, settings.ring_size, settings.alert_ring_size, settings.channels_max
        )
        limits.raise_descriptors()
        limits.check(settings, size, limits.memory_free())
        self.listeners = [listeners.open_listener(text) for text in settings.bind]
        self.segment = native.Segment.create(
            settings.slots,
            settings.ring_size,
            settings.ring_size,
            settings.alert_ring_size,
            settings.channels_max,
            os.urandom(16),
            time.time_ns() // 1000,
        )
        self.eventfds = [native.make_eventfd() for _ in range(settings.slots)]
        self.segment.enter("supervisor")
        self.life = lifecycle.Lifecycle(_limits(settings), range(1, settings.slots))
        self.workers: dict[int, processes.Process] = {}
        self.router: processes.Process | None = None
        self._inbox: signals.Inbox | None = None
        self._status: int | None = None
        self._queue: list[lifecycle.Event] = []
        self._next_beat = 0.0

    # ---- the loop ----

    def run(self) -> int:
        """Serve until told to stop; the exit status."""
        self._inbox = signals.Inbox()
        log.info(
            "channels: pid=%d listening on %s, %d workers, segment of %.1f MiB",
            os.getpid(),
            ", ".join(map(listeners.shown, self.listeners)),
            self.settings.workers,
            self.segment.size / (1 << 20),
        )
        gc.collect()
        gc.freeze()  # what children share stays shared
        self._handle(lifecycle.Started())
        while self._status is None:
            self._wait()
            while self._queue and self._status is None:
                self._handle(self._queue.pop(0))
        self._finish()
        return self._status

    def _wait(self) -> None:
        """Put into the queue what happened."""
        assert self._inbox is not None
        now = time.monotonic()
        due = min(self.life.next_deadline() or now + TICK, self._next_beat or now)
        poll = select.poll()
        poll.register(self._inbox.fileno(), select.POLLIN)
        owners: dict[int, int | None] = {}
        for slot, process in self.workers.items():
            child = self.life.children.get(slot)
            if not process.hung_up:
                owners[process.link.fileno()] = slot
                poll.register(process.link.fileno(), select.POLLIN)
            if child is not None and child.phase is not Phase.DEAD:
                owners[process.pidfd] = slot
                poll.register(process.pidfd, select.POLLIN)
        if self.router is not None:
            for fd in (self.router.pidfd, *([] if self.router.hung_up else [self.router.link.fileno()])):
                owners[fd] = None
                poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(max(due - now, 0.0) * 1000)]
        # Deaths first: what a signal then asks for is asked of those who live.
        for fd in ready:
            if fd in owners:
                slot = owners[fd]
                self._from_router(fd) if slot is None else self._from_worker(slot, fd)
        if self._inbox.fileno() in ready:
            self._queue += [lifecycle.Verb(name) for name in self._inbox.verbs()]
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + TICK
            self._look_at_heartbeats()
        deadline = self.life.next_deadline()
        if deadline is not None and now >= deadline:
            self._queue.append(lifecycle.Tick())

    def _from_worker(self, slot: int, fd: int) -> None:
        process = self.workers[slot]
        if fd == process.pidfd:
            status = process.peek()
            if status is not None:
                self._read_link(slot, process)  # its last words come before its death
                self._queue.append(lifecycle.Died(slot, status))
        else:
            self._read_link(slot, process)

    def _read_link(self, slot: int, process: processes.Process) -> None:
        while True:
            message = process.receive()
            if not message:
                return
            word, _, rest = message.decode(errors="replace").partition(" ")
            if word == "ready":
                self._queue.append(lifecycle.Ready(slot))
            elif word == "leaving":
                self._queue.append(lifecycle.WantsOut(slot, rest))

    def _from_router(self, fd: int) -> None:
        router = self.router
        if router is None:
            return
        while True:
            message = router.receive()
            if not message:
                break
            word, *rest = message.decode(errors="replace").split(" ", 3)
            if word == "up":
                self._queue.append(lifecycle.RouterUp())
            elif word == "buried":
                self._queue.append(lifecycle.Buried(int(rest[0]), int(rest[1])))
            elif word == "quarantine":
                self._queue.append(lifecycle.Quarantined(int(rest[0]), int(rest[1]), rest[2]))
        if fd == router.pidfd:
            status = router.peek()
            if status is not None:
                router.reap()
                self.router = None
                self._queue.append(lifecycle.RouterDied(status))

    def _look_at_heartbeats(self) -> None:
        if not self.settings.timeout:
            return
        now_ns = time.monotonic_ns()
        for child in self.life.children.in_phase(Phase.READY, Phase.DRAINING):
            beat = self.segment.slot(child.slot)[4]
            age = (now_ns - beat) / 1e9
            if age > self.settings.timeout + HEARTBEAT_SLACK:
                self._queue.append(lifecycle.Silent(child.slot, age))

    # ---- carrying out ----

    def _handle(self, event: lifecycle.Event) -> None:
        if isinstance(event, lifecycle.Verb) and not self._prepare(event.name):
            return
        for command in self.life.handle(event, time.monotonic()):
            _CARRY_OUT[type(command)](self, command)

    def _prepare(self, verb: str) -> bool:
        """What a verb needs before it is decided; False: it cannot be done."""
        if verb == "reopen":
            logs.reopen()
        elif verb == "upgrade":
            log.error("upgrade: not configured")
            return False
        elif verb == "reload" and self._reload_settings is not None:
            try:
                self._apply(self._reload_settings())
            except ChannelsError as error:
                log.error("reload refused, the old settings stay: %s", error)
                return False
        return True

    def _apply(self, fresh: Settings) -> None:
        """Settings that a reload can change; those of the segment and the sockets need an upgrade."""
        fixed = ("channels_max", "ring_size", "alert_ring_size", "max_workers", "bind")
        changed = [name for name in fixed if getattr(fresh, name) != getattr(self.settings, name)]
        if changed:
            raise BadSetting(changed[0], getattr(fresh, changed[0]), "cannot change by a reload; restart the server")
        if fresh.workers > self.life.limits.max_workers:
            raise BadSetting("workers", fresh.workers, f"must be at most max_workers={self.life.limits.max_workers}")
        self.settings = fresh
        self.life.limits = _limits(fresh)
        self.life.target = fresh.workers

    def _fork_worker(self, command: lifecycle.ForkWorker) -> None:
        slot, generation = command.slot, command.generation

        def main(link: socket.socket) -> int:
            return self._run_worker(self.segment, self.eventfds, slot, generation, self.settings, self.listeners, link)

        self.segment.set_slot(slot, generation, 0)
        try:
            process = processes.fork(main, self._close_in_child)
        except OSError as error:
            self._queue.append(lifecycle.ForkFailed(slot, str(error)))
            return
        self.workers[slot] = process
        self.segment.set_slot(slot, generation, process.pid)
        self._queue.append(lifecycle.Forked(slot, process.pid))

    def _fork_router(self, _: lifecycle.ForkRouter) -> None:
        def main(link: socket.socket) -> int:
            for listener in self.listeners:
                listener.close()
            return RouterProcess(self.segment, self.eventfds, self.settings, link).run()

        try:
            self.router = processes.fork(main, self._close_in_child)
        except OSError as error:
            log.error("the router cannot be forked: %s", error)
            self._queue.append(lifecycle.RouterDied(1))

    def _close_in_child(self) -> None:
        for process in [*self.workers.values(), *([self.router] if self.router is not None else [])]:
            process.close()
        if self._inbox is not None:
            self._inbox.close()

    def _tell(self, command: lifecycle.Tell) -> None:
        process = self.workers.get(command.slot)
        if process is not None and not process.send(command.word.encode()) and command.word == "abort":
            process.kill(signal.SIGKILL)

    def _kill(self, command: lifecycle.Kill) -> None:
        process = self.workers.get(command.slot)
        if process is not None:
            process.kill(signal.SIGKILL if command.signal == "KILL" else signal.SIGUSR2)

    def _vacate(self, command: lifecycle.Vacate) -> None:
        self.segment.set_slot(command.slot, command.generation, 0)

    def _bury(self, command: lifecycle.Bury) -> None:
        if self.router is not None:
            self.router.send(f"bury {command.slot} {command.generation}".encode())

    def _reap(self, command: lifecycle.Reap) -> None:
        self.workers.pop(command.slot).reap()

    def _stop_router(self, _: lifecycle.StopRouter) -> None:
        if self.router is not None:
            self.router.send(b"stop")

    def _stop_listening(self, _: lifecycle.StopListening) -> None:
        listeners.refuse_new(self.listeners)
        for listener in self.listeners:
            listener.close()
        self.listeners = []

    def _report(self, command: lifecycle.Report) -> None:
        log.log(getattr(logging, command.level.upper()), "%s", command.text)

    def _notify(self, command: lifecycle.Notify) -> None:
        log.debug("state: %s", command.state)

    def _exit(self, command: lifecycle.Exit) -> None:
        self._status = command.status

    def _finish(self) -> None:
        """Whoever is left ends now, and nobody stays a zombie."""
        left = [*self.workers.values(), *([self.router] if self.router is not None else [])]
        deadline = time.monotonic() + FINAL_WAIT
        for process in left:
            if process is not self.router:
                process.kill(signal.SIGKILL)
        for process in left:
            if not process.wait_dead(deadline - time.monotonic()):
                process.kill(signal.SIGKILL)
                process.wait_dead(FINAL_WAIT)
            process.reap()
        if self._inbox is not None:
            self._inbox.close()
        log.info("stopped: status=%d", self._status or 0)


def _limits(settings: Settings) -> lifecycle.Limits:
    return lifecycle.Limits(
        workers=settings.workers,
        max_workers=settings.max_workers or 2 * settings.workers,
        graceful_timeout=settings.graceful_timeout,
        boot_timeout=settings.boot_timeout,
    )


_CARRY_OUT: dict[type, Callable[..., None]] = {
    lifecycle.ForkWorker: Master._fork_worker,
    lifecycle.ForkRouter: Master._fork_router,
    lifecycle.Tell: Master._tell,
    lifecycle.Kill: Master._kill,
    lifecycle.Vacate: Master._vacate,
    lifecycle.Bury: Master._bury,
    lifecycle.Reap: Master._reap,
    lifecycle.StopRouter: Master._stop_router,
    lifecycle.StopListening: Master._stop_listening,
    lifecycle.Report: Master._report,
    lifecycle.Notify: Master._notify,
    lifecycle.Exit: Master._exit,
}
