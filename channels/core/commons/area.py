"""Raw bytes that all workers read and write, with numbers that are changed as a whole."""

from __future__ import annotations

import struct

from channels.core.commons.memory import Commons, Part
from channels.core.commons.region import DATA_AT

FORMATS = {8: struct.Struct("=b"), 16: struct.Struct("=h"), 32: struct.Struct("=i"), 64: struct.Struct("=q")}


def part(name: str, size: int) -> Part:
    return Part("area", name, (size,), DATA_AT + size)


class Area:
    """Positions are checked: IndexError outside.  A writer that is killed may leave part of what it wrote."""

    def __init__(self, commons: Commons, name: str) -> None:
        (self.size,) = commons.parts["area", name].sizes
        self.region = commons.regions["area", name]
        self.view = self.region.data[: self.size]

    def _check(self, at: int, size: int) -> None:
        if at < 0 or size < 0 or at + size > self.size:
            raise IndexError(f"{size} bytes at {at} are outside of an area of {self.size}")

    def read(self, at: int, size: int | None = None) -> bytes:
        """`size` None: to the end."""
        wanted = self.size - at if size is None else size
        self._check(at, wanted)
        with self.region.section():
            return bytes(self.view[at : at + wanted])

    def write(self, at: int, data: bytes) -> None:
        self._check(at, len(data))
        with self.region.section():
            self.view[at : at + len(data)] = data

    def read_number(self, at: int, bits: int) -> int:
        layout = FORMATS[bits]
        self._check(at, layout.size)
        with self.region.section():
            return int(layout.unpack_from(self.view, at)[0])

    def write_number(self, at: int, bits: int, value: int) -> None:
        """Wraps as C does."""
        layout = FORMATS[bits]
        self._check(at, layout.size)
        with self.region.section():
            self.region.put(layout, at, _wrapped(value, bits))

    def add(self, at: int, bits: int, value: int) -> int:
        """The new number."""
        layout = FORMATS[bits]
        self._check(at, layout.size)
        with self.region.section():
            fresh = _wrapped(int(layout.unpack_from(self.view, at)[0]) + value, bits)
            self.region.put(layout, at, fresh)
            return fresh


def _wrapped(value: int, bits: int) -> int:
    half = 1 << (bits - 1)
    return (value + half) % (half * 2) - half
