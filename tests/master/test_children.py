"""children.py: slots are reused, generations never."""

from __future__ import annotations

import pytest

from channels.master.children import Children, Phase


def test_the_lowest_free_slot_is_given_and_a_held_one_is_not() -> None:
    children = Children(range(1, 4))
    for slot in (1, 2, 3):
        assert children.free_slot() == slot
        children.add(slot, 1, 0, 0.0)
    assert children.free_slot() is None
    with pytest.raises(ValueError, match="slot 2 is held"):
        children.add(2, 1, 0, 0.0)
    children.vacate(2)
    assert children.free_slot() is None  # dead, but not buried
    children.remove(2)
    assert children.free_slot() == 2


def test_generations_are_odd_while_a_slot_is_held_and_grow_for_ever() -> None:
    children = Children(range(1, 2))
    seen = []
    for _ in range(5):
        seen.append(children.add(1, 1, 0, 0.0).generation)
        seen.append(children.vacate(1))
        children.remove(1)
    assert seen == list(range(1, 11))


@pytest.mark.parametrize(("found", "following"), [(0, 1), (1, 3), (4, 5), (7, 9)])
def test_an_adopted_slot_goes_on_from_its_generation(found: int, following: int) -> None:
    children = Children(range(1, 2))
    children.adopt(1, found)
    children.adopt(1, 0)  # never back
    assert children.add(1, 1, 0, 0.0).generation == following


def test_slots_of_another_master_are_kept_out() -> None:
    children = Children(range(1, 5))
    children.keep_out({1, 2})
    assert children.free_slot() == 3
    children.keep_out(set())
    assert children.free_slot() == 1 and children.slots == {1, 2, 3, 4}


def test_children_are_found_by_slot_pid_and_phase_the_oldest_first() -> None:
    children = Children(range(1, 4))
    for slot, started in ((1, 5.0), (2, 3.0), (3, 4.0)):
        children.add(slot, 1, 0, started).pid = slot * 100
    assert [child.slot for child in children.in_phase(Phase.STARTING)] == [2, 3, 1]
    assert [child.slot for child in children.all()] == [1, 2, 3] and len(children) == 3
    found = children.of_pid(300)
    assert found is children.get(3) and children.of_pid(7) is None
    children.get(3).phase = Phase.READY  # type: ignore[union-attr]
    assert [child.slot for child in children.in_phase(Phase.STARTING, Phase.READY)] == [2, 3, 1]
    assert [child.slot for child in children.in_phase(Phase.READY)] == [3]
    assert children.held() == {1, 2, 3}
