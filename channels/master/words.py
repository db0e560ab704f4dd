"""What can happen to a master, and what it can be told to do: the words between lifecycle.py and master.py.

Pure: facts without behaviour.
"""

from __future__ import annotations

import dataclasses
from typing import Union

from channels.master import handover


@dataclasses.dataclass(frozen=True)
class Limits:
    """The settings by which is decided."""

    workers: int
    max_workers: int
    graceful_timeout: float  # seconds
    boot_timeout: float  # seconds


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
class Foreign:
    """A worker of another master holds this slot."""

    slot: int
    generation: int


@dataclasses.dataclass(frozen=True)
class Verb:
    """What a signal asks for: "stop", "quit", "reload", "more", "fewer", "drain_workers", "reopen", "upgrade"."""

    name: str


Event = Union[
    handover.Event,
    Foreign,
    Started,
    Forked,
    ForkFailed,
    Ready,
    WantsOut,
    Died,
    Buried,
    Silent,
    Quarantined,
    RouterUp,
    RouterDied,
    Tick,
    Verb,
]

# ---- commands ----


@dataclasses.dataclass(frozen=True)
class ForkWorker:
    slot: int
    generation: int
    batch: int
    number: int


@dataclasses.dataclass(frozen=True)
class ForkRouter:
    candidate: bool = False  # prepare, and wait for the word before routing


@dataclasses.dataclass(frozen=True)
class Tell:
    """A word to a worker: "drain" (others go on accepting), "finish" (nobody does), "abort" or "reopen".

    Slot 0 is the router; it is told "reopen" alone.
    """

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
    generation: int


@dataclasses.dataclass(frozen=True)
class StopRouter:
    pass


@dataclasses.dataclass(frozen=True)
class StopListening:
    """Close the listening sockets here.

    `refuse`: nobody else listens, so no new connection may come in; those that the kernel has queued are still accepted
    by the workers.
    """

    refuse: bool


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
