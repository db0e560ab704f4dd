"""The other master of an upgrade, as the lifecycle sees it: who routes, whose dead are whose.

Pure: no clock, no pid of its own, no system call.  How the role goes from one to the other is handover.py's.
"""

from __future__ import annotations

from typing import Protocol, Union

from channels.master import handover, words
from channels.master.children import Child, Children

Command = Union[words.Command, handover.Command]


class Server(Protocol):
    """What is asked of the lifecycle."""

    children: Children
    router_up: bool

    def do(self, command: Command) -> None:
        """Behind what is to be done already."""

    def report(self, level: str, text: str) -> None: ...

    def bury(self, slot: int, generation: int) -> None:
        """By whoever routes; when nobody does, it is asked again."""

    def bury_all(self) -> None: ...

    def forget_router(self) -> bool:
        """Start none in the place of one that died, if that is still to be done; whether it was."""

    def buried(self, event: words.Buried) -> None: ...

    def fork_router(self) -> None: ...

    def retire(self) -> None:
        """The other serves on the same sockets: end without refusing anybody."""

    def give_up(self) -> None: ...


class TwoMasters:
    """This one, and another one while there is an upgrade and until its last worker is gone."""

    def __init__(self, server: Server, new: handover.NewSide | None) -> None:
        self.new = new  # this master was started by an upgrade
        self.old: handover.OldSide | None = None  # this master was asked to upgrade
        self.peer_alive = new is not None
        self.foreign: dict[int, int] = {}  # slot -> generation of the other master's workers
        self._foreign_dead: set[int] = set()
        self._foreign_buried: dict[int, int] = {}  # slot -> generation
        self._peer_leaves = False  # it was told to stop
        self._server = server

    @property
    def routes(self) -> bool:
        """Whether the router is ours: else the other master's buries our dead."""
        return (self.old is None or self.old.routes) and (self.new is None or self.new.routes)

    @property
    def accepts(self) -> bool:
        """Whether connections on our sockets are the other's when we stop: it serves, or will."""
        side = self.old or self.new
        return side is not None and side.succeeds and self.peer_alive and not self._peer_leaves

    @property
    def deadline(self) -> float | None:
        return self.old.deadline if self.old is not None else None

    # ---- what the lifecycle tells ----

    def started(self) -> None:
        if self.new is not None:
            self._perform(self.new.start())

    def settled(self) -> None:
        """All our workers are ready."""
        if self.new is not None:
            self._perform(self.new.settled())

    def stopping(self) -> None:
        """This one was told to: the other must not count on it."""
        if self.peer_alive:
            self._server.do(handover.Say("leaving"))

    def upgrade(self, patience: float, now: float) -> None:
        """Begin one, unless the last is not over."""
        server = self._server
        if self.peer_alive:
            server.report("warning", "upgrade: the other master is still there, wait for its end")
            return
        if self.foreign:
            server.report("warning", "upgrade: workers of the last one are still there, wait for their end")
            return
        self.old = handover.OldSide(patience)
        self.peer_alive, self._peer_leaves = True, False
        server.children.keep_out(server.children.slots - server.children.held())  # the others are the new master's
        self._perform(self.old.start(now))

    def tick(self, now: float) -> None:
        if self.old is not None:
            self._perform(self.old.tick(now))

    def router_gone(self, now: float) -> bool:
        """Our router has ended; True: that was asked for."""
        commands = self.old.router_gone(now) if self.old is not None else []
        self._perform(commands)
        return bool(commands)

    def router_forked(self) -> None:
        """At once: the other has to end it should it outlive us."""
        if self.peer_alive:
            self._server.do(handover.Say("router"))

    def forked(self, child: Child) -> None:
        if self.peer_alive:
            self._server.do(handover.Say("forked", (child.slot, child.generation)))

    def bury_dead(self) -> None:
        """Those that are ours to bury since the other master is gone."""
        if not self.peer_alive:
            for slot, generation in self.foreign.items():
                if slot in self._foreign_dead:
                    self._server.bury(slot, generation)

    def buried(self, event: words.Buried) -> bool:
        """True: it was the other master's."""
        if self.foreign.get(event.slot) != event.generation:
            return False
        server = self._server
        del self.foreign[event.slot]
        self._foreign_buried[event.slot] = event.generation
        self._foreign_dead.discard(event.slot)
        server.children.adopt(event.slot, event.generation + 1)
        if self.peer_alive:
            server.do(handover.Say("buried", (event.slot, event.generation)))
        else:
            server.children.keep_out(set(self.foreign))
        return True

    def introduced(self, event: words.Foreign) -> None:
        """A worker of the other's."""
        self.foreign[event.slot] = event.generation
        self._server.children.adopt(event.slot, event.generation)

    # ---- what the other master says and does ----

    def handle(self, event: handover.Event, now: float) -> None:
        if isinstance(event, handover.Said) and self._hears(event):
            return
        if isinstance(event, handover.ForeignDied):
            self._foreign_died(event.slot)
            return
        if isinstance(event, handover.PeerDied):
            self.peer_alive = False
        side = self.old or self.new
        if side is not None:
            self._perform(side.handle(event, now))
        if self.old is not None and self.old.state is handover.Old.PARKING and self._server.forget_router():
            self._perform(self.old.router_gone(now))  # it had died: nobody is there to be parked
        if isinstance(event, handover.PeerDied):
            self._inherit()
        elif isinstance(event, handover.Said) and event.word == "hello":
            self._introduce()
        elif isinstance(event, handover.Said) and event.word == "taken":
            self._server.bury_all()

    def _hears(self, said: handover.Said) -> bool:
        """What concerns workers rather than the role."""
        server = self._server
        if said.word == "held":
            server.children.keep_out(set(said.facts))
        elif said.word == "bury":
            slot, generation = said.facts
            if self._foreign_buried.get(slot) == generation:  # asked for again: the answer was late, or is lost
                server.do(handover.Say("buried", said.facts))
                return True
            self.foreign[slot] = generation
            if server.router_up and self.routes:
                server.do(words.Bury(slot, generation))
        elif said.word == "buried":
            server.buried(words.Buried(*said.facts))
        elif said.word == "leaving":
            self._peer_leaves = True
        else:
            return False
        return True

    def _introduce(self) -> None:
        """Old side: what the new master has to know of us before it forks anything."""
        children = self._server.children
        self._server.do(handover.Say("held", tuple(sorted(children.held()))))
        self._server.do(handover.Say("router"))
        for child in children.all():
            self._server.do(handover.Say("forked", (child.slot, child.generation)))
        self._server.do(handover.Say("introduced"))

    def _foreign_died(self, slot: int) -> None:
        """While its own master lives, that one sees to it."""
        self._foreign_dead.add(slot)
        generation = self.foreign.get(slot)
        if not self.peer_alive and generation is not None:
            self._server.do(words.Vacate(slot, generation + 1))
            self._server.bury(slot, generation)

    def _inherit(self) -> None:
        """The other master is gone: its workers, which drain now, are ours to bury."""
        self._server.children.keep_out(set(self.foreign))
        for slot in self.foreign:
            if slot in self._foreign_dead:
                self._foreign_died(slot)

    def _perform(self, commands: list[handover.Command]) -> None:
        """Pass on what the shell does, do what is the lifecycle's own."""
        server = self._server
        for command in commands:
            if isinstance(command, handover.Note):
                server.report(command.level, command.text)
            elif isinstance(command, handover.Retire):
                server.retire()
            elif isinstance(command, handover.ReplaceRouter):
                server.router_up = False
                server.fork_router()
            elif isinstance(command, handover.GiveUp):
                server.report("error", f"upgrade: {command.reason}")
                server.give_up()
            else:
                server.do(command)
