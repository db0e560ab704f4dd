"""A stretch of common memory, changed by one process at a time, and whole again after any death.

A change is a section: under a lock that dies with its holder, every word that is overwritten is saved in the region's
journal first.  Whoever enters next and finds a journal that is not empty puts the old words back.
"""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from typing import Any, Callable

JOURNAL_BYTES = 16384
DATA_AT = JOURNAL_BYTES  # offsets that a user of the region sees begin here
SECTION_TIMEOUT = 5.0  # seconds; only a process that was stopped in the middle holds a section so long
TRIES_AT_ONCE = 50  # looks before others run: a section is some microseconds long

_ENTRY = struct.Struct("<QQ")  # offset, length; the old bytes follow, padded to 8
_U64 = struct.Struct("<Q")


class Region:
    """Sections and words.  Offsets count from the region's data."""

    def __init__(self, fd: int, at: int, view: memoryview, pause: Callable[[float], None]) -> None:
        self._fd = fd
        self._at = at
        self._pause = pause
        self._journal = view[:JOURNAL_BYTES]
        self._length = self._journal[:8].cast("Q")  # one store: what is behind it does not count
        self.data = view[DATA_AT:]
        self._local = _thread.allocate_lock()
        self._undo_at = 8

    @contextlib.contextmanager
    def section(self) -> Iterator[None]:
        """Alone in here, among all threads and processes.  No greenlet may be switched in it.

        What raises out of it undoes what it did.  Raises TimeoutError when another process holds it and does not run.
        """
        self._enter()
        try:
            if self._length[0]:
                self._undo()
            self._undo_at = 8
            try:
                yield
            except BaseException:
                self._undo()
                raise
            self._length[0] = 0
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self._at)
            self._local.release()

    def _enter(self) -> None:
        deadline = 0.0
        tries = 0
        while True:
            if self._local.acquire(False):
                try:
                    fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._at)
                    return
                except (BlockingIOError, PermissionError):
                    self._local.release()
                except BaseException:
                    self._local.release()
                    raise
            tries += 1
            if tries <= TRIES_AT_ONCE:
                os.sched_yield()
                continue
            now = time.monotonic()
            deadline = deadline or now + SECTION_TIMEOUT
            if now > deadline:
                raise TimeoutError("another process holds what the workers have in common, and does not run")
            self._pause(0.001)

    def _undo(self) -> None:
        """Put back what the journal has, the last first."""
        end = min(self._length[0], JOURNAL_BYTES)
        entries = []
        at = 8
        while at + _ENTRY.size <= end:
            offset, size = _ENTRY.unpack_from(self._journal, at)
            at += _ENTRY.size
            if at + size > JOURNAL_BYTES or offset + size > len(self.data):
                break
            entries.append((offset, at, size))
            at += -(-size // 8) * 8
        for offset, saved, size in reversed(entries):
            self.data[offset : offset + size] = self._journal[saved : saved + size]
        self._length[0] = 0

    # ---- words; changes within a section only ----

    def save(self, offset: int, size: int) -> None:
        """Note what stands there: it comes back unless the section ends well."""
        at = self._undo_at
        end = at + _ENTRY.size + -(-size // 8) * 8
        if end > JOURNAL_BYTES:
            raise MemoryError("a change of what the workers have in common is too large for its journal")
        _ENTRY.pack_into(self._journal, at, offset, size)
        at += _ENTRY.size
        self._journal[at : at + size] = self.data[offset : offset + size]
        self._undo_at = end
        self._length[0] = end

    def put(self, layout: struct.Struct, offset: int, *values: Any) -> None:
        self.save(offset, layout.size)
        layout.pack_into(self.data, offset, *values)

    def get(self, layout: struct.Struct, offset: int) -> tuple[Any, ...]:
        return layout.unpack_from(self.data, offset)

    def put_word(self, offset: int, value: int) -> None:
        self.put(_U64, offset, value)

    def word(self, offset: int) -> int:
        return int(_U64.unpack_from(self.data, offset)[0])
