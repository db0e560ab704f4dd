"""A cache of bytes by key, with expiry, that all workers share.

A hash table with chains, items and blocks of fixed size.  A new value is written into a free block before the item
points there, so that a reader never sees half of one.  All zeros is an empty cache.
"""

from __future__ import annotations

import contextlib
import operator
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Callable

from channels.core.commons.memory import Commons, Part
from channels.core.commons.region import DATA_AT
from channels.errors import CommonsDamaged

KEY_MAX = 2048  # bytes
SWEEP_MAX = 32  # expired items removed in one section
FIXED, UPDATE = 1, 2  # keep the expiry of what is there; may replace what is there

_HEAD = struct.Struct("<QQQQQ")  # items in use, items ever used, free items, free blocks, blocks ever used
_ITEM = struct.Struct("<QQQQd")  # next in the chain or in the free list, block, key bytes, value bytes, expiry
_LINK = struct.Struct("<Q")
_NUMBER = struct.Struct("<q")
_HEAD_BYTES = 64
_ITEM_BYTES = _ITEM.size + KEY_MAX
# Numbers of items, blocks and links are one more than their place: 0 is none.


def part(name: str, items: int, blocksize: int) -> Part:
    """A cache of so many items, each value at most `blocksize` bytes."""
    buckets = _buckets(items)
    size = DATA_AT + _HEAD_BYTES + 8 * buckets + _ITEM_BYTES * items + 8 * (items + 1) + blocksize * (items + 1)
    return Part("cache", name, (items, blocksize), size)


def _buckets(items: int) -> int:
    return 1 << max(items - 1, 1).bit_length()


class Damaged(Exception):
    """An index that points outside."""


