"""lifecycle.py against a world without processes."""

from __future__ import annotations

import random

import pytest

from channels.master import words
from channels.master.children import Phase
from channels.master.lifecycle import (
    BACKOFF_MAX,
    BURY_AGAIN,
    LIVED_LONG,
    STATUS_APP,
    STATUS_BOOT,
    Lifecycle,
    Mode,
)
from channels.master.words import Limits
from tests.master.world import World


def test_the_router_comes_before_the_workers() -> None:
    life = Lifecycle(Limits(2, 4, 5.0, 10.0), range(1, 8))
    assert [type(command) for command in life.handle(words.Started(), 0.0)] == [words.ForkRouter]
    started = life.handle(words.RouterUp(), 0.0)
    assert [command.slot for command in started if isinstance(command, words.ForkWorker)] == [1, 2]


def test_numbers_are_given_from_zero_and_to_the_successor() -> None:
    world = World(workers=3)
    numbers = {child.slot: child.number for child in world.life.children.all()}
    assert numbers == {1: 0, 2: 1, 3: 2}
    world.ready(1, 2, 3)
    world.now += LIVED_LONG
    world.send(words.Died(2, -9))
    (slot,) = world.phase(Phase.STARTING)
    assert world.life.children.get(slot).number == 1  # type: ignore[union-attr]


def test_a_worker_that_dies_is_replaced_in_another_slot_while_its_own_is_vacated_buried_and_reaped() -> None:
    world = World()
    world.ready(1, 2)
    world.now += LIVED_LONG
    world.done.clear()
    world.send(words.Died(1, -9))
    order = [command for command in world.done if not isinstance(command, words.Report)]
    assert order == [words.Vacate(1, 2), words.Bury(1, 1), words.ForkWorker(3, 1, 1, 0), words.Reap(1, 1)]
    world.ready(3)
    world.now += LIVED_LONG
    world.send(words.Died(2, -9))
    assert words.ForkWorker(1, 3, 1, 1) in world.done


def test_without_a_router_the_dead_stay_zombies_and_are_buried_by_the_next_one() -> None:
    world = World()
    world.ready(1, 2)
    world.now += LIVED_LONG
    world.router_up = False
    world.send(words.RouterDied(-9))
    world.send(words.Died(1, -9))
    assert world.phase(Phase.DEAD) == [1] and words.Reap(1, 1) not in world.done
    world.router_up = True
    world.send(words.RouterUp())
    assert world.phase(Phase.DEAD) == [] and words.Reap(1, 1) in world.done


def test_a_burial_that_nobody_confirms_is_asked_for_again() -> None:
    world = World()
    world.ready(1, 2)
    world.now += LIVED_LONG
    world.router_up = False  # the word is lost, the router lives
    world.send(words.Died(1, -9))
    assert world.phase(Phase.DEAD) == [1]
    assert words.Bury(1, 1) not in world.wait(BURY_AGAIN / 2) and words.Bury(1, 1) in world.wait(BURY_AGAIN / 2)
    assert world.phase(Phase.DEAD) == [1]
    world.router_up = True
    assert words.Reap(1, 1) in world.wait(BURY_AGAIN) and world.phase(Phase.DEAD) == []


def test_a_worker_that_lived_long_is_replaced_at_once_and_one_that_did_not_after_a_pause() -> None:
    world = World(workers=1)
    world.ready(1)
    world.now += LIVED_LONG
    world.send(words.Died(1, -9))
    assert world.forked() == 2
    pauses = []
    for _ in range(8):
        world.ready(*world.phase(Phase.STARTING))
        (slot,) = world.phase(Phase.READY)
        world.send(words.Died(slot, -9))
        assert not world.phase(Phase.STARTING)
        deadline = world.life.next_deadline()
        assert deadline is not None
        pauses.append(deadline - world.now)
        world.wait(pauses[-1])
        assert len(world.phase(Phase.STARTING)) == 1
    assert pauses[:5] == [0.5, 1.0, 2.0, 4.0, 8.0] and pauses[-1] == BACKOFF_MAX


@pytest.mark.parametrize(("status", "expected"), [(4, STATUS_APP), (3, STATUS_BOOT), (-9, STATUS_BOOT)])
def test_a_first_start_that_cannot_boot_ends_the_server(status: int, expected: int) -> None:
    world = World()
    world.send(words.Died(1, status))
    assert world.exit == expected


