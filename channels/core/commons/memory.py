"""The memfd: its parts, its mapping, and the locks by number."""

from __future__ import annotations

import dataclasses
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Sequence
from typing import Callable

from channels.core.commons.region import Region
from channels.errors import SegmentError

MAGIC = b"chcommon"
LAYOUT = 1
PAGE = 4096
LOCK_BASE = 1 << 40  # byte ranges beyond the end of the file: long-held locks by number
LOCKS_MAX = 1024

_HEADER = struct.Struct("<8sII")
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of Linux on 64-bit machines, fcntl(2)


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of the memfd: what it is for, its name, its sizes (their meaning is that of the kind), its bytes."""

    kind: str
    name: str
    sizes: tuple[int, ...]
    bytes: int


def _layout(parts: Sequence[Part]) -> tuple[bytes, list[int], int]:
    """(description, offsets, total size)."""
    description = ";".join(f"{part.kind}:{part.name}:{','.join(map(str, part.sizes))}" for part in parts).encode()
    at = -(-(_HEADER.size + len(description)) // PAGE) * PAGE
    offsets = []
    for part in parts:
        offsets.append(at)
        at += -(-part.bytes // PAGE) * PAGE
    return description, offsets, at


def create(parts: Sequence[Part]) -> int:
    """A memfd for these parts: sealed in its size, its pages allocated when they are touched.  Raises SegmentError."""
    description, _, size = _layout(parts)
    try:
        fd = os.memfd_create("channels-commons", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        os.pwrite(fd, _HEADER.pack(MAGIC, LAYOUT, len(description)) + description, 0)
        fcntl.fcntl(fd, _ADD_SEALS, _SEAL_SHRINK | _SEAL_GROW | _SEAL_SEAL)
    except OSError as error:
        raise SegmentError(f"{size} bytes in common to the workers cannot be had: {error.strerror}") from None
    return fd


def matches(fd: int, parts: Sequence[Part]) -> bool:
    """Whether this memfd was made for these parts: an upgrade with other settings needs one of its own."""
    description, _, size = _layout(parts)
    wanted = _HEADER.pack(MAGIC, LAYOUT, len(description)) + description
    return os.fstat(fd).st_size == size and os.pread(fd, len(wanted), 0) == wanted


class Commons:
    """This process's mapping of it.

    The locks are POSIX record locks (fcntl(2)): a process's own, not inherited by its children, freed by the kernel at
    its death, and gone as soon as the process closes any descriptor of the file; so this object is never closed.
    """

    def __init__(self, fd: int, parts: Sequence[Part], wait: Callable[[float], None] = time.sleep) -> None:
        if not matches(fd, parts):
            raise SegmentError("the workers' common memory has another layout")
        _, offsets, size = _layout(parts)
        self.fd = fd
        self.wait = wait
        self._map = mmap.mmap(fd, size)
        view = memoryview(self._map)
        self.regions: dict[tuple[str, str], Region] = {}
        self.parts = {(part.kind, part.name): part for part in parts}
        for part, at in zip(parts, offsets):
            self.regions[part.kind, part.name] = Region(fd, at, view[at : at + part.bytes], self._pause)

    def _pause(self, seconds: float) -> None:
        self.wait(seconds)

    # ---- long-held locks ----

    def try_lock(self, number: int, shared: bool = False) -> bool:
        """Take lock `number` for this process, or change how it holds it; never waits."""
        try:
            fcntl.lockf(self.fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB, 1, self._lock_at(number))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def unlock(self, number: int) -> None:
        fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, self._lock_at(number))

    def holder(self, number: int) -> int:
        """The process that holds it, 0 when none but this one may."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, self._lock_at(number), 1, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(self.fd, fcntl.F_GETLK, asked))
        return 0 if kind == fcntl.F_UNLCK else int(pid)

    @staticmethod
    def _lock_at(number: int) -> int:
        if not 0 <= number < LOCKS_MAX:
            raise ValueError(f"locks are numbered from 0 to {LOCKS_MAX - 1}")
        return LOCK_BASE + number


_ADD_SEALS = getattr(fcntl, "F_ADD_SEALS", 1033)
_SEAL_SEAL, _SEAL_SHRINK, _SEAL_GROW = 1, 2, 4  # fcntl(2)
