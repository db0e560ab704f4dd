"""two_masters.py and handover.py in two lifecycles that talk to each other, without processes."""

from __future__ import annotations

import pytest

from channels.master import handover, words
from channels.master.children import Phase
from channels.master.lifecycle import BURY_AGAIN, Lifecycle, Mode
from channels.master.words import Limits
from tests.master.world import World


class Pair:
    """Two lifecycles with a link between them; the word `owner` is shared."""

    def __init__(self, same: bool = True) -> None:
        self.old = World(workers=2)
        self.old.ready(1, 2)
        self.same = same
        self.owner = 0
        self.new: Lifecycle | None = None
        self.routers = {"old": True, "new": False}
        self.log: list[tuple[str, words.Command]] = []
        self.new_dead = False
        self.pid = 5000
        self.play("old", words.Verb("upgrade"))

    def life(self, side: str) -> Lifecycle:
        life = self.old.life if side == "old" else self.new
        assert life is not None
        return life

    def play(self, side: str, *events: words.Event) -> None:
        queue = [(side, event) for event in events]
        while queue:
            at, event = queue.pop(0)
            if at == "new" and (self.new is None or self.new_dead):
                continue
            for command in self.life(at).handle(event, self.old.now):
                self.log.append((at, command))
                queue += self._carry_out(at, command)
            assert not all(self.routers.values()), "two routers"

    def _carry_out(self, side: str, command: words.Command) -> list[tuple[str, words.Event]]:
        other = "new" if side == "old" else "old"
        if isinstance(command, handover.Say):
            events: list[tuple[str, words.Event]] = [(other, handover.Said(command.word, command.facts))]
            if command.word == "forked":
                events.insert(0, (other, words.Foreign(*command.facts)))
            return events
        if isinstance(command, handover.ParkRouter):
            self.routers["old"] = False
            return [("old", words.RouterDied(0))]
        if isinstance(command, handover.GoRouter):
            self.routers["new"] = True
            return [("new", words.RouterUp())]
        if isinstance(command, words.ForkRouter):
            if command.candidate:
                return [(side, handover.RouterPrepared())]
            self.routers[side] = True
            return [(side, words.RouterUp())]
        if isinstance(command, handover.SetRole):
            won = command.expect is None or self.owner == command.expect
            if won:
                self.owner = int(command.role)
            return [(side, handover.RoleAnswer(won))] if command.expect is not None else []
        if isinstance(command, handover.EndPeer):
            self.routers[other] = False
            if command.master and other == "new":
                self.new_dead = True
                return [("old", handover.PeerDied(-9))]
        if isinstance(command, words.ForkWorker):
            self.pid += 1
            return [(side, words.Forked(command.slot, self.pid))]
        if isinstance(command, words.Bury):
            return [(side, words.Buried(command.slot, command.generation))]
        return []

    def start_new(self) -> None:
        self.new = Lifecycle(Limits(2, 4, 5.0, 10.0), range(1, 8), handover.NewSide(self.same))
        for slot in range(1, 8):
            child = self.old.life.children.get(slot)
            self.new.children.adopt(slot, child.generation if child else 0)
        self.play("new", words.Started())

    def kill_new(self) -> None:
        self.new_dead = True
        self.play("old", handover.PeerDied(-9))


def test_an_upgrade_moves_the_role_and_the_old_master_ends() -> None:
    pair = Pair()
    pair.start_new()
    assert pair.routers == {"old": False, "new": True} and pair.owner == handover.Role.NEW
    new = pair.life("new")
    slots = [child.slot for child in new.children.all()]
    assert len(slots) == 2 and not set(slots) & {1, 2}
    pair.play("new", *[words.Ready(slot) for slot in slots])
    assert pair.owner == handover.Role.STABLE
    assert [command.slot for side, command in pair.log if side == "old" and isinstance(command, words.Tell)] == [1, 2]
    pair.play("old", words.Died(1, 0), words.Died(2, 0))
    assert ("old", words.Exit(0)) in pair.log and ("old", words.StopRouter()) not in pair.log
    pair.play("new", handover.PeerDied(0))
    assert new.other.routes and new.children.free_slot() == 1


def test_old_workers_that_die_during_an_upgrade_are_buried_by_the_new_router() -> None:
    pair = Pair()
    pair.start_new()
    pair.play("old", words.Died(1, -9))
    assert ("new", words.Bury(1, 1)) in pair.log and ("old", words.Reap(1, 1)) in pair.log


