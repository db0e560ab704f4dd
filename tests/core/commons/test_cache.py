from __future__ import annotations

import functools
import itertools
import os
import random
import signal
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels.core.commons import cache, memory
from channels.core.commons.cache import FIXED, KEY_MAX, UPDATE, Cache
from channels.core.commons.memory import Commons
from channels.errors import CommonsDamaged
from tests.core.commons.child import in_child, run_until_line, wait

ITEMS, BLOCK = 8, 64


def make(items: int = ITEMS, blocksize: int = BLOCK) -> Cache:
    parts = [cache.part("one", items, blocksize)]
    return Cache(Commons(memory.create(parts), parts), "one")


@pytest.fixture
def small() -> Iterator[Cache]:
    found = make()
    yield found
    os.close(found.region._fd)


def check(table: Cache) -> None:
    """Everything that must hold of a table at rest."""
    with table.region.section():
        used, ever, free, free_block, blocks = table.region.get(cache._HEAD, 0)
        entries = table._all()
        numbers = [table._look(key)[0] for key, _ in entries]
        assert len(set(numbers)) == len(entries) == used and all(numbers)
        taken = [table._item(number)[1] for number in numbers]
        free_items = list(_chain(table, free, table._item_at))
        free_blocks = list(_chain(table, free_block, table._link_at))
        assert sorted(numbers + free_items) == list(range(1, ever + 1))
        assert sorted(taken + free_blocks) == list(range(1, blocks + 1))


def _chain(table: Cache, number: int, where: object) -> Iterator[int]:
    for _ in range(table.items + 2):
        if not number:
            return
        yield number
        (number,) = table.region.get(cache._LINK, where(number))  # type: ignore[operator]
    raise AssertionError("a free list that never ends")


def test_what_is_set_is_found_until_it_is_deleted(small: Cache) -> None:
    assert small.set(b"a", b"1") and small.get(b"a") == b"1" and small.exists(b"a")
    assert not small.set(b"a", b"2"), "it is there already"
    assert small.set(b"a", b"2", flags=UPDATE) and small.get(b"a") == b"2"
    assert small.delete(b"a") and not small.delete(b"a")
    assert small.get(b"a") is None
    check(small)


def test_keys_and_values_have_limits(small: Cache) -> None:
    assert not small.set(b"k" * (KEY_MAX + 1), b"") and not small.set(b"k", b"v" * (BLOCK + 1))
    assert small.set(b"k" * KEY_MAX, b"v" * BLOCK)
    assert small.get(b"k" * KEY_MAX) == b"v" * BLOCK


def test_a_full_cache_takes_nothing_new_but_replaces_what_it_has(small: Cache) -> None:
    for i in range(ITEMS):
        assert small.set(b"%d" % i, b"x")
    assert not small.set(b"more", b"x")
    assert small.set(b"3", b"y", flags=UPDATE) and small.get(b"3") == b"y"
    check(small)


def test_what_has_expired_is_gone_and_makes_room(small: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for i in range(ITEMS):
        assert small.set(b"%d" % i, b"x", expires=10)
    now += 10
    assert small.keys() == [] and not small.exists(b"0")
    assert small.set(b"more", b"x") and small.keys() == [b"more"]
    check(small)


def test_arithmetic_is_of_64_bits_and_keeps_the_expiry(small: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert [small.change(b"n", *step) for step in (("inc", 5, 10), ("mul", -3), ("dec", 2), ("div", 5))] == [
        5,
        -15,
        -17,
        -3,
    ]
    assert small.change(b"n", "div", 0) == 0
    assert small.change(b"n", "inc", (1 << 63) - 1) == (1 << 63) - 1
    assert small.change(b"n", "inc", 1) == -(1 << 63)
    small.set(b"n", b"12345678", 100, UPDATE | FIXED)
    now += 10
    assert small.get(b"n") is None, "a new value with FIXED does not live longer"
    small.set(b"text", b"abc")
    assert small.change(b"text", "inc", 1) is None


def test_a_table_that_was_written_over_is_emptied_and_says_so(small: Cache) -> None:
    for i in range(ITEMS):
        small.set(b"%d" % i, b"x")
    small.region.data[small._buckets_at : small._items_at] = b"\xff" * (small._items_at - small._buckets_at)
    with pytest.raises(CommonsDamaged, match="one"):
        small.get(b"1")
    assert small.keys() == [] and small.set(b"1", b"y") and small.get(b"1") == b"y"
    check(small)


@pytest.mark.parametrize("step", ["set", "update", "delete", "inc", "expired"])
def test_a_process_killed_at_any_line_leaves_a_whole_table(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    table = make()
    lines = 0
    for line in itertools.count(1):
        table.clear()
        for i in range(5):
            table.set(b"%d" % i, b"old%d" % i, expires=10 if step == "expired" else 0)
        table.delete(b"4")
        calls = {
            "set": lambda: table.set(b"9", b"new"),
            "update": lambda: table.set(b"2", b"new", flags=UPDATE),
            "delete": lambda: table.delete(b"2"),
            "inc": lambda: table.change(b"count", "inc", 1),
            "expired": lambda: table.get(b"1"),
        }
        killed = run_until_line(line, calls[step])
        check(table)
        assert table.get(b"3") == b"old3"
        assert table.get(b"2") in {"update": (b"old2", b"new"), "delete": (b"old2", None)}.get(step, (b"old2",))
        assert table.get(b"9") in (None, b"new")
        if not killed:
            break
        lines += 1
    assert lines > 20
    os.close(table.region._fd)


def test_processes_killed_at_random_leave_a_whole_table() -> None:
    seed = int(os.environ.get("SEED", random.SystemRandom().getrandbits(32)))
    print(f"SEED={seed}")
    dice = random.Random(seed)
    table = make(items=16)

    def work(number: int) -> None:
        mine = random.Random(number)
        while True:
            key = b"%d" % mine.randrange(24)
            what = mine.randrange(4)
            if what == 0:
                table.set(key, key * mine.randrange(1, 20), flags=UPDATE)
            elif what == 1:
                table.delete(key)
            elif what == 2:
                table.get(key)
            else:
                table.change(b"count", "inc", 1)

    for _ in range(60):
        pids = [in_child(functools.partial(work, dice.getrandbits(32))) for _ in range(2)]
        time.sleep(dice.uniform(0.001, 0.008))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            wait(pid)
        check(table)
        for key in list(table.keys()):
            value = table.get(key)
            assert key == b"count" or (value is not None and value == key * (len(value) // len(key)))
    os.close(table.region._fd)


_KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f"])
_STEPS = st.one_of(
    st.tuples(st.sampled_from(["set", "update"]), _KEYS, st.binary(max_size=8)),
    st.tuples(st.sampled_from(["delete", "get", "exists"]), _KEYS, st.just(b"")),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_STEPS, max_size=30))
def test_it_does_what_a_dict_of_four_items_does(steps: list[tuple[str, bytes, bytes]]) -> None:
    table = make(items=4, blocksize=8)
    model: dict[bytes, bytes] = {}
    for what, key, value in steps:
        if what in ("set", "update"):
            expected = (key not in model or what == "update") and (key in model or len(model) < 4)
            assert table.set(key, value, flags=UPDATE if what == "update" else 0) == expected
            if expected:
                model[key] = value
        elif what == "delete":
            assert table.delete(key) == (model.pop(key, None) is not None)
        elif what == "get":
            assert table.get(key) == model.get(key)
        else:
            assert table.exists(key) == (key in model)
    assert sorted(table.keys()) == sorted(model)
    check(table)
    os.close(table.region._fd)
