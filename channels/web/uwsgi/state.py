"""What the calls of the module share in this process: what was registered, and, in a worker, what it was given.

Registering works before the fork too (`preload_app`): plain dicts that the workers inherit.
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any, Callable

import gevent
from gevent import monkey
from greenlet import getcurrent

from channels.assignment import Assignment
from channels.core.commons import plan
from channels.core.commons.memory import Commons
from channels.core.commons.roster import Roster
from channels.settings import Settings
from channels.worker import client as fabric

NAME_MAX = 255


@dataclasses.dataclass(frozen=True)
class Peer:
    """A worker that is ready, as its row in the roster tells it."""

    slot: int
    generation: int
    pid: int
    number: int  # 1 to numproc
    facts: dict[str, Any]


class State:
    """One per process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.number = 0  # uWSGI's worker id; 0 in the master
        self.master_pid = os.getpid()
        self.started = int(time.time())
        self.given: Assignment | None = None
        self.commons: Commons | None = None
        self.roster: Roster | None = None
        self.signals: dict[int, tuple[str, Callable[[int], Any]]] = {}  # number -> target, handler
        self.timers: list[list[Any]] = []  # kind, signal, what it needs
        self.rpc: dict[str, tuple[Callable[..., Any], int]] = {}
        self.signals_handled = 0
        self.requests = 0

    # ---- in a worker ----

    def attach(self, given: Assignment) -> None:
        """This process has become a worker."""
        self.given = given
        self.settings = given.settings
        self.number = given.number + 1
        self.master_pid = os.getppid()
        self.started = int(time.time())
        if given.commons >= 0:
            parts = plan.parts(given.settings, given.segment.slots)
            self.commons = Commons(given.commons, parts, _pause)
            self.roster = Roster(self.commons)
        self.tell()

    def tell(self) -> None:
        """Write this worker's row, so that the others know what it has registered."""
        if self.roster is None or self.given is None:
            return
        self.roster.write(
            self.given.slot,
            self.given.generation,
            {
                "number": self.number,
                "started": self.started,
                "signals": {number: target for number, (target, _) in self.signals.items()},
                "rpc": sorted(self.rpc),
                "timers": self.timers,
            },
        )

    def common(self, what: str) -> Commons:
        """Raises OSError outside of a worker."""
        if self.commons is None:
            raise OSError(f"uwsgi.{what} works in a worker only")
        return self.commons

    def peers(self, ready_only: bool = True) -> list[Peer]:
        """Every worker that takes alerts, this one included, by number."""
        if self.given is None or self.roster is None:
            return []
        found = []
        segment = self.given.segment
        for slot in range(1, segment.slots):
            generation, pid, _, ready, _ = segment.slot(slot)
            if not generation & 1 or (ready_only and ready != generation):
                continue
            facts = self.roster.read(slot, generation)
            if facts is not None:
                found.append(Peer(slot, generation, pid, int(facts.get("number", 0)), facts))
        return sorted(found, key=lambda peer: (peer.number, -peer.generation))

    def say(self, message: str) -> bool:
        """A word to the supervisor."""
        if self.given is None:
            return False
        try:
            os.write(self.given.link.fileno(), message.encode())
        except OSError:
            return False
        return True


def _pause(seconds: float) -> None:
    """Cooperative where that is possible."""
    client = fabric._current
    if client is None or not client.room.is_here() or getcurrent() is gevent.get_hub():
        _sleep(seconds)
    else:
        gevent.sleep(seconds)


_sleep = monkey.get_original("time", "sleep")
_state: State | None = None


def install(settings: Settings) -> State:
    """Make this process's; what it has already stays."""
    global _state
    if _state is None:
        _state = State(settings)
    return _state


def state() -> State:
    """Raises OSError where there is no server."""
    if _state is None:
        raise OSError("the uwsgi module works inside a server only; start the application with `channels MODULE:APP`")
    return _state


def forget() -> None:
    """For tests."""
    global _state
    _state = None


def as_bytes(value: Any, what: str = "data") -> bytes:
    """str is UTF-8, as uWSGI's `s#`; bytes-like as it is.  Raises TypeError."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    try:
        return memoryview(value).tobytes()
    except TypeError:
        raise TypeError(f"{what} must be str or bytes-like, not {type(value).__name__}") from None


def as_text(value: Any, what: str = "name") -> str:
    """Raises TypeError, ValueError."""
    text = value.decode() if isinstance(value, bytes) else value
    if not isinstance(text, str):
        raise TypeError(f"{what} must be str or bytes, not {type(value).__name__}")
    return text


def as_number(value: Any, low: int, high: int, what: str) -> int:
    """Raises TypeError, ValueError."""
    if not isinstance(value, int):
        raise TypeError(f"{what} must be a whole number, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{what} must be from {low} to {high}, not {value}")
    return value