def test_old_workers_that_die_while_the_new_router_is_replaced_are_buried_by_the_next_one() -> None:
    pair = Pair()
    pair.start_new()
    pair.life("new").router_up = False
    pair.play("old", words.Died(1, -9))
    pair.play("new", words.RouterUp())
    assert ("old", words.Reap(1, 1)) not in pair.log
    pair.old.now += BURY_AGAIN
    pair.play("old", words.Tick())
    assert ("new", words.Bury(1, 1)) in pair.log and ("old", words.Reap(1, 1)) in pair.log


def test_who_is_buried_already_is_not_taken_for_a_worker_of_the_old_master_again() -> None:
    pair = Pair()
    pair.start_new()
    pair.play("old", words.Died(1, -9))
    pair.life("new").router_up = False
    pair.log.clear()
    pair.play("new", handover.Said("bury", (1, 1)))  # it was on its way when the answer came, or that is lost
    assert 1 not in pair.life("new").other.foreign and pair.log == [("new", handover.Say("buried", (1, 1)))]


@pytest.mark.parametrize("when", ["before it says hello", "before its workers are ready"])
def test_a_new_master_that_dies_leaves_the_old_one_routing_and_serving(when: str) -> None:
    pair = Pair()
    if when == "before its workers are ready":
        pair.start_new()
    pair.kill_new()
    assert pair.routers == {"old": True, "new": False} and pair.owner == handover.Role.OLD
    assert pair.old.life.mode is Mode.RUNNING and pair.old.life.other.routes
    pair.play("old", words.Died(1, -9))
    assert ("old", words.Reap(1, 1)) in pair.log


def test_a_new_master_that_never_says_anything_is_ended() -> None:
    pair = Pair()
    pair.old.now += 11.0
    pair.play("old", words.Tick())
    assert pair.new_dead and pair.old.life.other.routes


def test_with_another_layout_each_master_keeps_its_own_router() -> None:
    pair = Pair(same=False)
    pair.routers = {"old": False, "new": False}  # each has its own segment here: the check for two does not apply
    pair.start_new()
    assert not any(isinstance(command, handover.ParkRouter) for _, command in pair.log)
    slots = [child.slot for child in pair.life("new").children.all()]
    pair.play("new", *[words.Ready(slot) for slot in slots])
    pair.play("old", words.Died(1, 0), words.Died(2, 0))
    assert ("old", words.StopRouter()) in pair.log and ("old", words.Exit(0)) in pair.log


def test_the_orphans_of_a_killed_new_master_are_buried_by_the_old_one() -> None:
    pair = Pair()
    pair.start_new()
    slots = [child.slot for child in pair.life("new").children.all()]
    pair.kill_new()
    pair.play("old", handover.ForeignDied(slots[0]))
    assert ("old", words.Vacate(slots[0], 2)) in pair.log and ("old", words.Bury(slots[0], 1)) in pair.log


def test_an_old_master_that_dies_before_the_handover_leaves_the_role_to_the_new_one() -> None:
    pair = Pair()
    pair.new = Lifecycle(Limits(2, 4, 5.0, 10.0), range(1, 8), handover.NewSide(True))
    for command in pair.new.handle(words.Started(), pair.old.now):
        assert not isinstance(command, words.ForkWorker)
    pair.new.handle(handover.Said("introduced"), pair.old.now)
    commands = pair.new.handle(handover.PeerDied(0), pair.old.now)
    assert handover.EndPeer(master=False) in commands and handover.SetRole(handover.Role.NEW) in commands
    commands = pair.new.handle(handover.RouterPrepared(), pair.old.now)
    assert handover.GoRouter() in commands
    assert any(isinstance(command, words.ForkWorker) for command in pair.new.handle(words.RouterUp(), pair.old.now))


def test_an_old_master_that_dies_before_it_is_known_what_it_leaves_has_no_successor() -> None:
    pair = Pair()
    pair.new = Lifecycle(Limits(2, 4, 5.0, 10.0), range(1, 8), handover.NewSide(True))
    pair.new.handle(words.Started(), pair.old.now)
    commands = pair.new.handle(handover.PeerDied(0), pair.old.now)
    assert words.StopRouter() in commands and any(isinstance(command, words.Exit) for command in commands)
    assert not any(isinstance(command, (handover.SetRole, handover.GoRouter)) for command in commands)


def test_what_an_old_master_has_is_told_before_it_says_that_this_was_all() -> None:
    pair = Pair()
    pair.start_new()
    said = [command.word for side, command in pair.log if side == "old" and isinstance(command, handover.Say)]
    assert said[: said.index("introduced")] == ["held", "router", "forked", "forked"]


@pytest.mark.parametrize("side", ["old", "new"])
def test_of_a_router_that_replaces_a_dead_one_the_other_master_is_told(side: str) -> None:
    pair = Pair()
    if side == "new":
        pair.start_new()
    pair.log.clear()
    pair.old.now += 5.0
    pair.routers[side] = False
    pair.play(side, words.RouterDied(-9))
    told = [command for at, command in pair.log if at == side and isinstance(command, (words.ForkRouter, handover.Say))]
    assert told[:2] == [words.ForkRouter(candidate=False), handover.Say("router")]


