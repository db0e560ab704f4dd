"""handover.py: two masters, one role; whoever dies wherever, exactly one of them routes in the end."""

from __future__ import annotations

import pytest

from channels.master import handover
from channels.master.handover import New, NewSide, Old, OldSide, Role, Said


class Pair:
    """Both sides and the word between them; commands are carried out at once, words travel when the test lets them."""

    def __init__(self, same: bool = True) -> None:
        self.old, self.new = OldSide(5.0), NewSide(same)
        self.word = Role.OLD
        self.to_old: list[handover.Event] = []
        self.to_new: list[handover.Event] = []
        self.routers = {"old": True, "new": False}
        self.alive = {"old": True, "new": False}
        self.restored: set[str] = set()
        self.retired = self.gave_up = False
        self.now = 0.0
        self.steps = 0
        self.dies: tuple[str, int] | None = None  # who dies before carrying out its n-th command
        self.count = {"old": 0, "new": 0}

    def perform(self, who: str, commands: list[handover.Command]) -> None:
        other = "new" if who == "old" else "old"
        inbox = self.to_new if who == "old" else self.to_old
        mine = self.to_old if who == "old" else self.to_new
        for command in commands:
            if not self.alive[who]:
                return
            if self.dies == (who, self.count[who]):
                self.die(who)
                return
            self.count[who] += 1
            if isinstance(command, handover.ExecNew):
                self.alive["new"] = True
                self.perform("new", self.new.start())
            elif isinstance(command, handover.Say):
                inbox.append(Said(command.word, command.facts))
            elif isinstance(command, handover.ParkRouter):
                self.routers["old"] = False
                self.perform("old", self.old.router_gone(self.now))
            elif isinstance(command, handover.SetRole):
                won = command.expect is None or self.word is command.expect
                if won:
                    self.word = command.role
                if command.expect is not None:
                    mine.append(handover.RoleAnswer(won))
            elif isinstance(command, handover.GoRouter):
                self.routers["new"] = True
            elif isinstance(command, handover.ReplaceRouter):
                self.routers["old"] = True
            elif isinstance(command, handover.EndPeer):
                self.routers[other] = False
                if command.master and self.alive[other]:
                    self.die(other)
            elif isinstance(command, handover.Restore):
                self.restored.add(who)
            elif isinstance(command, handover.Retire):
                self.retired = True
            elif isinstance(command, handover.GiveUp):
                self.gave_up = True
                self.die(who)
            assert not (self.routers["old"] and self.routers["new"]) or not self.new.same, "two routers"

    def die(self, who: str) -> None:
        """Its router outlives an old master for its workers' sake; a new master's too, until it is ended."""
        self.alive[who] = False
        (self.to_new if who == "old" else self.to_old).append(handover.PeerDied(-9))

    def run(self) -> None:
        """Until nothing more happens."""
        self.perform("old", self.old.start(self.now))
        if self.alive["new"] and self.new.same:
            self.to_new.append(handover.RouterPrepared())
        elif self.alive["new"]:
            self.perform("new", self.new.settled())
        while self.to_old or self.to_new:
            if self.to_new:
                event = self.to_new.pop(0)
                if self.alive["new"]:
                    self.perform("new", self.new.handle(event, self.now))
                    if self.new.routes and self.alive["new"]:
                        self.perform("new", self.new.settled())
            if self.to_old:
                event = self.to_old.pop(0)
                if self.alive["old"]:
                    self.perform("old", self.old.handle(event, self.now))
                    if event == Said("hello", (1,)) and self.alive["old"]:
                        self.to_new.append(Said("introduced"))


def test_everything_goes_well() -> None:
    pair = Pair()
    pair.run()
    assert pair.old.state is Old.DONE and pair.new.state is New.STABLE
    assert pair.routers == {"old": False, "new": True} and pair.retired and pair.word is Role.STABLE


def test_another_layout_leaves_each_its_own_router_and_the_old_one_drains() -> None:
    pair = Pair(same=False)
    pair.run()
    assert pair.old.state is Old.DONE and pair.retired and pair.routers["old"] and pair.old.routes


