"""What the master must do about what happens: (state, event) -> commands.

Pure: no clock, no pid of its own, no system call.  `docs/lifecycle.md` shows the tables of this file as pictures.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Callable

from channels.master import handover
from channels.master.children import Child, Children, Phase
from channels.master.words import (
    Buried,
    Bury,
    Command,
    Died,
    Event,
    Exit,
    Foreign,
    Forked,
    ForkFailed,
    ForkRouter,
    ForkWorker,
    Kill,
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
DUMP_GRACE = 1.0  # seconds between asking for the stacks and SIGKILL
ABORT_GRACE = 2.0  # seconds between "end at once" and SIGKILL
ROUTER_QUICK = 1.0  # a router that lived shorter is replaced after a pause
STATUS_BOOT = 3  # no worker could start
STATUS_APP = 4  # the application could not be imported


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

    def __init__(self, limits: Limits, slots: range, new: handover.NewSide | None = None) -> None:
        self.limits = limits
        self.new = new  # this master was started by an upgrade
        self.old: handover.OldSide | None = None  # this master was asked to upgrade
        self.peer_alive = new is not None
        self.foreign: dict[int, int] = {}  # slot -> generation of the other master's workers
        self.children = Children(slots)
        self.mode = Mode.RUNNING
        self.target = limits.workers
        self.batch = 1
        self.reloading = False
        self.ever_ready = False
        self.exit_status: int | None = None
        self._now = 0.0
        self._out: list[Command | handover.Command] = []
        self._retry_at: float | None = None  # no fork before
        self._backoff = 0.0
        self._router_up = self._router_ever_up = False
        self._router_started = 0.0
        self._router_at: float | None = None
        self._foreign_dead: set[int] = set()
        self._settled = False  # all that were wanted have been ready once since the start or the last reload

    def handle(self, event: Event, now: float) -> list[Command | handover.Command]:
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
        times += [self._retry_at, self._router_at, self.old.deadline if self.old is not None else None]
        return min((time for time in times if time is not None), default=None)

    # ---- events ----

    @property
    def routes(self) -> bool:
        """Whether the router is ours: else the other master's buries our dead."""
        return (self.old is None or self.old.routes) and (self.new is None or self.new.routes)

    def _started(self, _: Started) -> None:
        if self.new is not None:
            self._perform(self.new.start())
        self._fork_router()

    def _fork_router(self) -> None:
        self._router_at = None
        self._router_started = self._now
        self._do(ForkRouter(candidate=not self.routes))

    def _router_up_event(self, _: RouterUp) -> None:
        self._router_up = self._router_ever_up = True
        self._bury_all()

    def _bury_all(self) -> None:
        for child in self.children.in_phase(Phase.DEAD):
            self._bury(child.slot, child.generation)
        if not self.peer_alive:
            for slot, generation in self.foreign.items():
                if slot in self._foreign_dead:
                    self._bury(slot, generation)

    def _bury(self, slot: int, generation: int) -> None:
        """By our router, or by the other master's; when there is none now, it is asked again."""
        if not self.routes:
            self._do(handover.Say("bury", (slot, generation)))
        elif self._router_up:
            self._do(Bury(slot, generation))

    def _router_died(self, event: RouterDied) -> None:
        if self.old is not None:
            commands = self.old.router_gone(self._now)
            if commands:
                self._perform(commands)
                return
        self._router_up = False
        if self.mode is not Mode.RUNNING and not len(self.children):
            return
        if not self._router_ever_up and self.new is None:
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
            if self.peer_alive:
                self._do(handover.Say("forked", (child.slot, child.generation)))

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
        self._bury(child.slot, child.generation)
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
        if self.foreign.get(event.slot) == event.generation:
            self._foreign_buried(event)
            return
        if child is None or child.phase is not Phase.DEAD or child.generation != event.generation:
            return
        self.children.remove(event.slot)
        self._do(Reap(event.slot, event.generation))

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
        if self.old is not None:
            self._perform(self.old.tick(self._now))
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
        self._do(StopListening(refuse=True))
        self._report("info", "stopping: requests and streams may finish")
        for child in self.children.in_phase(Phase.READY):
            self._drain(child, "stop", "finish")
        for child in self.children.in_phase(Phase.STARTING):
            self._end_now(child)

    def _quit(self) -> None:
        if self.mode is Mode.RUNNING:
            self._do(Notify("stopping"))
            self._do(StopListening(refuse=True))
        if self.mode is not Mode.ENDING:
            self._report("info", "stopping at once")
        self.mode = Mode.ENDING
        for child in self.children.in_phase(Phase.STARTING, Phase.READY, Phase.DRAINING):
            self._end_now(child)

    def _reload(self) -> None:
        if self.mode is not Mode.RUNNING:
            return
        if self.old is not None and self.peer_alive:
            self._report("warning", "reload: an upgrade is under way, wait for its end")
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
        self._do(Tell(0, "reopen"))

    # ---- two masters ----

    def _upgrade(self) -> None:
        if self.mode is not Mode.RUNNING:
            return
        if self.peer_alive:
            self._report("warning", "upgrade: the other master is still there, wait for its end")
            return
        if self.foreign:
            self._report("warning", "upgrade: workers of the last one are still there, wait for their end")
            return
        self.old = handover.OldSide(self.limits.boot_timeout)
        self.peer_alive = True
        self.children.keep_out(self.children.slots - self.children.held())  # the others are the new master's
        self._perform(self.old.start(self._now))

    def _handover(self, event: handover.Event) -> None:
        if isinstance(event, handover.Said) and self._foreign_word(event):
            return
        if isinstance(event, handover.ForeignDied):
            self._foreign_died(event.slot)
            return
        if isinstance(event, handover.PeerDied):
            self.peer_alive = False
        side = self.old or self.new
        if side is not None:
            self._perform(side.handle(event, self._now))
        if isinstance(event, handover.PeerDied):
            self._inherit()
        elif isinstance(event, handover.Said) and event.word == "hello":
            self._introduce()
        elif isinstance(event, handover.Said) and event.word == "taken":
            self._bury_all()

    def _introduce(self) -> None:
        """Old side: what the new master has to know of us before it forks anything."""
        self._do(handover.Say("held", tuple(sorted(self.children.held()))))
        self._do(handover.Say("router"))
        for child in self.children.all():
            self._do(handover.Say("forked", (child.slot, child.generation)))

    def _foreign_word(self, said: handover.Said) -> bool:
        if said.word == "held":
            self.children.keep_out(set(said.facts))
        elif said.word == "bury":
            slot, generation = said.facts
            self.foreign[slot] = generation
            if self._router_up and self.routes:
                self._do(Bury(slot, generation))
        elif said.word == "buried":
            self._buried(Buried(*said.facts))
        else:
            return False
        return True

    def _foreign_event(self, event: Foreign) -> None:
        self.foreign[event.slot] = event.generation
        self.children.adopt(event.slot, event.generation)

    def _foreign_died(self, slot: int) -> None:
        """While its own master lives, that one sees to it."""
        self._foreign_dead.add(slot)
        generation = self.foreign.get(slot)
        if not self.peer_alive and generation is not None:
            self._do(Vacate(slot, generation + 1))
            self._bury(slot, generation)

    def _foreign_buried(self, event: Buried) -> None:
        del self.foreign[event.slot]
        self._foreign_dead.discard(event.slot)
        self.children.adopt(event.slot, event.generation + 1)
        if self.peer_alive:
            self._do(handover.Say("buried", (event.slot, event.generation)))
        else:
            self.children.keep_out(set(self.foreign))

    def _inherit(self) -> None:
        """The other master is gone: its workers, which drain now, are ours to bury."""
        self.children.keep_out(set(self.foreign))
        for slot in self.foreign:
            if slot in self._foreign_dead:
                self._foreign_died(slot)

    def _perform(self, commands: list[handover.Command]) -> None:
        """Pass on what the shell does, do what is the lifecycle's own."""
        for command in commands:
            if isinstance(command, handover.Note):
                self._report(command.level, command.text)
            elif isinstance(command, handover.Retire):
                self._retire()
            elif isinstance(command, handover.ReplaceRouter):
                self._router_up = False
                self._fork_router()
            elif isinstance(command, handover.GiveUp):
                self._report("error", f"upgrade: {command.reason}")
                self._give_up(STATUS_BOOT)
            else:
                self._do(command)

    def _retire(self) -> None:
        """Another master serves on the same sockets: end without refusing anybody."""
        self.mode = Mode.STOPPING
        self._do(StopListening(refuse=False))
        for child in self.children.in_phase(Phase.READY):
            self._drain(child, "upgrade")
        for child in self.children.in_phase(Phase.STARTING):
            self._end_now(child)

    # ---- what follows from the state, whatever happened ----

    def _balance(self) -> None:
        if self.mode is not Mode.RUNNING:
            if not len(self.children):
                if self.routes:
                    self._do(StopRouter())
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
            self._settled = True
            self._do(Notify("ready"))
            if self.new is not None:
                self._perform(self.new.settled())

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
                successor = self._fork(child.number)
                if successor is None:
                    return
                child.successor = successor.slot
                wanted -= 1
        if self.reloading and not ready:
            wanted = min(wanted, 1 - len(starting))  # one goes ahead: a broken application shows in one worker
        for _ in range(wanted):
            if self._fork(self._free_number()) is None:
                return

    def _free_number(self) -> int:
        """The lowest that no worker of this batch has."""
        taken = {
            child.number for child in self.children.in_phase(Phase.STARTING, Phase.READY) if child.batch == self.batch
        }
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def _fork(self, number: int) -> Child | None:
        slot = self.children.free_slot()
        if slot is None:
            return None  # when somebody is buried
        child = self.children.add(slot, self.batch, number, self._now)
        child.deadline = self._now + self.limits.boot_timeout
        self._do(ForkWorker(slot, child.generation, child.batch, number))
        return child

    # ---- pieces ----

    def _drain(self, child: Child, why: str, word: str = "drain") -> None:
        child.phase, child.deadline = Phase.DRAINING, self._now + self.limits.graceful_timeout
        self._report("info", f"worker={child.slot} gen={child.generation} pid={child.pid} draining: {why}")
        self._do(Tell(child.slot, word))

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

    def _do(self, command: Command | handover.Command) -> None:
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
        Foreign: _foreign_event,
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
