"""words.py: facts without behaviour, and nobody forgets one of them."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from channels.master import handover, lifecycle, master, signals, words

EVENTS = typing.get_args(words.Event)
COMMANDS = typing.get_args(words.Command)


def test_words_are_plain_and_frozen() -> None:
    for kind in (*EVENTS, *COMMANDS):
        assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen


@pytest.mark.parametrize("event", EVENTS, ids=lambda kind: kind.__name__)
def test_lifecycle_knows_every_event(event: type) -> None:
    assert event in lifecycle.Lifecycle._TABLE


@pytest.mark.parametrize("command", COMMANDS, ids=lambda kind: kind.__name__)
def test_the_master_carries_out_every_command(command: type) -> None:
    assert command in master._CARRY_OUT


def test_what_handover_decides_is_carried_out_by_lifecycle_or_master() -> None:
    lifecycles_own = {handover.Note, handover.Retire, handover.ReplaceRouter, handover.GiveUp}
    for command in typing.get_args(handover.Command):
        assert (command in master._CARRY_OUT) != (command in lifecycles_own)


def test_every_signal_is_a_verb_that_lifecycle_knows() -> None:
    assert set(signals.VERBS.values()) == set(lifecycle.Lifecycle._VERBS)
