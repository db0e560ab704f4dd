"""Locks between all greenlets of all workers, freed by the kernel when their holder dies.

Within a worker they belong to the request, or to the greenlet outside of one, and end with it.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Iterator
from typing import Any

from greenlet import getcurrent

from channels.web.uwsgi.state import _pause, as_number, state
from channels.worker import subscription

log = logging.getLogger("channels")

USER_LOCKS = 256
AREA_BASE = 300  # locks of the shared areas
WAIT_FIRST, WAIT_MOST = 0.0005, 0.02  # seconds between two tries


class _Held:
    """How this process holds a lock."""

    def __init__(self) -> None:
        self.writer: tuple[Any, Any] | None = None  # core, greenlet
        self.readers: list[tuple[Any, Any]] = []


_held: dict[int, _Held] = {}
_owners: weakref.WeakSet[subscription.Core] = weakref.WeakSet()


def acquire(number: int, shared: bool = False) -> None:
    """Wait cooperatively until it is this request's.  Raises RuntimeError: it is already, so nobody could free it."""
    commons = state().common("lock")
    core, greenlet = subscription.current_core(), getcurrent()
    wait = WAIT_FIRST
    while True:
        held = _held.setdefault(number, _Held())
        if held.writer is None:
            if shared and (held.readers or commons.try_lock(number, shared=True)):
                held.readers.append((core, greenlet))
                break
            if not shared and not held.readers and commons.try_lock(number):
                held.writer = (core, greenlet)
                break
        if any(owner[1] is greenlet for owner in [held.writer, *held.readers] if owner is not None):
            raise RuntimeError(f"lock {number} is held by this very greenlet: it would wait for ever")
        _pause(wait)
        wait = min(wait * 2, WAIT_MOST)
    if core not in _owners:
        _owners.add(core)
        core.on_close.append(lambda: _free_all(core))


def release(number: int) -> bool:
    """False: this worker does not hold it."""
    held = _held.get(number)
    if held is None or (held.writer is None and not held.readers):
        return False
    if held.writer is not None:
        held.writer = None
    else:
        mine = [owner for owner in held.readers if owner[1] is getcurrent()]
        held.readers.remove((mine or held.readers)[0])
    _settle(number, held)
    return True


def _settle(number: int, held: _Held) -> None:
    if held.writer is None and not held.readers:
        _held.pop(number, None)
        state().common("unlock").unlock(number)


def _free_all(core: subscription.Core) -> None:
    """The request is over; what it still holds is not."""
    _owners.discard(core)
    for number, held in list(_held.items()):
        readers = [owner for owner in held.readers if owner[0] is not core]
        writer = held.writer if held.writer is not None and held.writer[0] is not core else None
        if writer != held.writer or len(readers) < len(held.readers):
            log.warning("uwsgi: a request has ended with lock %d; it is free now", number)
            held.writer, held.readers = writer, readers
            _settle(number, held)


@contextlib.contextmanager
def guard(number: int, shared: bool) -> Iterator[None]:
    """Hold it for a moment, unless this greenlet does anyway."""
    held = _held.get(number)
    if held is not None and any(
        owner[1] is getcurrent() for owner in [held.writer, *held.readers] if owner is not None
    ):
        yield
        return
    acquire(number, shared)
    try:
        yield
    finally:
        release(number)


# ---- the calls ----


def lock(lock_num: int = 0) -> None:
    """Wait cooperatively for lock 0 to 255 and take it.

    Freed by unlock(), at the end of the request that took it, and by the death of the worker.

    Raises:
        RuntimeError: This greenlet has it already.
    """
    acquire(as_number(lock_num, 0, USER_LOCKS - 1, "lock_num"))


def unlock(lock_num: int = 0) -> None:
    """Free it; any greenlet of the worker that has it may."""
    number = as_number(lock_num, 0, USER_LOCKS - 1, "lock_num")
    if not release(number):
        log.warning("uwsgi: unlock(%d): worker %d does not hold it", number, state().number)


def is_locked(lock_num: int = 0) -> bool:
    """Whether anybody has it."""
    number = as_number(lock_num, 0, USER_LOCKS - 1, "lock_num")
    held = _held.get(number)
    return bool(held is not None and held.writer) or state().common("is_locked").holder(number) != 0


CALLS = {call.__name__: call for call in (is_locked, lock, unlock)}
