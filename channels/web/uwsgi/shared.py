"""Cache, queue and areas that all workers share."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from channels.core.commons import cache
from channels.core.commons.area import Area
from channels.core.commons.cache import Cache
from channels.core.commons.queue import Queue
from channels.settings import cache_sizes
from channels.web.uwsgi import locks
from channels.web.uwsgi.state import as_bytes, as_text, state

_caches: dict[str, Cache] = {}
_areas: dict[int, Area] = {}
_queues: list[Queue] = []


def forget() -> None:
    """For tests."""
    _caches.clear()
    _areas.clear()
    _queues.clear()


# ---- cache ----


def _cache(name: Any) -> Cache:
    """By name; None and "" mean the first.  Raises ValueError."""
    text = as_text(name, "cache_name") if name else ""
    found = _caches.get(text)
    if found is None:
        mine = state()
        commons = mine.common("cache")
        names = [cache_sizes(entry)[0] for entry in mine.settings.uwsgi_cache]
        if "@" in text:
            raise ValueError(f"cache {text!r}: caches of other servers cannot be reached")
        if text and text not in names:
            raise ValueError(f"there is no cache {text!r}; the setting uwsgi_cache makes one")
        found = _caches[text] = Cache(commons, text or names[0])
    return found


def cache_get(key: Any, cache_name: Any = None) -> bytes | None:
    """The value, None when there is none (any more)."""
    return _cache(cache_name).get(as_bytes(key, "key"))


def _set(key: Any, value: Any, expires: float, cache_name: Any, flags: int) -> bool | None:
    if expires < 0:
        raise ValueError("expires is in seconds, 0: never")
    return _cache(cache_name).set(as_bytes(key, "key"), as_bytes(value, "value"), expires, flags) or None


def cache_set(key: Any, value: Any, expires: float = 0, cache_name: Any = None) -> bool | None:
    """True; None when the key is there already, or it does not fit.

    Args:
        key: At most 2,048 bytes.
        value: At most the cache's block size.
        expires: Seconds from now; 0: never.
    """
    return _set(key, value, expires, cache_name, 0)


def cache_update(key: Any, value: Any, expires: float = 0, cache_name: Any = None) -> bool | None:
    """The same, replacing what is there."""
    return _set(key, value, expires, cache_name, cache.UPDATE)


def cache_del(key: Any, cache_name: Any = None) -> bool | None:
    """True; None when there was none."""
    return _cache(cache_name).delete(as_bytes(key, "key")) or None


def cache_exists(key: Any, cache_name: Any = None) -> bool | None:
    """True, or None."""
    return _cache(cache_name).exists(as_bytes(key, "key")) or None


def cache_clear(cache_name: Any = None) -> bool | None:
    """Forget everything."""
    _cache(cache_name).clear()
    return True


def cache_keys(cache_name: Any = None) -> list[bytes]:
    """Those that are there, in no order."""
    return _cache(cache_name).keys()


def cache_num(key: Any, cache_name: Any = None) -> int:
    """The number that cache_inc and its like count; 0 when it is none."""
    value = _cache(cache_name).get(as_bytes(key, "key"))
    return int.from_bytes(value, "little", signed=True) if value is not None and len(value) == 8 else 0


def _calculating(operation: str, default: int) -> Callable[..., bool | None]:
    def change(key: Any, operand: int = default, expires: float = 0, cache_name: Any = None) -> bool | None:
        changed = _cache(cache_name).change(as_bytes(key, "key"), operation, int(operand), expires)
        return None if changed is None else True

    change.__name__ = change.__qualname__ = f"cache_{operation}"
    change.__doc__ = "Change a 64-bit number that all workers share, 0 at first: True; None when it is no number."
    return change


# ---- queue ----


def _queue() -> Queue | None:
    if not _queues and state().settings.uwsgi_queue:
        _queues.append(Queue(state().common("queue"), ""))
    return _queues[0] if _queues else None


def queue_push(message: Any) -> bool | None:
    """Add it; beyond the last slot the oldest is overwritten.  None: it is empty or too long."""
    queue = _queue()
    return (queue.push(as_bytes(message, "message")) or None) if queue is not None else None


def queue_pull() -> bytes | None:
    """Take the oldest."""
    queue = _queue()
    return queue.pull() if queue is not None else None


def queue_pop() -> bytes | None:
    """Take the newest."""
    queue = _queue()
    return queue.pop() if queue is not None else None


def queue_get(index: int) -> bytes | None:
    """What stands in a slot; it stays there."""
    queue = _queue()
    return queue.get(index) if queue is not None else None


def queue_set(index: int, message: Any) -> bool | None:
    """Put it into a slot.  None: there is no such slot, or it is empty or too long."""
    queue = _queue()
    return (queue.set(index, as_bytes(message, "message")) or None) if queue is not None else None


def queue_last(num: int = 0) -> Any:
    """The newest; with a number the newest so many, None for an empty slot."""
    queue = _queue()
    if queue is None:
        return None
    found = queue.last(max(num, 1))
    return found if num > 0 else found[0]


def queue_slot() -> int:
    """The slot that the next push takes."""
    queue = _queue()
    return queue.positions()[0] if queue is not None else 0


def queue_pull_slot() -> int:
    """The slot that the next pull empties."""
    queue = _queue()
    return queue.positions()[1] if queue is not None else 0


# ---- areas ----


def _area(number: Any) -> Area:
    found = _areas.get(number)
    if found is None:
        if not isinstance(number, int) or not 0 <= number < len(state().settings.uwsgi_sharedarea):
            raise ValueError(f"there is no shared area {number!r}; the setting uwsgi_sharedarea makes them")
        found = _areas[number] = Area(state().common("sharedarea"), str(number))
    return found


@contextmanager
def _within(number: int, shared: bool) -> Iterator[Area]:
    area = _area(number)
    try:
        with locks.guard(locks.AREA_BASE + number, shared):
            yield area
    except IndexError as error:
        raise ValueError(str(error)) from None


def sharedarea_read(id: int, position: int, length: int = 0) -> bytes:
    """So many bytes; 0: all to the end.  Raises ValueError, as every call here: no such area, or outside of it."""
    with _within(id, True) as area:
        return area.read(position, length or None)


def sharedarea_write(id: int, position: int, value: Any) -> None:
    """Put bytes there."""
    with _within(id, False) as area:
        area.write(position, as_bytes(value, "value"))


def sharedarea_memoryview(id: int) -> memoryview:
    """The area itself, writable; sharedarea_rlock() and sharedarea_wlock() keep others out meanwhile."""
    return _area(id).view


def sharedarea_rlock(id: int) -> None:
    """Wait until nobody writes; nobody does until sharedarea_unlock()."""
    _area(id)
    locks.acquire(locks.AREA_BASE + id, shared=True)


def sharedarea_wlock(id: int) -> None:
    """Wait until the area is this request's alone, until sharedarea_unlock()."""
    _area(id)
    locks.acquire(locks.AREA_BASE + id)


