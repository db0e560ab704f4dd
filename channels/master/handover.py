"""Two masters and one role: who routes while a new binary takes over.

Pure: no clock, no socket.  The word `owner` and its transitions are those of docs/protocol/handover.pml; each side
watches the other's pidfd, so that a death at any step leaves exactly one of them routing; only a new master whose old
one dies before they are introduced gives up.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Union

OFFER_PATIENCE = 10.0  # seconds that the new master may take to accept the role


class Role(enum.IntEnum):
    """Values of the word `owner`."""

    OLD = 0
    OFFERED = 1
    NEW = 2
    STABLE = 3


# ---- what happens ----


@dataclasses.dataclass(frozen=True)
class Said:
    """A word of the other master."""

    word: str
    facts: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class PeerDied:
    status: int


@dataclasses.dataclass(frozen=True)
class RouterPrepared:
    """New side: our router stands ready and does not route yet."""


@dataclasses.dataclass(frozen=True)
class RoleAnswer:
    """How a compare-and-swap of the word ended."""

    won: bool


@dataclasses.dataclass(frozen=True)
class ForeignDied:
    """A worker of the other master is dead."""

    slot: int


Event = Union[Said, PeerDied, RouterPrepared, RoleAnswer, ForeignDied]

# ---- what is to be done ----


@dataclasses.dataclass(frozen=True)
class Say:
    word: str
    facts: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class ExecNew:
    """Fork, execute the new binary, hand over descriptors; the pidfile steps aside."""


@dataclasses.dataclass(frozen=True)
class Restore:
    """There is no other master any more: the pidfile goes back to its name."""


@dataclasses.dataclass(frozen=True)
class ParkRouter:
    """Our router finishes what it has in hand, hands out what it had spilled, and ends."""


@dataclasses.dataclass(frozen=True)
class GoRouter:
    """Our router, prepared before, routes from now on."""


@dataclasses.dataclass(frozen=True)
class ReplaceRouter:
    """Fork a router of our own: the role is ours again."""


@dataclasses.dataclass(frozen=True)
class SetRole:
    """Write the word; with `expect` by compare-and-swap, answered by RoleAnswer."""

    role: Role
    expect: Role | None = None


@dataclasses.dataclass(frozen=True)
class EndPeer:
    """SIGKILL to the other master and its router; on return the router is dead."""

    master: bool


@dataclasses.dataclass(frozen=True)
class Retire:
    """The new master serves: drain our workers, then end.  The listening sockets stay open, they are shared."""


@dataclasses.dataclass(frozen=True)
class GiveUp:
    """New side: the old master took the role back, or has died before this one can do without it."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Note:
    level: str
    text: str


Command = Union[Say, ExecNew, Restore, ParkRouter, GoRouter, ReplaceRouter, SetRole, EndPeer, Retire, GiveUp, Note]


class Old(enum.Enum):
    ASKED = "asked"  # the new binary was executed
    OTHER = "other"  # it has a segment of its own
    SAME = "same"  # it has mapped ours
    PARKING = "parking"  # our router was told to end
    OFFERED = "offered"  # nobody routes; the new one may
    TAKEN = "taken"  # the new one routes
    DONE = "done"  # it serves; we drain
    FAILED = "failed"  # there is no other master (any more)


