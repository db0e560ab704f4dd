"""signals.py: what a signal asks for, without a handler that does anything."""

from __future__ import annotations

import os
import select
import signal

import pytest

from channels.master import signals
from tests.children import in_child


def test_signals_are_verbs_in_the_order_they_came() -> None:
    def noted() -> list[str]:
        inbox = signals.Inbox()
        assert inbox.verbs() == []
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGWINCH):
            os.kill(os.getpid(), number)
        assert select.select([inbox], [], [], 10)[0]
        return inbox.verbs()

    assert in_child(noted) == ["reload", "stop", "drain_workers"]


def test_a_flood_of_signals_neither_blocks_nor_is_forgotten_altogether() -> None:
    def flooded() -> set[str]:
        inbox = signals.Inbox()
        for _ in range(100_000):
            signal.raise_signal(signal.SIGHUP)
        found: set[str] = set()
        while verbs := inbox.verbs():
            found |= set(verbs)
        return found

    assert in_child(flooded) == {"reload"}


def test_a_signal_that_is_no_verb_is_no_verb() -> None:
    def noted() -> list[str]:
        inbox = signals.Inbox()
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.raise_signal(signal.SIGALRM)
        return inbox.verbs()

    assert in_child(noted) == []


def test_after_close_signals_are_ignored_and_descriptors_are_gone() -> None:
    def closed() -> bool:
        before = os.listdir("/proc/self/fd")
        inbox = signals.Inbox()
        inbox.close()
        signal.raise_signal(signal.SIGTERM)
        return os.listdir("/proc/self/fd") == before

    assert in_child(closed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGWINCH, signal.SIGUSR1, signal.SIGUSR2])
def test_a_child_is_deaf_to_what_a_terminal_sends_to_everyone(number: signal.Signals) -> None:
    def survived() -> bool:
        signals.Inbox()
        signals.reset()
        signal.raise_signal(number)
        return True

    assert in_child(survived)


def test_a_program_that_is_executed_gets_the_defaults() -> None:
    def handlers() -> list[int]:
        signals.reset()
        signals.to_default()
        return [number for number in signals.VERBS if signal.getsignal(number) != signal.SIG_DFL]

    assert in_child(handlers) == []