def test_a_boot_failure_never_ends_a_running_server() -> None:
    world = World()
    world.ready(1)
    world.send(words.Died(2, 4))
    assert world.exit is None
    world.wait(0.5)
    assert world.phase(Phase.STARTING) == [2]


def test_reload_starts_one_worker_ahead_and_drains_one_old_for_each_that_is_ready() -> None:
    world = World(workers=2)
    world.ready(1, 2)
    world.send(words.Verb("reload"))
    assert world.phase(Phase.STARTING) == [3]
    assert world.told("drain") == []
    world.ready(3)
    assert world.told("drain") == [1] and world.phase(Phase.STARTING) == [4]
    world.ready(4)
    assert world.told("drain") == [1, 2]
    assert world.phase(Phase.READY) == [3, 4] and not world.life.reloading


def test_a_reload_whose_first_worker_cannot_boot_leaves_the_old_ones_alone() -> None:
    world = World(workers=2)
    world.ready(1, 2)
    world.send(words.Verb("reload"))
    world.send(words.Died(3, 4))
    assert world.told("drain") == [] and world.phase(Phase.READY) == [1, 2]
    assert not world.life.reloading
    world.wait(60)
    assert world.phase(Phase.STARTING) == []


def test_a_second_reload_in_the_middle_of_one_ends_with_the_newest_batch_only() -> None:
    world = World(workers=2)
    world.ready(1, 2)
    world.send(words.Verb("reload"))
    world.ready(3)
    world.send(words.Verb("reload"))
    assert 4 in world.told("abort")
    for _ in range(20):
        for child in world.life.children.in_phase(Phase.STARTING):
            world.ready(child.slot)
        for child in world.life.children.in_phase(Phase.DRAINING, Phase.ENDING):
            world.send(words.Died(child.slot, 0))
    assert {child.batch for child in world.life.children.all()} == {3}
    assert len(world.phase(Phase.READY)) == 2


def test_who_wants_out_gets_a_successor_first_and_drains_when_that_one_is_ready() -> None:
    world = World(workers=2)
    world.ready(1, 2)
    world.send(words.WantsOut(2, "max_requests"))
    assert world.phase(Phase.STARTING) == [3] and world.told("drain") == []
    assert world.life.children.get(3).number == 1  # type: ignore[union-attr]
    world.ready(3)
    assert world.told("drain") == [2]


def test_a_successor_that_dies_is_tried_again() -> None:
    world = World(workers=1)
    world.ready(1)
    world.send(words.WantsOut(1, "max_age"))
    world.send(words.Died(2, 1))
    assert world.phase(Phase.READY) == [1]
    world.wait(0.5)
    assert world.phase(Phase.STARTING) == [2]


def test_stop_refuses_new_connections_first_and_exits_when_all_are_gone() -> None:
    world = World(workers=2)
    world.ready(1)
    world.done.clear()
    world.send(words.Verb("stop"))
    assert isinstance(world.done[1], words.StopListening) and world.done[1].refuse
    assert world.told("finish") == [1] and world.told("abort") == [2]
    world.send(words.Died(1, 0))
    assert world.exit is None
    world.send(words.Died(2, 0))
    assert world.exit == 0 and isinstance(world.done[-2], words.StopRouter)


def test_a_second_stop_ends_at_once() -> None:
    world = World(workers=1)
    world.ready(1)
    world.send(words.Verb("stop"))
    world.send(words.Verb("stop"))
    assert world.told("abort") == [1] and world.life.mode is Mode.ENDING


def test_who_does_not_drain_in_time_is_killed() -> None:
    world = World(workers=1, graceful=5.0)
    world.ready(1)
    world.send(words.Verb("stop"))
    world.wait(4.9)
    assert not any(isinstance(command, words.Kill) for command in world.done)
    world.wait(0.2)
    assert words.Kill(1, "KILL") in world.done


def test_a_silent_worker_is_asked_for_its_stacks_and_then_killed() -> None:
    world = World(workers=1)
    world.ready(1)
    world.send(words.Silent(1, 31.0))
    assert words.Kill(1, "DUMP") in world.done and words.Kill(1, "KILL") not in world.done
    world.send(words.Silent(1, 32.0))
    assert world.done.count(words.Kill(1, "DUMP")) == 1
    world.wait(1.0)
    assert words.Kill(1, "KILL") in world.done


def test_quarantine_of_an_earlier_generation_harms_nobody() -> None:
    world = World(workers=1)
    world.ready(1)
    world.send(words.Quarantined(1, 99, "broken ring"))
    assert world.phase(Phase.READY) == [1]
    world.send(words.Quarantined(1, 1, "broken ring"))
    assert words.Kill(1, "KILL") in world.done


