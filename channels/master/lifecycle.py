"""What the master must do about what happens: (state, event) -> commands.

Pure: no clock, no pid of its own, no system call.  `docs/lifecycle.md` shows the tables of this file as pictures.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Callable, Union

from channels.master.children import Child, Children, Phase

LIVED_LONG = 10.0  # seconds; who lived so long is replaced at once
BACKOFF_FIRST = 0.5
BACKOFF_MAX = 15.0
DUMP_GRACE = 1.0  # seconds between asking for the stacks and SIGKILL
ABORT_GRACE = 2.0  # seconds between "end at once" and SIGKILL
ROUTER_QUICK = 1.0  # a router that lived shorter is replaced after a pause
STATUS_BOOT = 3  # no worker could start
STATUS_APP = 4  # the application could not be imported


# ---- events ----


@dataclasses.dataclass(frozen=True)
class Started:
    """The server begins."""


@dataclasses.dataclass(frozen=True)
class Forked:
    slot: int
    pid: int


@dataclasses.dataclass(frozen=True)
class ForkFailed:
    slot: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Ready:
    """The worker has imported the application and accepts."""

    slot: int


@dataclasses.dataclass(frozen=True)
class WantsOut:
    """The worker has served enough; it goes on until its successor is ready."""

    slot: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Died:
    """The worker is a zombie."""

    slot: int
    status: int  # as os.waitstatus_to_exitcode: negative for a signal


@dataclasses.dataclass(frozen=True)
class Buried:
    """The router has cleaned up after it."""

    slot: int
    generation: int


@dataclasses.dataclass(frozen=True)
class Silent:
    """Its loop has not turned for `timeout` seconds."""

    slot: int
    age: float


@dataclasses.dataclass(frozen=True)
class Quarantined:
    """The router has found that it breaks the rules of the segment."""

    slot: int
    generation: int
    reason: str


@dataclasses.dataclass(frozen=True)
class RouterUp:
    pass


@dataclasses.dataclass(frozen=True)
class RouterDied:
    status: int


@dataclasses.dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclasses.dataclass(frozen=True)
class Verb:
    """What a signal asks for: "stop", "quit", "reload", "more", "fewer", "drain_workers", "reopen", "upgrade"."""

    name: str


Event = Union[
    Started, Forked, ForkFailed, Ready, WantsOut, Died, Buried, Silent, Quarantined, RouterUp, RouterDied, Tick, Verb
]

# ---- commands ----


@dataclasses.dataclass(frozen=True)
class ForkWorker:
    slot: int
    generation: int
    batch: int


@dataclasses.dataclass(frozen=True)
class ForkRouter:
    pass


@dataclasses.dataclass(frozen=True)
class Tell:
    """A word to a worker: "drain", "abort" or "reopen"."""

    slot: int
    word: str


@dataclasses.dataclass(frozen=True)
class Kill:
    slot: int
    signal: str  # "KILL", or "DUMP": the signal that makes it log its stacks


@dataclasses.dataclass(frozen=True)
class Vacate:
    """Write the even generation: nobody holds the slot any more."""

    slot: int
    generation: int


@dataclasses.dataclass(frozen=True)
class Bury:
    """Ask the router to clean up; asked again when there is a new router."""

    slot: int
    generation: int


@dataclasses.dataclass(frozen=True)
class Reap:
    slot: int


@dataclasses.dataclass(frozen=True)
class StopRouter:
    pass


@dataclasses.dataclass(frozen=True)
class StopListening:
    """No new connections for good; those that the kernel has queued are still accepted by the workers."""


@dataclasses.dataclass(frozen=True)
class Report:
    """A line for the log."""

    level: str
    text: str


@dataclasses.dataclass(frozen=True)
class Notify:
    """The state of the server, for whoever supervises the supervisor: "ready", "reloading", "stopping"."""

    state: str


@dataclasses.dataclass(frozen=True)
class Exit:
    status: int


Command = Union[ForkWorker, ForkRouter, Tell, Kill, Vacate, Bury, Reap, StopRouter, StopListening, Report, Notify, Exit]


class Mode(enum.Enum):
    RUNNING = "running"
    STOPPING = "stopping"  # everyone drains
    ENDING = "ending"  # everyone ends at once


@dataclasses.dataclass(frozen=True)
class Limits:
    """The settings that this file needs."""

    workers: int
    max_workers: int
    graceful_timeout: float
    boot_timeout: float


class Lifecycle:
    """The state of a server and the one place that decides."""

    def __init__(self, limits: Limits, slots: range) -> None:
        self.limits = limits
        self.children = Children(slots)
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
        self._router_up = self._router_ever_up = False
        self._router_started = 0.0
        self._router_at: float | None = None
        self._settled = False  # all that were wanted have been ready once since the start or the last reload

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
        times += [self._retry_at, self._router_at]
        return min((time for time in times if time is not None), default=None)

    # ---- events ----

    def _started(self, _: Started) -> None:
        self._fork_router()

    def _fork_router(self) -> None:
        self._router_at = None
        self._router_started = self._now
        self._do(ForkRouter())

    def _router_up_event(self, _: RouterUp) -> None:
        self._router_up = self._router_ever_up = True
        for child in self.children.in_phase(Phase.DEAD):
            self._do(Bury(child.slot, child.generation))

    def _router_died(self, event: RouterDied) -> None:
        self._router_up = False
        if self.mode is not Mode.RUNNING and not len(self.children):
            return
        if not self._router_ever_up:
            self._report("error", f"the router cannot start (status {event.status}); giving up")
            self._give_up(STATUS_BOOT)
            return
        self._report("error", f"router died (status {event.status}); workers and streams go on, starting another")
        if self._now - self._router_started < ROUTER_QUICK:
            self._router_at = self._now + BACKOFF_FIRST
        else:
            self._fork_router()

    def _forked(self, event: Forked) -> None:
        child = self.children.get(event.slot)
        if child is not None:
            child.pid = event.pid

    def _fork_failed(self, event: ForkFailed) -> None:
        self.children.vacate(event.slot)
        child = self.children.remove(event.slot)
        self._do(Vacate(child.slot, child.generation + 1))
        self._report("error", f"worker={event.slot} cannot be forked: {event.reason}")
        self._back_off()
        if not self.ever_ready and not len(self.children):
            self._give_up(STATUS_BOOT)

    def _ready(self, event: Ready) -> None:
        child = self.children.get(event.slot)
        if child is None or child.phase is not Phase.STARTING:
            return
        child.phase, child.deadline, child.was_ready = Phase.READY, None, True
        self.ever_ready = True
        self._report("info", f"worker={child.slot} gen={child.generation} pid={child.pid} ready")
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
        self._report(
            "info" if expected and event.status == 0 else "error",
            f"worker={child.slot} gen={child.generation} pid={child.pid} died: {how}",
        )
        child.phase, child.deadline = Phase.DEAD, None
        self._do(Vacate(child.slot, self.children.vacate(child.slot)))
        if self._router_up:
            self._do(Bury(child.slot, child.generation))
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
            self._report("error", f"worker={child.slot}: {why}; giving up, see above")
            self._give_up(STATUS_APP if status == STATUS_APP else STATUS_BOOT)
        elif self.reloading and child.batch == self.batch:
            self._report("error", f"reload aborted: {why}; the old workers go on")
            self._abort_reload()
        else:
            self._report("error", f"worker={child.slot}: {why}; trying again")
            self._back_off()

    def _abort_reload(self) -> None:
        self.reloading = False
        for other in self.children.in_phase(Phase.STARTING, Phase.READY):
            if other.batch == self.batch and not other.was_ready:
                self._end_now(other)
        # Those of the new batch that were ready stay; who is older is as good from here on.
        for other in self.children.all():
            other.batch = self.batch
        self._do(Notify("ready"))

    def _buried(self, event: Buried) -> None:
        child = self.children.get(event.slot)
        if child is None or child.phase is not Phase.DEAD or child.generation != event.generation:
            return
        self.children.remove(event.slot)
        self._do(Reap(event.slot))

    def _silent(self, event: Silent) -> None:
        child = self.children.get(event.slot)
        if child is None or child.phase not in (Phase.READY, Phase.DRAINING) or child.dumped:
            return
        self._report(
            "critical",
            f"worker={child.slot} gen={child.generation} pid={child.pid} harakiri: its loop has not turned for "
            f"{event.age:.1f} s; its stacks follow, then SIGKILL",
        )
        child.dumped = True
        child.phase, child.deadline = Phase.ENDING, self._now + DUMP_GRACE
        self._do(Kill(child.slot, "DUMP"))

    def _quarantined(self, event: Quarantined) -> None:
        child = self.children.get(event.slot)
        if child is None or child.generation != event.generation or child.phase is Phase.DEAD:
            return
        self._report("error", f"worker={child.slot} pid={child.pid} broke the rules of the segment: {event.reason}")
        child.phase, child.deadline = Phase.ENDING, self._now + DUMP_GRACE
        self._do(Kill(child.slot, "KILL"))

    def _tick(self, _: Tick) -> None:
        if self._retry_at is not None and self._now >= self._retry_at:
            self._retry_at = None
        if self._router_at is not None and self._now >= self._router_at:
            self._fork_router()
        for child in self.children.all():
            if child.deadline is None or self._now < child.deadline:
                continue
            if child.phase is Phase.STARTING:
                self._report("error", f"worker={child.slot} pid={child.pid} did not start in time; killed")
            elif child.phase is Phase.DRAINING:
                self._report("warning", f"worker={child.slot} pid={child.pid} did not finish in time; killed")
            if child.phase is Phase.STARTING:
                child.deadline = self._now + DUMP_GRACE
            else:
                child.phase, child.deadline = Phase.ENDING, self._now + DUMP_GRACE
            self._do(Kill(child.slot, "KILL"))

    # ---- verbs ----

    def _verb(self, event: Verb) -> None:
        self._VERBS[event.name](self)

    def _stop(self) -> None:
        """Gracefully; a second time: at once."""
        if self.mode is not Mode.RUNNING:
            self._quit()
            return
        self.mode = Mode.STOPPING
        self._do(Notify("stopping"))
        self._do(StopListening())
        self._report("info", "stopping: requests and streams may finish")
        for child in self.children.in_phase(Phase.READY):
            self._drain(child, "stop")
        for child in self.children.in_phase(Phase.STARTING):
            self._end_now(child)

    def _quit(self) -> None:
        if self.mode is Mode.RUNNING:
            self._do(Notify("stopping"))
            self._do(StopListening())
        if self.mode is not Mode.ENDING:
            self._report("info", "stopping at once")
        self.mode = Mode.ENDING
        for child in self.children.in_phase(Phase.STARTING, Phase.READY, Phase.DRAINING):
            self._end_now(child)

    def _reload(self) -> None:
        if self.mode is not Mode.RUNNING:
            return
        if self.target == 0:
            self.target = self.limits.workers
        self.batch += 1
        self.reloading = True
        self._retry_at, self._backoff = None, 0.0
        for child in self.children.in_phase(Phase.STARTING):  # of an earlier reload
            self._end_now(child)
        self._do(Notify("reloading"))
        self._report("info", f"reloading: batch {self.batch}")

    def _more(self) -> None:
        if self.target >= self.limits.max_workers:
            self._report("warning", f"there are {self.target} workers already; raise the setting max_workers")
            return
        self.target += 1
        self._report("info", f"{self.target} workers from here on")

    def _fewer(self) -> None:
        if self.target > 1:
            self.target -= 1
            self._report("info", f"{self.target} workers from here on")

    def _drain_workers(self) -> None:
        self.target = 0
        self._report("info", "draining the workers; SIGHUP or SIGTTIN brings them back")

    def _reopen(self) -> None:
        for child in self.children.in_phase(Phase.STARTING, Phase.READY, Phase.DRAINING):
            self._do(Tell(child.slot, "reopen"))

    # ---- what follows from the state, whatever happened ----

    def _balance(self) -> None:
        if self.mode is not Mode.RUNNING:
            if not len(self.children):
                self._do(StopRouter())
                self._exit(0)
            return
        current = [child for child in self.children.in_phase(Phase.STARTING, Phase.READY) if child.batch == self.batch]
        starting = [child for child in current if child.phase is Phase.STARTING]
        ready = [child for child in current if child.phase is Phase.READY]
        staying = [child for child in ready if not child.wants_out]
        if self.reloading and len(ready) >= self.target:
            self._finish_reload()
        if not self.reloading and len(ready) > self.target and len(staying) > self.target:
            for child in staying[: len(staying) - self.target]:
                self._drain(child, "fewer workers")
        if not self.reloading and self.target == 0:
            for child in ready:
                self._drain(child, "no workers wanted")
        self._fork_missing(starting, ready, staying)
        if not self.reloading and not self._settled and len(ready) >= self.target > 0:
            self._settled = True
            self._do(Notify("ready"))

    def _finish_reload(self) -> None:
        self.reloading = False
        for child in self.children.in_phase(Phase.READY):
            if child.batch < self.batch:
                self._drain(child, "reload")
        self._settled = True
        self._report("info", f"reloaded: batch {self.batch} serves")
        self._do(Notify("ready"))

    def _fork_missing(self, starting: list[Child], ready: list[Child], staying: list[Child]) -> None:
        if self._retry_at is not None or not self._router_up:
            return
        wanted = self.target - len(staying) - len(starting)
        for child in ready:
            if child.wants_out and child.successor is None and wanted > 0:
                successor = self._fork()
                if successor is None:
                    return
                child.successor = successor.slot
                wanted -= 1
        if self.reloading and not ready:
            wanted = min(wanted, 1 - len(starting))  # one goes ahead: a broken application shows in one worker
        for _ in range(wanted):
            if self._fork() is None:
                return

    def _fork(self) -> Child | None:
        slot = self.children.free_slot()
        if slot is None:
            return None  # when somebody is buried
        child = self.children.add(slot, self.batch, self._now)
        child.deadline = self._now + self.limits.boot_timeout
        self._do(ForkWorker(slot, child.generation, child.batch))
        return child

    # ---- pieces ----

    def _drain(self, child: Child, why: str) -> None:
        child.phase, child.deadline = Phase.DRAINING, self._now + self.limits.graceful_timeout
        self._report("info", f"worker={child.slot} gen={child.generation} pid={child.pid} draining: {why}")
        self._do(Tell(child.slot, "drain"))

    def _end_now(self, child: Child) -> None:
        child.phase, child.deadline = Phase.ENDING, self._now + ABORT_GRACE
        self._do(Tell(child.slot, "abort"))

    def _back_off(self) -> None:
        self._backoff = min(max(self._backoff * 2, BACKOFF_FIRST), BACKOFF_MAX)
        self._retry_at = self._now + self._backoff

    def _give_up(self, status: int) -> None:
        self.mode = Mode.ENDING
        self.exit_status = status
        for child in self.children.in_phase(Phase.STARTING, Phase.READY, Phase.DRAINING):
            self._do(Kill(child.slot, "KILL"))
        self._do(StopRouter())
        self._do(Exit(status))

    def _exit(self, status: int) -> None:
        self.exit_status = status
        self._do(Exit(status))

    def _report(self, level: str, text: str) -> None:
        self._do(Report(level, text))

    def _do(self, command: Command) -> None:
        self._out.append(command)

    _TABLE: dict[type, Callable[..., None]] = {
        Started: _started,
        RouterUp: _router_up_event,
        RouterDied: _router_died,
        Forked: _forked,
        ForkFailed: _fork_failed,
        Ready: _ready,
        WantsOut: _wants_out,
        Died: _died,
        Buried: _buried,
        Silent: _silent,
        Quarantined: _quarantined,
        Tick: _tick,
        Verb: _verb,
    }
    _VERBS: dict[str, Callable[[Lifecycle], None]] = {
        "stop": _stop,
        "quit": _quit,
        "reload": _reload,
        "more": _more,
        "fewer": _fewer,
        "drain_workers": _drain_workers,
        "reopen": _reopen,
    }
