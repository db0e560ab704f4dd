"""A ring of slots that all workers push to and take from, at either end or by number.

As uWSGI's queue: a push beyond the last slot overwrites the oldest.  All zeros is an empty queue.
"""

from __future__ import annotations

import struct

from channels.core.commons.memory import Commons, Part
from channels.core.commons.region import DATA_AT

_HEAD = struct.Struct("<QQ")  # the slot of the next push, that of the next pull
_HEAD_BYTES = 64
_SIZE = struct.Struct("<Q")  # before each slot's bytes; 0: empty


def part(name: str, slots: int, blocksize: int) -> Part:
    """So many slots of at most `blocksize` bytes."""
    return Part("queue", name, (slots, blocksize), DATA_AT + _HEAD_BYTES + slots * (_SIZE.size + _padded(blocksize)))


def _padded(size: int) -> int:
    return -(-size // 8) * 8


class Queue:
    """Every call is one section, some microseconds; a push that overwrites is two."""

    def __init__(self, commons: Commons, name: str) -> None:
        self.slots, self.blocksize = commons.parts["queue", name].sizes
        self.region = commons.regions["queue", name]

    def push(self, message: bytes, overwrite: bool = True) -> bool:
        """False: it is empty or does not fit, or, with `overwrite` False, every slot is taken."""
        if not 0 < len(message) <= self.blocksize:
            return False
        with self.region.section():
            slot, pull = self._head()
            if self._size(slot):
                if not overwrite:
                    return False
                # What is overwritten is gone for good, whatever happens to what comes: half of it would be worse.
                self.region.data[self._at(slot) : self._at(slot) + _SIZE.size] = bytes(_SIZE.size)
            self._write(slot, message)
            self.region.put(_HEAD, 0, (slot + 1) % self.slots, pull)
            return True

    def pull(self) -> bytes | None:
        """The oldest."""
        with self.region.section():
            push, slot = self._head()
            message = self._read(slot)
            if message is not None:
                self.region.put(_SIZE, self._at(slot), 0)
                self.region.put(_HEAD, 0, push, (slot + 1) % self.slots)
            return message

    def pop(self) -> bytes | None:
        """The newest."""
        with self.region.section():
            push, pull = self._head()
            slot = (push - 1) % self.slots
            message = self._read(slot)
            if message is not None:
                self.region.put(_SIZE, self._at(slot), 0)
                self.region.put(_HEAD, 0, slot, pull)
            return message

    def get(self, slot: int) -> bytes | None:
        """What stands in a slot; it stays."""
        with self.region.section():
            return self._read(slot) if 0 <= slot < self.slots else None

    def set(self, slot: int, message: bytes) -> bool:
        if not 0 <= slot < self.slots or not 0 < len(message) <= self.blocksize:
            return False
        with self.region.section():
            self.region.data[self._at(slot) : self._at(slot) + _SIZE.size] = bytes(_SIZE.size)
            self._write(slot, message)
            return True

    def last(self, count: int) -> list[bytes | None]:
        """The newest first."""
        with self.region.section():
            push, _ = self._head()
            return [self._read((push - 1 - i) % self.slots) for i in range(min(count, self.slots))]

    def positions(self) -> tuple[int, int]:
        """(the slot of the next push, that of the next pull)."""
        with self.region.section():
            return self._head()

    # ---- inside a section ----

    def _head(self) -> tuple[int, int]:
        push, pull = self.region.get(_HEAD, 0)
        return push % self.slots, pull % self.slots

    def _at(self, slot: int) -> int:
        return _HEAD_BYTES + slot * (_SIZE.size + _padded(self.blocksize))

    def _size(self, slot: int) -> int:
        (size,) = self.region.get(_SIZE, self._at(slot))
        return min(int(size), self.blocksize)

    def _read(self, slot: int) -> bytes | None:
        size = self._size(slot)
        at = self._at(slot) + _SIZE.size
        return bytes(self.region.data[at : at + size]) if size else None

    def _write(self, slot: int, message: bytes) -> None:
        at = self._at(slot) + _SIZE.size
        self.region.data[at : at + len(message)] = message
        self.region.put(_SIZE, self._at(slot), len(message))
