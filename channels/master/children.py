"""Which pid holds which slot and generation.

Pure: no clock, no fork, no system call.
"""

from __future__ import annotations

import dataclasses
import enum


class Phase(enum.Enum):
    """What a worker goes through; the order of its life."""

    STARTING = "starting"  # forked, imports the application
    READY = "ready"  # accepts connections and alerts
    DRAINING = "draining"  # told to finish
    ENDING = "ending"  # told to end at once, or killed
    DEAD = "dead"  # a zombie; the router cleans up after it


@dataclasses.dataclass
class Child:
    """One worker, from its fork to its burial."""

    slot: int
    generation: int
    batch: int  # workers started with the same settings and code
    started: float
    number: int = 0  # 0 to workers - 1: whose part of the work it does; its successor has the same
    pid: int = 0
    phase: Phase = Phase.STARTING
    deadline: float | None = None  # when the phase has lasted too long
    wants_out: str = ""  # why it asked for a successor
    successor: int | None = None  # that one's slot
    was_ready: bool = False
    dumped: bool = False  # its stacks were asked for, before it is killed

    def __str__(self) -> str:
        return f"worker={self.slot} gen={self.generation} pid={self.pid}"


class Children:
    """The workers by slot; slots are reused, generations never."""

    def __init__(self, slots: range) -> None:
        self._generations = dict.fromkeys(slots, 0)
        self._by_slot: dict[int, Child] = {}
        self._kept_out: set[int] = set()  # slots of another master

    def free_slot(self) -> int | None:
        """The lowest slot that nobody holds."""
        taken = self._by_slot.keys() | self._kept_out
        return next((slot for slot in self._generations if slot not in taken), None)

    def keep_out(self, slots: set[int]) -> None:
        """From here on only the others may be given."""
        self._kept_out = slots

    @property
    def slots(self) -> set[int]:
        return set(self._generations)

    def held(self) -> set[int]:
        """Slots with a child in them."""
        return set(self._by_slot)

    def add(self, slot: int, batch: int, number: int, now: float) -> Child:
        """A worker is about to be forked into this slot: its generation is the next odd number."""
        if slot in self._by_slot:
            raise ValueError(f"slot {slot} is held")
        generation = self._generations[slot] + 1 + self._generations[slot] % 2
        self._generations[slot] = generation
        child = self._by_slot[slot] = Child(slot=slot, generation=generation, batch=batch, started=now, number=number)
        return child

    def vacate(self, slot: int) -> int:
        """It is dead: the even generation that says so.  The slot stays held until remove()."""
        child = self._by_slot[slot]
        self._generations[slot] = child.generation + 1
        return child.generation + 1

    def remove(self, slot: int) -> Child:
        """It is buried and reaped; the slot may be given again."""
        return self._by_slot.pop(slot)

    def adopt(self, slot: int, generation: int) -> None:
        """Somebody else's worker has held this slot: go on from its generation."""
        self._generations[slot] = max(self._generations[slot], generation)

    def free_number(self, batch: int) -> int:
        """The lowest that no worker of this batch has."""
        taken = {child.number for child in self.in_phase(Phase.STARTING, Phase.READY) if child.batch == batch}
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def get(self, slot: int) -> Child | None:
        return self._by_slot.get(slot)

    def is_ready(self, slot: int) -> bool:
        """Whether it serves, and nobody has told it to end."""
        child = self._by_slot.get(slot)
        return child is not None and child.phase is Phase.READY

    def of_pid(self, pid: int) -> Child | None:
        return next((child for child in self._by_slot.values() if child.pid == pid), None)

    def all(self) -> list[Child]:
        """By slot."""
        return sorted(self._by_slot.values(), key=lambda child: child.slot)

    def in_phase(self, *phases: Phase) -> list[Child]:
        """Those, the oldest first."""
        return sorted(
            (child for child in self._by_slot.values() if child.phase in phases),
            key=lambda child: (child.started, child.slot),
        )

    def __len__(self) -> int:
        return len(self._by_slot)
