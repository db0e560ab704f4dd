"""What the master must do about what happens: (state, event) -> commands.

Pure: no clock, no pid of its own, no system call.
"""

from __future__ import annotations

import enum
from typing import Callable

from channels.master import handover
from channels.master.children import Child, Children, Phase
from channels.master.two_masters import Command, TwoMasters
from channels.master.words import (
    Buried,
    Bury,
    Died,
    Event,
    Exit,
    Foreign,
    Forked,
    ForkFailed,
    ForkRouter,
    ForkWorker,
    Kill,
    Limits,
    Notify,
    Quarantined,
    Ready,
    Reap,
    Report,
    RouterDied,
    RouterUp,
    Silent,
    Started,
    StopListening,
    StopRouter,
    Tell,
    Tick,
    Vacate,
    Verb,
    WantsOut,
)

LIVED_LONG = 10.0  # seconds; who lived so long is replaced at once
BACKOFF_FIRST = 0.5
BACKOFF_MAX = 15.0
BURY_AGAIN = 1.0  # seconds; a word to the router or its answer was lost
DUMP_GRACE = 1.0  # seconds between asking for the stacks and SIGKILL
ABORT_GRACE = 2.0  # seconds between "end at once" and SIGKILL
ROUTER_QUICK = 1.0  # a router that lived shorter is replaced after a pause
STATUS_BOOT = 3  # no worker could start
STATUS_APP = 4  # the application could not be imported


class Mode(enum.Enum):
    RUNNING = "running"
    STOPPING = "stopping"  # everyone drains
    ENDING = "ending"  # everyone ends at once