def sharedarea_unlock(id: int) -> None:
    """The end of either."""
    _area(id)
    locks.release(locks.AREA_BASE + id)


def _read_number(bits: int, id: int, position: int) -> int:
    with _within(id, True) as area:
        return area.read_number(position, bits)


def _write_number(bits: int, id: int, position: int, value: int) -> None:
    with _within(id, False) as area:
        area.write_number(position, bits, value)


def _add(bits: int, sign: int, id: int, position: int, increment: int = 1) -> None:
    with _within(id, False) as area:
        area.add(position, bits, sign * increment)


_NAMED: tuple[Any, ...] = (
    cache_clear, cache_del, cache_exists, cache_get, cache_keys, cache_num, cache_set, cache_update,
    *(_calculating(operation, default) for operation, default in (("inc", 1), ("dec", 1), ("mul", 2), ("div", 2))),
    queue_get, queue_last, queue_pop, queue_pull, queue_pull_slot, queue_push, queue_set, queue_slot,
    sharedarea_memoryview, sharedarea_read, sharedarea_rlock, sharedarea_unlock, sharedarea_wlock, sharedarea_write,
)  # fmt: skip
CALLS: dict[str, Callable[..., Any]] = {call.__name__: call for call in _NAMED}
for _names, _bits in ((("8", "byte"), 8), (("16",), 16), (("32",), 32), (("64", "long"), 64)):
    for _name in _names:
        CALLS[f"sharedarea_read{_name}"] = functools.partial(_read_number, _bits)
        CALLS[f"sharedarea_write{_name}"] = functools.partial(_write_number, _bits)
for _name, _bits in (("32", 32), ("64", 64), ("long", 64)):
    CALLS[f"sharedarea_inc{_name}"] = functools.partial(_add, _bits, 1)
    CALLS[f"sharedarea_dec{_name}"] = functools.partial(_add, _bits, -1)