class OldSide:
    """The master that was asked to upgrade."""

    def __init__(self, patience: float) -> None:
        self.state = Old.ASKED
        self.patience = patience  # seconds for the new master to start, and again for its workers
        self.deadline: float | None = None
        self._ended = False  # we have ended the other: what it had said and was not read does not count

    @property
    def routes(self) -> bool:
        """Whether a router that dies is ours to replace."""
        return self.state in (Old.ASKED, Old.OTHER, Old.SAME, Old.FAILED) or (self.state is Old.DONE and self._kept)

    _kept = False

    @property
    def succeeds(self) -> bool:
        """Whether the other, while it lives, will serve instead of us."""
        return self.state is not Old.FAILED

    def start(self, now: float) -> list[Command]:
        self.deadline = now + self.patience
        return [Note("info", "upgrade: executing the new binary"), ExecNew()]

    def handle(self, event: Event, now: float) -> list[Command]:
        if isinstance(event, PeerDied):
            return self._peer_died(event)
        if isinstance(event, RoleAnswer):
            return self._answered(event, now)
        if not isinstance(event, Said) or self._ended:
            return []
        word = event.word
        if self.state is Old.ASKED and word == "hello":
            return self._greeted(bool(event.facts and event.facts[0]), now)
        if self.state is Old.SAME and word == "prepared":
            self.state, self.deadline = Old.PARKING, now + OFFER_PATIENCE
            return [ParkRouter()]
        if self.state is Old.OFFERED and word == "taken":
            self.state, self.deadline = Old.TAKEN, now + self.patience
            return [Note("info", "upgrade: the new master routes")]
        if self.state in (Old.TAKEN, Old.OTHER) and word == "stable":
            self._kept = self.state is Old.OTHER
            self.state, self.deadline = Old.DONE, None
            return [Note("info", "upgrade: the new master serves; draining"), Retire()]
        return []

    def _greeted(self, same: bool, now: float) -> list[Command]:
        self.state, self.deadline = (Old.SAME if same else Old.OTHER), now + self.patience
        if same:
            return [Note("info", "upgrade: the new master has joined this segment")]
        return [
            Note(
                "warning",
                "upgrade: the new master has another layout or other sizes, so a segment of its own: its workers "
                "and ours do not share channels",
            )
        ]

    def router_gone(self, now: float) -> list[Command]:
        """Our router has ended; was that asked for?"""
        if self.state is not Old.PARKING:
            return []
        self.state, self.deadline = Old.OFFERED, now + OFFER_PATIENCE
        return [SetRole(Role.OFFERED), Say("offered")]

    def tick(self, now: float) -> list[Command]:
        if self.deadline is None or now < self.deadline:
            return []
        self.deadline = now + OFFER_PATIENCE
        if self.state is Old.OFFERED:
            return [SetRole(Role.OLD, expect=Role.OFFERED)]
        self._ended = True
        return [
            Note("error", f"upgrade: the new master did not get beyond '{self.state.value}' in time; ending it"),
            EndPeer(master=True),
        ]

    def _answered(self, answer: RoleAnswer, now: float) -> list[Command]:
        if self.state is not Old.OFFERED:
            return []
        if not answer.won:  # it was faster; if it hangs before it says so, it is ended in time
            self.state, self.deadline = Old.TAKEN, now + self.patience
            return [Note("info", "upgrade: the new master routes")]
        self.state = Old.FAILED
        return [
            Note("error", "upgrade: the new master did not take the role in time; going on without it"),
            Say("refused"),
            EndPeer(master=True),
            ReplaceRouter(),
            Restore(),
        ]

    def _peer_died(self, event: PeerDied) -> list[Command]:
        state, self.deadline = self.state, None
        if state is Old.FAILED or (state is Old.DONE and self._kept):
            return []
        self.state = Old.FAILED
        died = f"the new master died (status {event.status})"
        said = f"{died}; finishing without it" if state is Old.DONE else f"upgrade failed: {died}; this one goes on"
        commands: list[Command] = [Note("error", said), Restore()]
        if state in (Old.OFFERED, Old.TAKEN, Old.DONE):
            # The other is dead, and on return of EndPeer so is its router: nobody else can write the word.
            commands += [EndPeer(master=False), SetRole(Role.OLD), ReplaceRouter()]
        return commands


class New(enum.Enum):
    JOINING = "joining"
    PREPARED = "prepared"  # our router waits for the role
    ROUTING = "routing"
    STABLE = "stable"
    APART = "apart"  # a segment of our own


class NewSide:
    """The master that an upgrade has started."""

    def __init__(self, same: bool) -> None:
        self.same = same
        self.state = New.JOINING if same else New.APART
        self._introduced = False  # the old master has told of its router and its workers

    @property
    def routes(self) -> bool:
        return self.state is not New.JOINING and self.state is not New.PREPARED

    @property
    def succeeds(self) -> bool:
        """Whether the other, while it lives, would serve instead of us."""
        return self.state is not New.STABLE

    def start(self) -> list[Command]:
        return [Say("hello", (int(self.same),))]

    def handle(self, event: Event, now: float) -> list[Command]:
        if isinstance(event, RouterPrepared) and not self.routes:  # again where it stands in for one that died
            self.state = New.PREPARED
            return [Say("prepared")]
        if isinstance(event, RouterPrepared):
            return [GoRouter()]  # the role is ours already: a successor, or the old master has died meanwhile
        if isinstance(event, Said) and event.word == "introduced":
            self._introduced = True
            return []
        if isinstance(event, Said) and event.word == "offered" and self.state is New.PREPARED:
            return [SetRole(Role.NEW, expect=Role.OFFERED)]
        if isinstance(event, Said) and event.word == "refused" and not self.routes:
            return [GiveUp("the old master took its role back")]
        if isinstance(event, RoleAnswer) and self.state is New.PREPARED:
            if not event.won:
                return [GiveUp("the old master took its role back")]
            self.state = New.ROUTING
            return [GoRouter(), Say("taken")]
        if isinstance(event, PeerDied):
            return self._peer_died()
        return []

    def _peer_died(self) -> list[Command]:
        if self.state in (New.ROUTING, New.STABLE, New.APART):
            return [Note("info", "the old master has ended"), Restore()]
        if not self._introduced:  # its router, which outlives it, cannot be ended, nor its workers' slots be avoided
            return [GiveUp("the old master died before it told of its router and its workers")]
        waiting = self.state is New.PREPARED
        self.state = New.ROUTING
        # Its router outlives it for its workers' sake; ours takes over at once.
        commands: list[Command] = [
            Note("error", "the old master died before it handed over its role; taking it"),
            EndPeer(master=False),
            SetRole(Role.NEW),
            Restore(),
        ]
        return [*commands, GoRouter()] if waiting else commands

    def settled(self) -> list[Command]:
        """All our workers are ready."""
        if self.state is New.ROUTING:
            self.state = New.STABLE
            return [SetRole(Role.STABLE), Say("stable")]
        if self.state is New.APART:
            self.state = New.STABLE
            return [Say("stable")]
        return []