class Lifecycle:
    """The state of a server and the one place that decides."""

    def __init__(self, limits: Limits, slots: range, new: handover.NewSide | None = None) -> None:
        self.limits = limits
        self.children = Children(slots)
        self.other = TwoMasters(self, new)
        self.mode = Mode.RUNNING
        self.target = limits.workers
        self.batch = 1
        self.reloading = False
        self.ever_ready = False
        self.exit_status: int | None = None
        self._now = 0.0
        self._out: list[Command] = []
        self._retry_at: float | None = None  # no fork before
        self._backoff = 0.0
        self.router_up = self._router_ever_up = False
        self._router_started = 0.0
        self._router_at: float | None = None
        self._settled = False  # all that were wanted have been ready once since the start or the last reload
        self._retiring = False  # another master has taken over, and nobody has told this one to stop

    def handle(self, event: Event, now: float) -> list[Command]:
        """What is to be done, in this order."""
        self._now = now
        self._out = []
        self._TABLE[type(event)](self, event)
        if self.exit_status is None:
            self._balance()
        return self._out

    def next_deadline(self) -> float | None:
        """When a Tick is due at the latest."""
        times = [child.deadline for child in self.children.all()]
        times += [self._retry_at, self._router_at, self.other.deadline]
        return min((time for time in times if time is not None), default=None)

    # ---- events ----

    def _started(self, _: Started) -> None:
        self.other.started()
        self.fork_router()

    def fork_router(self) -> None:
        self._router_at = None
        self._router_started = self._now
        self.do(ForkRouter(candidate=not self.other.routes))
        self.other.router_forked()

    def _router_is_up(self, _: RouterUp) -> None:
        self.router_up = self._router_ever_up = True
        self.bury_all()

    def forget_router(self) -> bool:
        waiting, self._router_at = self._router_at is not None, None
        return waiting

    def bury_all(self) -> None:
        for child in self.children.in_phase(Phase.DEAD):
            self.bury(child.slot, child.generation)
        self.other.bury_dead()

    def bury(self, slot: int, generation: int) -> None:
        """By our router, or by the other master's; when there is none now, it is asked again."""
        if not self.other.routes:
            self.do(handover.Say("bury", (slot, generation)))
        elif self.router_up:
            self.do(Bury(slot, generation))

    def _router_died(self, event: RouterDied) -> None:
        if self.other.router_gone(self._now):
            return
        self.router_up = False
        if self.mode is not Mode.RUNNING and not len(self.children):
            return
        if not self._router_ever_up and self.other.new is None:
            self.report("error", f"the router cannot start (status {event.status}); giving up")
            self.give_up()
            return
        self.report("error", f"router died (status {event.status}); workers and streams go on, starting another")
        if self._now - self._router_started < ROUTER_QUICK:
            self._router_at = self._now + BACKOFF_FIRST
        else:
            self.fork_router()

    def _forked(self, event: Forked) -> None:
        child = self.children.get(event.slot)
        if child is not None:
            child.pid = event.pid
            self.other.forked(child)

    def _fork_failed(self, event: ForkFailed) -> None:
        self.children.vacate(event.slot)
        child = self.children.remove(event.slot)
        self.do(Vacate(child.slot, child.generation + 1))
        self.report("error", f"worker={event.slot} cannot be forked: {event.reason}")
        self._back_off()
        if not self.ever_ready and not len(self.children):
            self.give_up()

    def _ready(self, event: Ready) -> None:
        child = self.children.get(event.slot)
        if child is None or child.phase is not Phase.STARTING:
            return
        child.phase, child.deadline, child.was_ready = Phase.READY, None, True
        self.ever_ready = True
        self.report("info", f"{child} ready")
        for other in self.children.all():
            if other.successor == child.slot:
                self._drain(other, other.wants_out)
                return
        old = [other for other in self.children.in_phase(Phase.READY) if other.batch < self.batch]
        if old and self.reloading:
            self._drain(old[0], "reload")

    def _wants_out(self, event: WantsOut) -> None:
        child = self.children.get(event.slot)
        if child is not None and child.phase is Phase.READY:
            child.wants_out = event.reason

    def _died(self, event: Died) -> None:
        child = self.children.get(event.slot)
        if child is None or child.phase is Phase.DEAD:
            return
        expected = child.phase in (Phase.DRAINING, Phase.ENDING)
        starting = child.phase is Phase.STARTING
        how = f"signal {-event.status}" if event.status < 0 else f"status {event.status}"
        level = "info" if expected and event.status == 0 else "error"
        self.report(level, f"{child} died: {how}")
        child.phase, child.deadline = Phase.DEAD, self._now + BURY_AGAIN
        self.do(Vacate(child.slot, self.children.vacate(child.slot)))
        self.bury(child.slot, child.generation)
        for other in self.children.all():
            if other.successor == child.slot:
                other.successor = None
        if starting and self.mode is Mode.RUNNING:
            self._boot_failed(child, event.status)
        elif self._now - child.started >= LIVED_LONG:
            self._backoff = 0.0
        elif not expected:
            self._back_off()

    def _boot_failed(self, child: Child, status: int) -> None:
        why = "the application could not be imported" if status == STATUS_APP else "it could not start"
        if not self.ever_ready:
            self.report("error", f"worker={child.slot}: {why}; giving up, see above")
            self.give_up(STATUS_APP if status == STATUS_APP else STATUS_BOOT)
        elif self.reloading and child.batch == self.batch:
            self.report("error", f"reload aborted: {why}; the old workers go on")
            self._abort_reload()
        else:
            self.report("error", f"worker={child.slot}: {why}; trying again")
            self._back_off()

    def _abort_reload(self) -> None:
        self.reloading = False
        for other in self.children.in_phase(Phase.STARTING, Phase.READY):
            if other.batch == self.batch and not other.was_ready:
                self._end_now(other)
        # Those of the new batch that were ready stay; who is older is as good from here on.
        for other in self.children.all():
            other.batch = self.batch
        self.do(Notify("ready"))

    def buried(self, event: Buried) -> None:
        child = self.children.get(event.slot)
        if self.other.buried(event):
            return
        if child is None or child.phase is not Phase.DEAD or child.generation != event.generation:
            return
        self.children.remove(event.slot)
        self.do(Reap(event.slot, event.generation))

    def _silent(self, event: Silent) -> None:
        child = self.children.get(event.slot)
        if child is None or child.phase not in (Phase.READY, Phase.DRAINING) or child.dumped:
            return
        why = f"its loop has not turned for {event.age:.1f} s"
        self.report("critical", f"{child} harakiri: {why}; its stacks follow, then SIGKILL")
        child.dumped = True
        child.phase, child.deadline = Phase.ENDING, self._now + DUMP_GRACE
        self.do(Kill(child.slot, "DUMP"))

    def _quarantined(self, event: Quarantined) -> None:
        child = self.children.get(event.slot)
        if child is None or child.generation != event.generation or child.phase is Phase.DEAD:
            return
        self.report("error", f"{child} broke the rules of the segment: {event.reason}")
        child.phase, child.deadline = Phase.ENDING, self._now + DUMP_GRACE
        self.do(Kill(child.slot, "KILL"))

    def _tick(self, _: Tick) -> None:
        self.other.tick(self._now)
        if self._retry_at is not None and self._now >= self._retry_at:
            self._retry_at = None
        if self._router_at is not None and self._now >= self._router_at:
            self.fork_router()
        for child in self.children.all():
            if child.deadline is None or self._now < child.deadline:
                continue
            if child.phase is Phase.DEAD:
                child.deadline = self._now + BURY_AGAIN
                self.bury(child.slot, child.generation)
                continue
            if child.phase is Phase.STARTING:
                self.report("error", f"{child} did not start in time; killed")
            elif child.phase is Phase.DRAINING:
                self.report("warning", f"{child} did not finish in time; killed")
            if child.phase is not Phase.STARTING:
                child.phase = Phase.ENDING
            child.deadline = self._now + DUMP_GRACE
            self.do(Kill(child.slot, "KILL"))

    # ---- verbs ----

    def _verb(self, event: Verb) -> None:
        self._VERBS[event.name](self)

    def _stop(self) -> None:
        """Gracefully; a second time: at once."""
        if self._retiring:
            self._retiring = False
            self.report("info", "stopping already: the new master serves; again to stop at once")
            return
        if self.mode is not Mode.RUNNING:
            self._quit()
            return
        self.mode = Mode.STOPPING
        word = "drain" if self.other.accepts else "finish"
        self._close_doors()
        self.report("info", "stopping: requests and streams may finish")
        for child in self.children.in_phase(Phase.READY):
            self._drain(child, "stop", word)
        for child in self.children.in_phase(Phase.STARTING):
            self._end_now(child)

    def _quit(self) -> None:
        if self.mode is Mode.RUNNING:
            self._close_doors()
        if self.mode is not Mode.ENDING:
            self.report("info", "stopping at once")
        self.mode = Mode.ENDING
        for child in self.children.in_phase(Phase.STARTING, Phase.READY, Phase.DRAINING):
            self._end_now(child)

    def _close_doors(self) -> None:
        self.do(Notify("stopping"))
        self.do(StopListening(refuse=not self.other.accepts))
        self.other.stopping()

    def _reload(self) -> None:
        if self.mode is not Mode.RUNNING:
            return
        if self.other.old is not None and self.other.peer_alive:
            self.report("warning", "reload: an upgrade is under way, wait for its end")
            return
        if self.target == 0:
            self.target = self.limits.workers
        self.batch += 1
        self.reloading = True
        self._retry_at, self._backoff = None, 0.0
        for child in self.children.in_phase(Phase.STARTING):  # of an earlier reload
            self._end_now(child)
        self.do(Notify("reloading"))
        self.report("info", f"reloading: batch {self.batch}")

    def _more(self) -> None:
        if self.target >= self.limits.max_workers:
            self.report("warning", f"there are {self.target} workers already; raise the setting max_workers")
            return
        self.target += 1
        self.report("info", f"{self.target} workers from here on")

    def _fewer(self) -> None:
        if self.target > 1:
            self.target -= 1
            self.report("info", f"{self.target} workers from here on")

    def _drain_workers(self) -> None:
        self.target = 0
        self.report("info", "draining the workers; SIGHUP or SIGTTIN brings them back")

    def _reopen(self) -> None:
        for child in self.children.in_phase(Phase.STARTING, Phase.READY, Phase.DRAINING):
            self.do(Tell(child.slot, "reopen"))
        self.do(Tell(0, "reopen"))

    # ---- two masters ----

    def _upgrade(self) -> None:
        if self.mode is Mode.RUNNING:
            self.other.upgrade(self.limits.boot_timeout, self._now)

    def _handover(self, event: handover.Event) -> None:
        self.other.handle(event, self._now)

    def _foreign(self, event: Foreign) -> None:
        self.other.introduced(event)

    def retire(self) -> None:
        """Another master serves on the same sockets: end without refusing anybody."""
        self.mode, self._retiring = Mode.STOPPING, True
        self.do(StopListening(refuse=False))
        for child in self.children.in_phase(Phase.READY):
            self._drain(child, "upgrade")
        for child in self.children.in_phase(Phase.STARTING):
            self._end_now(child)

    # ---- what follows from the state, whatever happened ----

    def _balance(self) -> None:
        if self.mode is not Mode.RUNNING:
            if not len(self.children):
                if self.other.routes:
                    self.do(StopRouter())
                self._exit(0)
            return
        current = [child for child in self.children.in_phase(Phase.STARTING, Phase.READY) if child.batch == self.batch]
        starting = [child for child in current if child.phase is Phase.STARTING]
        ready = [child for child in current if child.phase is Phase.READY]
        staying = [child for child in ready if not child.wants_out]
        if self.reloading and len(ready) >= self.target:
            self._finish_reload()
        if not self.reloading and self.target == 0:
            for child in ready:
                self._drain(child, "no workers wanted")
        elif not self.reloading and len(staying) > self.target:
            for child in staying[: len(staying) - self.target]:
                self._drain(child, "fewer workers")
        self._fork_missing(starting, ready, staying)
        if not self.reloading and not self._settled and len(ready) >= self.target > 0:
            self._settle()

    def _settle(self) -> None:
        self._settled = True
        self.do(Notify("ready"))
        self.other.settled()

    def _finish_reload(self) -> None:
        self.reloading = False
        for child in self.children.in_phase(Phase.READY):
            if child.batch < self.batch:
                self._drain(child, "reload")
        self.report("info", f"reloaded: batch {self.batch} serves")
        self._settle()

    def _fork_missing(self, starting: list[Child], ready: list[Child], staying: list[Child]) -> None:
        if self._retry_at is not None or not self.router_up:
            return
        wanted = self.target - len(staying) - len(starting)
        for child in ready:
            if child.wants_out and child.successor is None and wanted > 0:
                successor = self._fork(child.number)
                if successor is None:
                    return
                child.successor = successor.slot
                wanted -= 1
        if self.reloading and not ready:
            wanted = min(wanted, 1 - len(starting))  # one goes ahead: a broken application shows in one worker
        for _ in range(wanted):
            if self._fork(self.children.free_number(self.batch)) is None:
                return

    def _fork(self, number: int) -> Child | None:
        slot = self.children.free_slot()
        if slot is None:
            return None  # when somebody is buried
        child = self.children.add(slot, self.batch, number, self._now)
        child.deadline = self._now + self.limits.boot_timeout
        self.do(ForkWorker(slot, child.generation, child.batch, number))
        return child

    # ---- pieces ----

    def _drain(self, child: Child, why: str, word: str = "drain") -> None:
        child.phase, child.deadline = Phase.DRAINING, self._now + self.limits.graceful_timeout
        self.report("info", f"{child} draining: {why}")
        self.do(Tell(child.slot, word))

    def _end_now(self, child: Child) -> None:
        child.phase, child.deadline = Phase.ENDING, self._now + ABORT_GRACE
        self.do(Tell(child.slot, "abort"))

    def _back_off(self) -> None:
        self._backoff = min(max(self._backoff * 2, BACKOFF_FIRST), BACKOFF_MAX)
        self._retry_at = self._now + self._backoff

    def give_up(self, status: int = STATUS_BOOT) -> None:
        self.mode = Mode.ENDING
        self.exit_status = status
        for child in self.children.in_phase(Phase.STARTING, Phase.READY, Phase.DRAINING):
            self.do(Kill(child.slot, "KILL"))
        self.do(StopRouter())
        self.do(Exit(status))

    def _exit(self, status: int) -> None:
        self.exit_status = status
        self.do(Exit(status))

    def report(self, level: str, text: str) -> None:
        self.do(Report(level, text))

    def do(self, command: Command) -> None:
        self._out.append(command)

    _TABLE: dict[type, Callable[..., None]] = {
        Started: _started,
        RouterUp: _router_is_up,
        RouterDied: _router_died,
        Forked: _forked,
        ForkFailed: _fork_failed,
        Ready: _ready,
        WantsOut: _wants_out,
        Died: _died,
        Buried: buried,
        Silent: _silent,
        Quarantined: _quarantined,
        Tick: _tick,
        Verb: _verb,
        Foreign: _foreign,
        handover.Said: _handover,
        handover.PeerDied: _handover,
        handover.RouterPrepared: _handover,
        handover.RoleAnswer: _handover,
        handover.ForeignDied: _handover,
    }
    _VERBS: dict[str, Callable[[Lifecycle], None]] = {
        "stop": _stop,
        "quit": _quit,
        "reload": _reload,
        "more": _more,
        "fewer": _fewer,
        "drain_workers": _drain_workers,
        "reopen": _reopen,
        "upgrade": _upgrade,
    }