@pytest.mark.parametrize("step", range(12))
def test_a_new_master_that_dies_at_any_step_leaves_the_old_one_routing_or_done(step: int) -> None:
    pair = Pair()
    pair.dies = ("new", step)
    pair.run()
    if pair.alive["new"]:
        assert step >= pair.count["new"]  # it had nothing left to do
        return
    if pair.old.state is not Old.DONE:
        assert pair.routers == {"old": True, "new": False} and pair.old.routes
        assert "old" in pair.restored and pair.old.state is Old.FAILED and not pair.retired


@pytest.mark.parametrize("step", range(1, 12))
def test_an_old_master_that_dies_at_any_step_leaves_the_new_one_routing(step: int) -> None:
    pair = Pair()
    pair.dies = ("old", step)
    pair.run()
    if pair.alive["old"]:
        assert step >= pair.count["old"]
        return
    if pair.alive["new"]:
        assert pair.routers["new"] and pair.new.routes


def test_a_new_master_that_never_answers_is_ended_in_time() -> None:
    old = OldSide(5.0)
    old.start(0.0)
    assert old.tick(4.9) == []
    commands = old.tick(5.0)
    assert handover.EndPeer(master=True) in commands
    assert handover.Restore() in old.handle(handover.PeerDied(-9), 5.1) and old.state is Old.FAILED


def offered() -> OldSide:
    old = OldSide(5.0)
    old.start(0.0)
    old.handle(Said("hello", (1,)), 0.0)
    old.handle(Said("prepared"), 0.0)
    assert old.router_gone(0.0) == [handover.SetRole(Role.OFFERED), handover.Say("offered")]
    return old


def test_an_offer_that_is_not_taken_is_taken_back_by_compare_and_swap() -> None:
    old = offered()
    assert old.tick(handover.OFFER_PATIENCE) == [handover.SetRole(Role.OLD, expect=Role.OFFERED)]
    commands = old.handle(handover.RoleAnswer(True), 10.0)
    assert handover.EndPeer(master=True) in commands and handover.ReplaceRouter() in commands


def test_who_was_faster_but_hangs_before_it_says_so_is_ended_too() -> None:
    old = offered()
    old.tick(handover.OFFER_PATIENCE)
    old.handle(handover.RoleAnswer(False), 10.0)
    assert old.state is Old.TAKEN and not old.routes
    assert handover.EndPeer(master=True) in old.tick(16.0)
    commands = old.handle(handover.PeerDied(-9), 16.1)
    assert handover.SetRole(Role.OLD) in commands and handover.ReplaceRouter() in commands


@pytest.mark.parametrize("answered", [False, True])
def test_what_one_said_that_was_ended_for_its_slowness_does_not_count(answered: bool) -> None:
    old = offered()
    if answered:
        old.handle(Said("taken"), 1.0)
    else:
        old.tick(handover.OFFER_PATIENCE)
        old.handle(handover.RoleAnswer(False), 10.0)
    assert handover.EndPeer(master=True) in old.tick(16.0)
    assert old.handle(Said("stable"), 16.0) == []  # read only now: nobody serves if we retire
    commands = old.handle(handover.PeerDied(-9), 16.1)
    assert handover.SetRole(Role.OLD) in commands and handover.ReplaceRouter() in commands


def prepared(introduced: bool = True) -> NewSide:
    new = NewSide(True)
    assert new.handle(handover.RouterPrepared(), 0.0) == [handover.Say("prepared")]
    if introduced:
        new.handle(Said("introduced"), 0.0)
    return new


def test_a_new_master_takes_the_role_of_one_that_died_only_if_it_knows_what_to_end() -> None:
    assert handover.SetRole(Role.NEW) in prepared().handle(handover.PeerDied(0), 1.0)
    for new in (prepared(introduced=False), NewSide(True)):
        commands = new.handle(handover.PeerDied(0), 1.0)
        assert [type(command) for command in commands] == [handover.GiveUp] and not new.routes


def test_a_router_that_dies_unasked_is_not_the_handovers_business() -> None:
    old = OldSide(5.0)
    old.start(0.0)
    assert old.router_gone(1.0) == [] and old.routes


def test_words_at_the_wrong_time_are_nothing() -> None:
    old = OldSide(5.0)
    old.start(0.0)
    for word in ("prepared", "taken", "stable", "nonsense"):
        assert old.handle(Said(word), 0.0) == []
    new = NewSide(True)
    for word in ("offered", "nonsense"):
        assert new.handle(Said(word), 0.0) == []