def test_a_second_upgrade_waits_for_the_end_of_the_first() -> None:
    pair = Pair()
    pair.log.clear()
    pair.play("old", words.Verb("upgrade"))
    assert not any(isinstance(command, handover.ExecNew) for _, command in pair.log)


def new_workers(pair: Pair) -> list[int]:
    return [child.slot for child in pair.life("new").children.all()]


def tells(pair: Pair, side: str) -> set[str]:
    return {command.word for at, command in pair.log if at == side and isinstance(command, words.Tell)}


def doors(pair: Pair) -> list[tuple[str, bool]]:
    """Who has closed them, and whether nobody is to come in any more."""
    return [(at, command.refuse) for at, command in pair.log if isinstance(command, words.StopListening)]


@pytest.mark.parametrize("verb", ["stop", "quit"])
def test_a_stop_of_either_master_during_an_upgrade_leaves_the_sockets_to_the_other(verb: str) -> None:
    for side in ("old", "new"):
        pair = Pair()
        pair.start_new()
        pair.play(side, words.Verb(verb))
        assert doors(pair) == [(side, False)] and "finish" not in tells(pair, side)


def test_a_stop_of_both_masters_refuses_who_comes_now() -> None:
    pair = Pair()
    pair.start_new()
    pair.play("old", words.Verb("stop"))
    pair.play("new", words.Verb("stop"))
    assert doors(pair) == [("old", False), ("new", True)]


def test_a_stop_of_the_new_master_that_serves_already_refuses_who_comes_now() -> None:
    pair = Pair()
    pair.start_new()
    pair.play("new", *[words.Ready(slot) for slot in new_workers(pair)])
    pair.play("new", words.Verb("stop"))
    assert doors(pair) == [("old", False), ("new", True)] and "finish" in tells(pair, "new")


def test_the_first_stop_of_a_master_that_was_succeeded_aborts_nothing() -> None:
    pair = Pair()
    pair.start_new()
    pair.play("new", *[words.Ready(slot) for slot in new_workers(pair)])
    pair.play("old", words.Verb("stop"))
    assert tells(pair, "old") == {"drain"}
    pair.play("old", words.Verb("stop"))
    assert tells(pair, "old") == {"drain", "abort"}


def test_a_new_master_that_dies_while_the_old_one_finishes_does_not_keep_it_for_ever() -> None:
    pair = Pair()
    pair.start_new()
    pair.play("new", *[words.Ready(slot) for slot in new_workers(pair)])
    pair.kill_new()
    assert pair.routers == {"old": True, "new": False} and pair.owner == handover.Role.OLD
    pair.play("old", words.Died(1, 0), words.Died(2, 0))
    assert ("old", words.StopRouter()) in pair.log and ("old", words.Exit(0)) in pair.log


def test_a_reload_of_the_new_master_before_it_has_settled_settles_it() -> None:
    pair = Pair()
    pair.start_new()
    pair.play("new", words.Ready(new_workers(pair)[0]), words.Verb("reload"))
    for _ in range(10):
        for child in pair.life("new").children.all():
            gone = child.phase in (Phase.DRAINING, Phase.ENDING)
            pair.play("new", words.Died(child.slot, 0) if gone else words.Ready(child.slot))
    assert pair.owner == handover.Role.STABLE


def test_a_router_that_is_about_to_be_replaced_need_not_be_parked() -> None:
    pair = Pair()
    pair.routers["old"] = False
    pair.play("old", words.RouterUp())  # it begins now, so its death is followed by a pause
    pair.play("old", words.RouterDied(-9))
    assert pair.old.life.next_deadline() is not None and not pair.old.life.router_up
    pair.start_new()
    assert pair.routers == {"old": False, "new": True} and pair.owner == handover.Role.NEW
    pair.old.now += 5.0
    pair.play("old", words.Tick())
    assert pair.routers == {"old": False, "new": True}


def test_a_router_that_stands_in_for_one_that_died_while_it_waited_waits_too() -> None:
    new = Lifecycle(Limits(2, 4, 5.0, 10.0), range(1, 8), handover.NewSide(True))
    new.handle(words.Started(), 0.0)
    assert new.handle(handover.RouterPrepared(), 0.0) == [handover.Say("prepared")]
    assert words.ForkRouter(candidate=True) in new.handle(words.RouterDied(-9), 5.0)
    assert new.handle(handover.RouterPrepared(), 5.1) == [handover.Say("prepared")]