def test_more_and_fewer_workers_stay_within_the_bounds() -> None:
    world = World(workers=2, max_workers=3)
    world.ready(1, 2)
    world.send(words.Verb("more"), words.Verb("more"))
    assert world.phase(Phase.STARTING) == [3] and world.life.target == 3
    world.ready(3)
    world.send(*[words.Verb("fewer")] * 5)
    assert world.life.target == 1 and len(world.phase(Phase.READY)) == 1


def test_winch_drains_all_and_a_reload_brings_them_back() -> None:
    world = World(workers=2)
    world.ready(1, 2)
    world.send(words.Verb("drain_workers"))
    assert world.told("drain") == [1, 2]
    world.send(words.Died(1, 0), words.Died(2, 0))
    assert world.exit is None and len(world.life.children) == 0
    world.send(words.Verb("reload"))
    world.ready(1)
    assert len(world.life.children) == 2


def test_a_router_that_dies_is_replaced_while_workers_stay() -> None:
    world = World()
    world.ready(1, 2)
    world.now += 5
    world.done.clear()
    world.send(words.RouterDied(-9))
    assert words.ForkRouter() in world.done and world.phase(Phase.READY) == [1, 2]


def test_a_router_that_dies_young_is_replaced_after_a_pause() -> None:
    world = World()
    world.ready(1, 2)
    world.done.clear()
    world.send(words.RouterDied(-9))
    assert words.ForkRouter() not in world.done
    world.wait(0.5)
    assert words.ForkRouter() in world.done


def test_a_router_that_cannot_start_at_all_ends_the_server() -> None:
    life = Lifecycle(Limits(1, 2, 5.0, 10.0), range(1, 4))
    life.handle(words.Started(), 0.0)
    assert words.Exit(STATUS_BOOT) in life.handle(words.RouterDied(1), 0.1)


def test_fork_failures_are_tried_again_with_a_pause() -> None:
    world = World(workers=1)
    world.ready(1)
    world.now += LIVED_LONG
    world.send(words.Verb("more"))
    slot = world.phase(Phase.STARTING)[0]
    world.holders.pop(slot)
    world.send(words.ForkFailed(slot, "Resource temporarily unavailable"))
    assert world.exit is None and world.phase(Phase.STARTING) == []
    world.wait(0.5)
    assert len(world.phase(Phase.STARTING)) == 1


@pytest.mark.parametrize("seed", range(200))
def test_whatever_happens_slots_are_held_once_and_a_running_server_comes_back(seed: int) -> None:
    chance = random.Random(seed)
    world = World(workers=chance.randint(1, 3), max_workers=4, slots=chance.randint(8, 10))
    world.ready(*world.phase(Phase.STARTING))
    for _ in range(200):
        if world.exit is not None:
            break
        children = world.life.children.all()
        alive = [child for child in children if child.phase is not Phase.DEAD]
        child = chance.choice(alive) if alive else None
        what = chance.randint(0, 11)
        if child is not None and what <= 3:
            world.ready(child.slot)
        elif child is not None and what <= 5:
            world.send(words.Died(child.slot, chance.choice([0, -9, -15, 4])))
        elif child is not None and what == 6:
            world.send(words.WantsOut(child.slot, "max_requests"))
        elif child is not None and what == 7:
            world.send(words.Silent(child.slot, 99.0))
        elif what == 8:
            world.send(words.Verb(chance.choice(["reload", "more", "fewer", "reopen", "drain_workers"])))
        elif what == 9 and world.router_up:
            world.router_up = False
            world.send(words.RouterDied(-9))
        elif what == 10 and not world.router_up:
            world.router_up = True
            world.send(words.RouterUp())
        else:
            world.wait(chance.choice([0.1, 1.0, 20.0]))
        assert len(world.life.children) <= len(world.life.children.slots)
    assert world.exit is None, "a server that has served does not end by itself"
    world.router_up = True
    world.send(words.RouterUp(), words.Verb("reload"))
    for _ in range(60):
        world.wait(20.0)
        for child in world.life.children.in_phase(Phase.DRAINING, Phase.ENDING):
            world.send(words.Died(child.slot, 0))
        world.ready(*world.phase(Phase.STARTING))
    assert len(world.phase(Phase.READY)) == world.life.target > 0
    numbers = sorted(child.number for child in world.life.children.in_phase(Phase.READY))
    assert numbers == list(range(world.life.target))