class Cache:
    """Every call is one section, some microseconds."""

    def __init__(self, commons: Commons, name: str) -> None:
        described = commons.parts["cache", name]
        self.name = name
        self.items, self.blocksize = described.sizes
        self.region = commons.regions["cache", name]
        self._buckets_at = _HEAD_BYTES
        self._mask = _buckets(self.items) - 1
        self._items_at = self._buckets_at + 8 * (self._mask + 1)
        self._links_at = self._items_at + _ITEM_BYTES * self.items
        self._blocks_at = self._links_at + 8 * (self.items + 1)

    # ---- the calls ----

    @contextlib.contextmanager
    def _section(self) -> Iterator[None]:
        try:
            with self.region.section():
                yield
        except Damaged:
            with self.region.section():
                self._reset()
            raise CommonsDamaged(f"cache {self.name!r}") from None

    def get(self, key: bytes) -> bytes | None:
        """Raises, as every call here, CommonsDamaged: somebody has written over it; it is empty now."""
        with self._section():
            found = self._find(key)
            if not found:
                return None
            _, block, _, size, _ = self._item(found)
            return self._value(block, size)

    def exists(self, key: bytes) -> bool:
        with self._section():
            return bool(self._find(key))

    def set(self, key: bytes, value: bytes, expires: float = 0, flags: int = 0) -> bool:
        """False: it is there already and `flags` lacks UPDATE, it does not fit, or everything is taken.

        Args:
            expires: Seconds from now; 0: never.
        """
        if len(key) > KEY_MAX or len(value) > self.blocksize:
            return False
        with self._section():
            return self._set(key, value, expires, flags)

    def change(self, key: bytes, operation: str, operand: int, expires: float = 0) -> int | None:
        """Add to, subtract from, multiply or divide a 64-bit number, 0 if it is not there; None: it is no number.

        `expires` counts for a new one only.  Overflow wraps; dividing by 0 gives 0.
        """
        if len(key) > KEY_MAX or self.blocksize < _NUMBER.size:
            return None
        with self._section():
            found = self._find(key)
            number = 0
            if found:
                _, block, _, size, _ = self._item(found)
                if size != _NUMBER.size:
                    return None
                (number,) = _NUMBER.unpack(self._value(block, size))
            number = _OPERATIONS[operation](number, operand)
            number = (number + (1 << 63)) % (1 << 64) - (1 << 63)
            return number if self._set(key, _NUMBER.pack(number), expires, UPDATE | FIXED) else None

    def delete(self, key: bytes) -> bool:
        with self._section():
            return bool(self._find(key)) and self._delete(key)

    def clear(self) -> None:
        """Forget everything."""
        with self._section():
            self._reset()

    def keys(self) -> list[bytes]:
        """Those that have not expired."""
        now = time.monotonic()
        with self._section():
            return [key for key, expiry in self._all() if not expiry or expiry > now]

    # ---- inside a section ----

    def _set(self, key: bytes, value: bytes, expires: float, flags: int) -> bool:
        found = self._find(key)
        if found and not flags & UPDATE:
            return False
        if not found and not self._has_room():
            return False
        expiry = time.monotonic() + expires if expires else 0.0
        block = self._take_block()
        at = self._block_at(block)
        self.region.data[at : at + len(value)] = value
        if found:
            link, old, key_size, _, before = self._item(found)
            item = (link, block, key_size, len(value), before if flags & FIXED else expiry)
            self.region.put(_ITEM, self._item_at(found), *item)
            self._release_block(old)
            return True
        number = self._take_item()
        at = self._item_at(number)
        bucket = self._bucket_at(key)
        self.region.data[at + _ITEM.size : at + _ITEM.size + len(key)] = key
        self.region.put(_ITEM, at, self.region.word(bucket), block, len(key), len(value), expiry)
        self.region.put_word(bucket, number)
        return True

    def _find(self, key: bytes) -> int:
        """The item's number, or 0; one that has expired is removed."""
        number, expiry = self._look(key)
        if number and expiry and expiry <= time.monotonic():
            self._delete(key)
            return 0
        return number

    def _look(self, key: bytes) -> tuple[int, float]:
        number = self.region.word(self._bucket_at(key))
        for _ in range(self.items):
            if not number:
                break
            link, _, size, _, expiry = self._item(number)
            at = self._item_at(number) + _ITEM.size
            if size == len(key) and self.region.data[at : at + size] == key:
                return number, expiry
            number = link
        return 0, 0.0

    def _delete(self, key: bytes) -> bool:
        bucket = self._bucket_at(key)
        before = 0
        number = self.region.word(bucket)
        for _ in range(self.items):
            if not number:
                break
            link, block, size, _, _ = self._item(number)
            at = self._item_at(number) + _ITEM.size
            if size == len(key) and self.region.data[at : at + size] == key:
                if before:
                    self.region.put(_LINK, self._item_at(before), link)
                else:
                    self.region.put_word(bucket, link)
                self._release_block(block)
                used, ever, free, *rest = self.region.get(_HEAD, 0)
                self.region.put(_LINK, self._item_at(number), free)
                self.region.put(_HEAD, 0, used - 1, ever, number, *rest)
                return True
            before, number = number, link
        return False

    def _all(self) -> list[tuple[bytes, float]]:
        found = []
        for bucket in range(self._mask + 1):
            number = self.region.word(self._buckets_at + 8 * bucket)
            for _ in range(self.items):
                if not number:
                    break
                link, _, size, _, expiry = self._item(number)
                at = self._item_at(number) + _ITEM.size
                found.append((bytes(self.region.data[at : at + size]), expiry))
                number = link
        return found

    def _has_room(self) -> bool:
        """For one more item.  Expired ones make room, as many at once as the journal can undo."""
        used = self.region.word(0)
        if used < self.items:
            return True
        now = time.monotonic()
        expired = [key for key, expiry in self._all() if expiry and expiry <= now]
        for key in expired[:SWEEP_MAX]:
            self._delete(key)
        return bool(expired)

    def _take_item(self) -> int:
        used, ever, free, *rest = self.region.get(_HEAD, 0)
        if free:
            (link,) = self.region.get(_LINK, self._item_at(free))
            self.region.put(_HEAD, 0, used + 1, ever, link, *rest)
            return int(free)
        if ever >= self.items:
            raise Damaged
        self.region.put(_HEAD, 0, used + 1, ever + 1, free, *rest)
        return int(ever) + 1

    def _take_block(self) -> int:
        """There are as many as items and one more, so that a full cache can still replace a value."""
        used, ever, items, free, blocks = self.region.get(_HEAD, 0)
        if free:
            (link,) = self.region.get(_LINK, self._link_at(free))
            self.region.put(_HEAD, 0, used, ever, items, link, blocks)
            return int(free)
        if blocks > self.items:
            raise Damaged
        self.region.put(_HEAD, 0, used, ever, items, free, blocks + 1)
        return int(blocks) + 1

    def _release_block(self, block: int) -> None:
        used, ever, items, free, blocks = self.region.get(_HEAD, 0)
        self.region.put(_LINK, self._link_at(block), free)
        self.region.put(_HEAD, 0, used, ever, items, block, blocks)

    def _reset(self) -> None:
        """Empty: not undone, for a half-emptied table is no cache.  The buckets go first: nobody is found any more."""
        self.region.data[self._buckets_at : self._items_at] = bytes(self._items_at - self._buckets_at)
        self.region.data[:_HEAD_BYTES] = bytes(_HEAD_BYTES)

    def _item(self, number: int) -> tuple[int, int, int, int, float]:
        found = self.region.get(_ITEM, self._item_at(number))
        link, block, key_size, size, expiry = found
        if link > self.items or not 0 < block <= self.items + 1 or key_size > KEY_MAX or size > self.blocksize:
            raise Damaged
        return link, block, key_size, size, expiry

    def _item_at(self, number: int) -> int:
        if not 0 < number <= self.items:
            raise Damaged
        return self._items_at + _ITEM_BYTES * (number - 1)

    def _link_at(self, block: int) -> int:
        if not 0 < block <= self.items + 1:
            raise Damaged
        return self._links_at + 8 * (block - 1)

    def _block_at(self, block: int) -> int:
        return self._blocks_at + self.blocksize * (block - 1)

    def _value(self, block: int, size: int) -> bytes:
        at = self._block_at(block)
        return bytes(self.region.data[at : at + size])

    def _bucket_at(self, key: bytes) -> int:
        return self._buckets_at + 8 * (zlib.crc32(key) & self._mask)


def _divide(number: int, operand: int) -> int:
    """Towards zero, as C does."""
    if operand == 0:
        return 0
    quotient = abs(number) // abs(operand)
    return quotient if (number < 0) == (operand < 0) else -quotient


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "inc": operator.add,
    "dec": operator.sub,
    "mul": operator.mul,
    "div": _divide,
}
