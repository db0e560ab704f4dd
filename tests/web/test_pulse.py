"""The shared timer: who is silent is looked at, who speaks is left alone, and nobody left means no timer."""

from __future__ import annotations

from channels.web.pulse import Pulse


class Member:
    def __init__(self) -> None:
        self.beat_tick = self.beat_due = 0
        self.beats = 0

    def beat(self) -> None:
        self.beats += 1


class Failing(Member):
    def beat(self) -> None:
        super().beat()
        raise RuntimeError("on purpose")


def test_a_silent_member_is_looked_at_once_a_period() -> None:
    pulse, member = Pulse(), Member()
    pulse.add(member, 3)
    for _ in range(9):
        pulse._turn()
    assert member.beats == 3
    pulse.remove(member)


def test_one_that_speaks_is_left_alone_until_a_whole_period_is_silent() -> None:
    pulse, member = Pulse(), Member()
    pulse.add(member, 3)
    for _ in range(10):
        pulse._turn()
        member.beat_tick = pulse.tick
    assert member.beats == 0
    pulse._turn()
    pulse._turn()
    assert member.beats == 0
    pulse._turn()
    assert member.beats == 1
    pulse.remove(member)


def test_periods_are_rounded_up_to_whole_ticks() -> None:
    pulse, member = Pulse(), Member()
    pulse.add(member, 0.2)
    pulse._turn()
    assert member.beats == 1
    pulse.remove(member)


def test_the_last_one_to_go_stops_the_timer() -> None:
    pulse, one, two = Pulse(), Member(), Member()
    pulse.add(one, 1)
    pulse.add(two, 1)
    pulse._turn()
    pulse.remove(one)
    pulse.remove(one)
    assert pulse._timer is not None
    pulse.remove(two)
    assert pulse._timer is None
    pulse.add(one, 1)
    assert pulse._timer is not None
    pulse.remove(one)


def test_a_member_that_fails_harms_no_other() -> None:
    pulse, failing, other = Pulse(), Failing(), Member()
    pulse.add(failing, 1)
    pulse.add(other, 1)
    pulse._turn()
    pulse._turn()
    assert (failing.beats, other.beats) == (2, 2)
    pulse.remove(failing)
    pulse.remove(other)
