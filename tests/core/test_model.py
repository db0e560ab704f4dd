"""The C core against its specification: a ring is a deque, a channel is a set and a list.

Random steps, each compared.  HYPOTHESIS_STEPS=100000 takes that many instead of the quick number, and as many whole
lives of a ring; hypothesis, or the seed in the failure's words, reproduces a failure.
"""

from __future__ import annotations

import collections
import ctypes
import os
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

HERE = Path(__file__).parent
STEPS = int(os.environ.get("HYPOTHESIS_STEPS", "4000"))
OK, EMPTY, FULL, TOO_BIG = range(4)
HEADER, ALIGN = 48, 16
SLOTS = range(1, 6)
NAMES = [b"news", b"news:1", b"talk", b"x" * 200]


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("model") / "model.so"
    driver = HERE / "driver"
    sources = [HERE / "model" / "model.c", driver / "world.c"]
    subprocess.run(
        [
            "make",
            "-s",
            "-C",
            str(driver),
            "shared",
            f"LIBRARY={path}",
            f"MODEL={' '.join(map(str, sources))}",
            "CC=gcc",
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )
    found = ctypes.CDLL(str(path))
    found.model_ring_new.restype = found.world_new.restype = ctypes.c_void_p
    return found


def run_machine(machine: type[RuleBasedStateMachine], steps_each: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, STEPS // steps_each),
            stateful_step_count=steps_each,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


LAPS = [0, 2**32 - 2**16, 2**63 - 2**16]  # where the 64 KiB begin in which a ring's positions do


def span(size: int) -> int:
    return (HEADER + size + ALIGN - 1) // ALIGN * ALIGN


class Ring(RuleBasedStateMachine):
    """Positions and records of one ring."""

    core: ctypes.CDLL
    ring: ctypes.c_void_p | None = None

    @precondition(lambda self: self.ring is None)
    @rule(
        power=st.integers(12, 16),
        lap=st.sampled_from(LAPS),
        offset=st.integers(0, 2**12),
    )
    def create(self, power: int, lap: int, offset: int) -> None:
        self.capacity = 1 << power
        self.tail = self.head = self.taken = lap + offset * ALIGN
        self.ring = ctypes.c_void_p(
            self.core.model_ring_new(ctypes.c_uint64(self.capacity), ctypes.c_uint64(self.tail))
        )
        self.claimed: list[tuple[int, int, int]] = []  # size, mark, position behind it
        self.visible: collections.deque[tuple[int, int, int]] = collections.deque()
        self.published = self.tail
        self.mark = 0

    def teardown(self) -> None:
        if self.ring is not None:
            self.core.model_ring_free(self.ring)

    def _after(self, size: int) -> int:
        left = self.capacity - self.tail % self.capacity
        return self.tail + span(size) + (left if span(size) > left else 0)

    @precondition(lambda self: self.ring is not None)
    @rule(share=st.integers(0, 300), extra=st.integers(0, 40))
    def put(self, share: int, extra: int) -> None:
        size = self.capacity // 4 * share // 256 + extra
        self.mark += 1
        status = self.core.model_ring_put(self.ring, ctypes.c_uint64(size), self.mark)
        after = self._after(size)
        if span(size) > self.capacity // 4:
            assert status == TOO_BIG
        elif after - self.head > self.capacity:
            assert status == FULL
        else:
            assert status == OK
            self.tail = after
            self.claimed.append((size, self.mark, after))

    @precondition(lambda self: self.ring is not None)
    @rule()
    def publish(self) -> None:
        self.core.model_ring_publish(self.ring)
        self.visible.extend(self.claimed)
        self.claimed, self.published = [], self.tail

    @precondition(lambda self: self.ring is not None)
    @rule()
    def roll_back(self) -> None:
        self.core.model_ring_rollback(self.ring)
        self.claimed, self.tail = [], self.published

    @precondition(lambda self: self.ring is not None)
    @rule(most=st.integers(1, 10))
    def get(self, most: int) -> None:
        size, mark = ctypes.c_uint64(), ctypes.c_uint64()
        for _ in range(most):
            status = self.core.model_ring_get(self.ring, ctypes.byref(size), ctypes.byref(mark))
            if not self.visible:
                assert status == EMPTY
                return
            wanted = self.visible.popleft()
            assert (status, size.value, mark.value) == (OK, *wanted[:2])
            self.taken = wanted[2]

    @precondition(lambda self: self.ring is not None)
    @rule()
    def release(self) -> None:
        self.core.model_ring_release(self.ring)
        self.head = self.taken


class Fabric(RuleBasedStateMachine):
    """Workers that join, send, stop reading and die; a router that dies anywhere."""

    core: ctypes.CDLL

    def __init__(self) -> None:
        super().__init__()
        self.world = ctypes.c_void_p(self.core.world_new(8192, 32))
        self.alive: set[int] = set()
        self.members: dict[bytes, set[int]] = {name: set() for name in NAMES}
        self.sent: list[tuple[bytes, int, int]] = []  # channel, sender, payload: not settled yet
        self.last: dict[bytes, int] = {}
        self.payload = 0
        for slot in (1, 2):
            self.start(slot)
            for name in NAMES[:2]:
                self.join(slot, name)

    def teardown(self) -> None:
        self.settle()
        self.core.world_free(self.world)

    def start(self, slot: int) -> None:
        self.core.world_start_worker(self.world, slot)
        self.alive.add(slot)
        self.settle()

    def settle(self, gone: int = 0) -> None:
        """Everything sent has come to all who listen: in one order, each sender's own order kept."""
        self.core.world_settle(self.world)
        received: dict[bytes, dict[int, list[tuple[int, int]]]] = {name: {} for name in NAMES}
        rows = {self.core.model_row(self.world, name): name for name in NAMES if self.members[name]}
        number = ctypes.c_uint32 * 4096
        row, sequence, payload = number(), (ctypes.c_uint64 * 4096)(), number()
        for slot in self.alive:
            for i in range(self.core.model_seen(self.world, slot, row, sequence, payload)):
                received[rows[row[i]]].setdefault(slot, []).append((sequence[i], payload[i]))
            assert self.core.model_gaps(self.world, slot) == 0
        for name, members in self.members.items():
            sent = [(sender, number) for channel, sender, number in self.sent if channel == name]
            for slot in members & self.alive:
                assert received[name].get(slot, []) == next(iter(received[name].values()), [])
            assert set(received[name]) == (members & self.alive if sent and members & self.alive else set())
            if not received[name]:
                continue
            order = next(iter(received[name].values()))
            first = self.last.get(name, 0) + 1
            assert [number for number, _ in order] == list(range(first, first + len(order)))
            self.last[name] = first + len(order) - 1
            assert sorted(number for _, number in order) == sorted(number for _, number in sent)
            for sender in SLOTS:
                assert [n for _, n in order if (sender, n) in sent] == [n for by, n in sent if by == sender]
        self.sent = []

    @rule(slot=st.sampled_from(SLOTS), name=st.sampled_from(NAMES))
    def join(self, slot: int, name: bytes) -> None:
        if slot not in self.alive:
            return
        self.settle()
        if not self.members[name]:
            self.last[name] = 0  # another row, another numbering
        assert self.core.world_join(self.world, slot, name, 0, ctypes.c_uint64(7)) == OK
        self.members[name].add(slot)
        self.settle()

    @rule(slot=st.sampled_from(SLOTS), name=st.sampled_from(NAMES))
    def leave(self, slot: int, name: bytes) -> None:
        if slot not in self.alive:
            return
        self.settle()
        assert self.core.world_leave(self.world, slot, name) == OK
        self.members[name].discard(slot)
        self.settle()

    @rule(
        slot=st.sampled_from(SLOTS),
        name=st.sampled_from(NAMES),
        count=st.integers(1, 20),
        size=st.integers(4, 2000),
    )
    def send(self, slot: int, name: bytes, count: int, size: int) -> None:
        if slot not in self.alive:
            return
        for _ in range(count):
            self.payload += 1
            status = self.core.world_send(self.world, slot, name, self.payload, size)
            if not self.members[name]:
                assert status == EMPTY
            else:
                assert status in (OK, FULL)
            if status == OK:
                self.sent.append((name, slot, self.payload))

    @rule(count=st.integers(1, 3))
    def turns(self, count: int) -> None:
        self.core.model_turns(self.world, count)

    @rule(slot=st.sampled_from(SLOTS))
    def drain(self, slot: int) -> None:
        if slot in self.alive:
            self.core.world_drain(self.world, slot)

    @rule(store=st.integers(1, 250))
    def router_dies(self, store: int) -> None:
        for slot in self.alive:  # who is not behind loses nothing
            self.core.world_drain(self.world, slot)
        if sum(1 for _ in self.sent) < 4:
            self.core.model_turn_to_death(self.world, ctypes.c_uint64(store))

    @rule(slot=st.sampled_from(SLOTS), store=st.integers(0, 120))
    def worker_dies(self, slot: int, store: int) -> None:
        if slot not in self.alive:
            self.start(slot)
            return
        self.settle()
        self.send(slot, NAMES[slot % len(NAMES)], 3, 50)
        self.core.world_kill_worker(self.world, slot)
        self.alive.discard(slot)
        if store:
            self.core.model_bury_to_death(self.world, slot, ctypes.c_uint64(store))
        else:
            self.core.world_bury(self.world, slot)
        self.core.world_settle(self.world)
        for members in self.members.values():
            members.discard(slot)
        self.settle()

    @invariant()
    def rows_are_those_with_members(self) -> None:
        assert self.core.model_rows_used(self.world) <= len(NAMES)
        for name in NAMES:
            assert self.core.world_members(self.world, name) == len(self.members[name])


def test_a_ring_is_a_deque(core: ctypes.CDLL) -> None:
    run_machine(type("ThisRing", (Ring,), {"core": core}), 50)


def test_a_ring_is_a_deque_in_each_of_many_lives(core: ctypes.CDLL, request: pytest.FixtureRequest) -> None:
    machine = type("ThisRing", (Ring,), {"core": core})
    seed = request.config.getoption("--hypothesis-seed") or random.SystemRandom().randrange(1 << 32)
    chance = random.Random(f"{seed}/lives")
    wrapped = crossed = 0
    for life in range(STEPS):
        ring = machine()
        ring.create(power=chance.randrange(12, 17), lap=chance.choice(LAPS), offset=chance.randrange(2**12 + 1))
        begun, largest = ring.tail, chance.choice([1, 20, 300])
        try:
            for _ in range(50):
                step = chance.random()
                if step < 0.5:
                    ring.put(share=chance.randrange(largest), extra=chance.randrange(41))
                elif step < 0.65:
                    ring.publish()
                elif step < 0.7:
                    ring.roll_back()
                elif step < 0.85:
                    ring.get(most=chance.randrange(1, 11))
                else:
                    ring.release()
        except AssertionError as error:
            raise AssertionError(f"life {life} of --hypothesis-seed={seed}") from error
        finally:
            ring.teardown()
        crossed += any(begun < at <= ring.tail for at in (2**32, 2**63))
        wrapped += ring.tail - begun > ring.capacity
    assert wrapped > STEPS // 10 and crossed > STEPS // 20, f"{wrapped} went round, {crossed} past 2^32 or 2^63"


def test_a_channel_is_a_set_and_an_order(core: ctypes.CDLL) -> None:
    run_machine(type("ThisFabric", (Fabric,), {"core": core}), 40)
