"""The supervisor's loop: wait, ask lifecycle, carry out.

Plain Python, one thread, no event loop of gevent's: a forked child would go on running its greenlets (H12).
Reads nothing of the segment but state words.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any, Callable

from channels import control, identity
from channels import log as logs
from channels.assignment import Assignment, WorkerEntry
from channels.errors import BadSetting, ChannelsError
from channels.hooks import Hooks, ServerFacts, WorkerFacts
from channels.master import handover, lifecycle, listeners, processes, signals, words
from channels.master.children import Phase
from channels.master.control_path import ControlPath
from channels.master.estate import Estate
from channels.master.pidfile import PidFile
from channels.master.router import RouterProcess
from channels.master.succession import Succession
from channels.master.systemd import Notifier
from channels.settings import FIXED, Settings

log = logging.getLogger("channels")

TICK = 1.0  # seconds between two looks at the heartbeats
HEARTBEAT_SLACK = 1.0  # a heartbeat is written once a second
FINAL_WAIT = 2.0
WORDS_AT_ONCE = 16  # of one worker, before others are listened to
LAST_WORDS = 4096  # of a dead one; its socket holds fewer
ASKABLE = ("reload", "stop")  # verbs that an application may ask for

Load = Callable[[], "tuple[Settings, Hooks]"]


class Master:
    """One server: its segment, its router, its workers."""

    def __init__(
        self,
        settings: Settings,
        hooks: Hooks,
        estate: Estate,
        run_worker: WorkerEntry,
        load: Load,
        application: Callable[..., Any] | None = None,
    ) -> None:
        self.settings = settings
        self.hooks = hooks
        self.estate = estate
        self.workers: dict[int, processes.Process] = {}
        self._router: processes.Process | None = None
        self._run_worker = run_worker
        self._load = load
        self._application = application
        self._pidfile = PidFile(settings.pidfile) if settings.pidfile else None
        self._notifier = Notifier()
        side = handover.NewSide(estate.same) if estate.upgraded else None
        self.life = lifecycle.Lifecycle(_limits(settings), range(1, estate.segment.slots), side)
        for slot in range(1, estate.segment.slots):
            self.life.children.adopt(slot, estate.segment.slot(slot)[0])
        self._inbox: signals.Inbox | None = None
        self._status: int | None = None
        self._queue: list[words.Event] = []
        self._next_beat = 0.0
        self._was_ready = False
        self._control = ControlPath(Path(settings.control) if settings.control else control.path_for(os.getpid()))
        self._other = Succession(estate, self.life, self._pidfile, self._control, self._queue.append)
        self._other.workers = self.workers

    @property
    def router(self) -> processes.Process | None:
        return self._router

    @router.setter
    def router(self, process: processes.Process | None) -> None:
        self._router = self._other.router = process

    # ---- the loop ----

    def run(self) -> int:
        """Serve until told to stop; the exit status."""
        self._inbox = signals.Inbox()
        if self._other.peer is not None:
            if self._pidfile is not None:
                self._pidfile.check()  # while the other master can still go on in our stead
        elif self.estate.upgraded:
            self._other.write_pidfile()
        elif self._pidfile is not None:
            self._pidfile.write()
        log.info(
            "channels: pid=%d listening on %s, %d workers, segment of %.1f MiB",
            os.getpid(),
            ", ".join(listeners.all_shown(self.estate.listeners.values(), bool(self.settings.certfile))),
            self.settings.workers,
            self.estate.segment.size / (1 << 20),
        )
        try:
            self.hooks.call("on_starting", server=self._facts())
        except Exception:
            log.exception("hook on_starting failed")
            self._status = lifecycle.STATUS_BOOT
            self._finish()
            return self._status
        self._control.open()
        if self.life.other.routes:
            self._control.publish()
        gc.collect()
        gc.freeze()  # what children share stays shared
        self._handle(words.Started())
        if self.estate.upgraded and self._other.peer is None:
            self._handle(handover.PeerDied(0))
        while self._status is None:
            self._wait()
            while self._queue and self._status is None:
                self._handle(self._queue.pop(0))
        self._finish()
        return self._status

    def _facts(self) -> ServerFacts:
        return ServerFacts(os.getpid(), self.settings, listeners.all_shown(self.estate.listeners.values()))

    def _wait(self) -> None:
        """Put into the queue what happened."""
        assert self._inbox is not None
        poll = select.poll()
        calls: dict[int, Callable[[], None]] = {}

        def watch(fd: int, call: Callable[[], None]) -> None:
            calls[fd] = call
            poll.register(fd, select.POLLIN)

        for slot, process in self.workers.items():
            child = self.life.children.get(slot)
            if not process.hung_up:
                watch(process.link.fileno(), lambda slot=slot: self._read_worker(slot))  # type: ignore[misc]
            if child is not None and child.phase is not Phase.DEAD:
                watch(process.pidfd, lambda slot=slot: self._look_at_worker(slot))  # type: ignore[misc]
        if self.router is not None:
            if not self.router.hung_up:
                watch(self.router.link.fileno(), self._read_router)
            watch(self.router.pidfd, self._look_at_router)
        self._other.watch(watch)
        now = time.monotonic()
        due = min(self.life.next_deadline() or now + TICK, self._next_beat or now, self._notifier.next_watchdog(now))
        # Deaths before signals: what a signal asks for is asked of those who live.
        poll.register(self._inbox.fileno(), select.POLLIN)
        ready = [fd for fd, _ in poll.poll(max(due - now, 0.0) * 1000)]
        for fd in ready:
            if fd in calls:
                calls[fd]()
        if self._inbox.fileno() in ready:
            self._queue += [words.Verb(name) for name in self._inbox.verbs()]
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + TICK
            self._look_at_heartbeats()
        self._notifier.watchdog(now)
        deadline = self.life.next_deadline()
        if deadline is not None and now >= deadline:
            self._queue.append(words.Tick())

    def _look_at_worker(self, slot: int) -> None:
        process = self.workers[slot]
        status = process.peek()
        if status is not None:
            self._read_worker(slot, LAST_WORDS)  # they come before its death
            self._queue.append(words.Died(slot, status))

    def _read_worker(self, slot: int, most: int = WORDS_AT_ONCE) -> None:
        """What it says is not believed further than it concerns itself; a flood of it waits for its turn."""
        for _ in range(most):
            message = self.workers[slot].receive()
            if not message:
                return
            word, _, rest = message.decode(errors="replace").partition(" ")
            if word == "ready":
                self._queue.append(words.Ready(slot))
            elif word == "leaving":
                self._queue.append(words.WantsOut(slot, rest))
            elif word == "changed" and self.settings.reload and self.life.children.is_ready(slot):
                log.info("%s has changed", rest)
                self._queue.append(words.Verb("reload"))
            elif word == "asks" and rest in ASKABLE:
                self._queue.append(words.Verb(rest))

    def _read_router(self) -> None:
        router = self.router
        while router is not None:
            message, fds = router.receive_fds()
            if not message:
                return
            word, *rest = message.decode(errors="replace").split(" ", 3)
            try:
                if word == "up":
                    self._queue.append(words.RouterUp())
                elif word == "prepared":
                    self._queue.append(handover.RouterPrepared())
                elif word == "buried":
                    self._queue.append(words.Buried(int(rest[0]), int(rest[1])))
                elif word == "quarantine":
                    self._queue.append(words.Quarantined(int(rest[0]), int(rest[1]), rest[2]))
                elif word == "parked" and fds:
                    self._other.take_spill(fds.pop())
            except (ValueError, IndexError):
                log.error("the router says nonsense: %r", message[:100])
            for fd in fds:
                os.close(fd)

    def _look_at_router(self) -> None:
        router = self.router
        status = router.peek() if router is not None else None
        if router is not None and status is not None:
            self._read_router()
            router.reap()
            self.router = None
            self._queue.append(words.RouterDied(status))

    def _look_at_heartbeats(self) -> None:
        if not self.settings.timeout:
            return
        now_ns = time.monotonic_ns()
        for child in self.life.children.in_phase(Phase.READY, Phase.DRAINING):
            age = (now_ns - self.estate.segment.slot(child.slot)[4]) / 1e9
            if age > self.settings.timeout + HEARTBEAT_SLACK:
                self._queue.append(words.Silent(child.slot, age))

    # ---- carrying out ----

    def _handle(self, event: words.Event) -> None:
        if isinstance(event, words.Verb) and not self._prepare(event.name):
            return
        before = self.life.target
        for command in self.life.handle(event, time.monotonic()):
            _CARRY_OUT[type(command)](self, command)
        if self.life.target != before:
            self.hooks.call_safely("nworkers_changed", server=self._facts(), new=self.life.target, old=before)
        if isinstance(event, (handover.PeerDied, handover.ForeignDied)):
            self._other.forget_if_over()

    def _prepare(self, verb: str) -> bool:
        """What a verb needs before it is decided; False: it cannot be done."""
        if verb == "reopen":
            logs.reopen()
        elif verb == "reload":
            try:
                self._apply(*self._load())
            except ChannelsError as error:
                log.error("reload refused, the old settings stay: %s", error)
                self._notifier.state("reloading")
                self._notifier.state("ready")
                return False
            self.hooks.call_safely("on_reload", server=self._facts())
        return True

    def _apply(self, fresh: Settings, hooks: Hooks) -> None:
        """Settings that a reload can change; those of the segment and the sockets need an upgrade."""
        changed = [name for name in FIXED if getattr(fresh, name) != getattr(self.settings, name)]
        if changed:
            raise BadSetting(changed[0], getattr(fresh, changed[0]), "cannot change by a reload; upgrade with SIGUSR2")
        most = self.life.limits.max_workers
        if fresh.workers > most:
            raise BadSetting("workers", fresh.workers, f"a reload can go to max_workers={most}; upgrade with SIGUSR2")
        try:
            logs.setup(fresh.loglevel, fresh.errorlog, identity.owner(fresh.user, fresh.group))
        except OSError as error:
            raise BadSetting("errorlog", fresh.errorlog, f"cannot be written: {error.strerror}") from None
        self.settings, self.hooks = fresh, hooks
        self.life.limits = words.Limits(fresh.workers, most, fresh.graceful_timeout, fresh.boot_timeout)
        self.life.target = fresh.workers

    def _worker_facts(self, slot: int, status: int | None = None) -> WorkerFacts:
        child = self.life.children.get(slot)
        return WorkerFacts(
            slot, child.generation if child else 0, child.pid if child else 0, self.settings, exit_status=status
        )

    def _fork_worker(self, command: words.ForkWorker) -> None:
        slot, generation = command.slot, command.generation
        self.hooks.call_safely("pre_fork", server=self._facts(), worker=self._worker_facts(slot))

        def main(link: socket.socket) -> int:
            self._control.close_in_child()
            own, others = self.estate.listeners_of(command.number)
            return self._run_worker(
                Assignment(
                    segment=self.estate.segment,
                    eventfds=self.estate.eventfds,
                    inboxes=self.estate.inboxes,
                    commons=self.estate.commons,
                    slot=slot,
                    generation=generation,
                    number=command.number,
                    settings=self.settings,
                    hooks=self.hooks,
                    listeners=own,
                    others=others,
                    link=link,
                    application=self._application,
                )
            )

        self.estate.segment.set_slot(slot, generation, 0)
        try:
            process = processes.fork(main, self._close_in_child)
        except OSError as error:
            self._queue.append(words.ForkFailed(slot, str(error)))
            return
        self.workers[slot] = process
        self.estate.segment.set_slot(slot, generation, process.pid)
        self._queue.append(words.Forked(slot, process.pid))

    def _fork_router(self, command: words.ForkRouter) -> None:

        def main(link: socket.socket) -> int:
            accepting = [*self.estate.listeners.values()] if self.settings.accept == "dispatch" else []
            if not accepting:
                for listener in self.estate.listeners.values():
                    listener.close()
            router = RouterProcess(
                self.estate.segment,
                self.estate.eventfds,
                self.estate.inboxes,
                self.settings,
                link,
                self._control.listener,
                accepting,
            )
            return router.run(candidate=command.candidate)

        try:
            self.router = processes.fork(main, self._close_in_child)
        except OSError as error:
            log.error("the router cannot be forked: %s", error)
            self._queue.append(words.RouterDied(1))

    def _close_in_child(self) -> None:
        for process in [*self.workers.values(), *([self.router] if self.router is not None else [])]:
            process.close()
        self._other.close_in_child()
        if self._inbox is not None:
            self._inbox.close()

    def _tell(self, command: words.Tell) -> None:
        process = self.workers.get(command.slot) if command.slot else self.router
        if process is not None and not process.send(command.word.encode()) and command.word == "abort":
            process.kill(signal.SIGKILL)

    def _kill(self, command: words.Kill) -> None:
        process = self.workers.get(command.slot)
        if process is not None:
            process.kill(signal.SIGKILL if command.signal == "KILL" else signal.SIGUSR2)

    def _vacate(self, command: words.Vacate) -> None:
        self.estate.segment.set_slot(command.slot, command.generation, 0)

    def _bury(self, command: words.Bury) -> None:
        if self.router is not None:
            self.router.send(f"bury {command.slot} {command.generation}".encode())

    def _reap(self, command: words.Reap) -> None:
        process = self.workers.pop(command.slot)
        facts = WorkerFacts(command.slot, command.generation, process.pid, self.settings, exit_status=process.peek())
        process.reap()
        self.hooks.call_safely("child_exit", server=self._facts(), worker=facts)

    def _stop_router(self, _: words.StopRouter) -> None:
        if self.router is not None:
            self.router.send(b"stop")

    def _stop_listening(self, command: words.StopListening) -> None:
        if command.refuse:
            listeners.refuse_new(self.estate.own_listeners())
        for listener in self.estate.listeners.values():
            listener.close()
        self.estate.listeners.clear()

    def _report(self, command: words.Report) -> None:
        log.log(getattr(logging, command.level.upper()), "%s", command.text)

    def _notify(self, command: words.Notify) -> None:
        self._notifier.state(command.state)
        if command.state == "ready" and not self._was_ready:
            self._was_ready = True
            self.hooks.call_safely("when_ready", server=self._facts())

    def _exit(self, command: words.Exit) -> None:
        self._status = command.status

    def _exec_new(self, _: handover.ExecNew) -> None:
        self.hooks.call_safely("pre_exec", server=self._facts())
        self._other.execute(self._notifier.environment)

    def _hand_over(self, command: handover.Command) -> None:
        self._other.carry_out(command)

    # ---- the end ----

    def _finish(self) -> None:
        """Whoever is left ends now, and nobody stays a zombie."""
        left = [*self.workers.values(), *([self.router] if self.router is not None else [])]
        deadline = time.monotonic() + FINAL_WAIT
        for process in self.workers.values():
            process.kill(signal.SIGKILL)
        for process in left:
            if not process.wait_dead(deadline - time.monotonic()):
                process.kill(signal.SIGKILL)
                process.wait_dead(FINAL_WAIT)
            process.reap()
        if self._pidfile is not None:
            self._pidfile.remove()
        self._control.close()
        self.hooks.call_safely("on_exit", server=self._facts())
        if self._inbox is not None:
            self._inbox.close()
        log.info("stopped: status=%d", self._status or 0)


def _limits(settings: Settings) -> words.Limits:
    return words.Limits(
        workers=settings.workers,
        max_workers=settings.most_workers,
        graceful_timeout=settings.graceful_timeout,
        boot_timeout=settings.boot_timeout,
    )


_CARRY_OUT: dict[type, Callable[..., None]] = {
    words.ForkWorker: Master._fork_worker,
    words.ForkRouter: Master._fork_router,
    words.Tell: Master._tell,
    words.Kill: Master._kill,
    words.Vacate: Master._vacate,
    words.Bury: Master._bury,
    words.Reap: Master._reap,
    words.StopRouter: Master._stop_router,
    words.StopListening: Master._stop_listening,
    words.Report: Master._report,
    words.Notify: Master._notify,
    words.Exit: Master._exit,
    handover.Say: Master._hand_over,
    handover.ExecNew: Master._exec_new,
    handover.Restore: Master._hand_over,
    handover.ParkRouter: Master._hand_over,
    handover.GoRouter: Master._hand_over,
    handover.SetRole: Master._hand_over,
    handover.EndPeer: Master._hand_over,
}
