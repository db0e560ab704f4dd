"""Signal -> verb, and the pipe by which a signal reaches a loop that sleeps in poll()."""

from __future__ import annotations

import os
import signal

VERBS = {
    signal.SIGTERM: "stop",
    signal.SIGQUIT: "stop",
    signal.SIGINT: "quit",
    signal.SIGHUP: "reload",
    signal.SIGUSR2: "upgrade",
    signal.SIGUSR1: "reopen",
    signal.SIGTTIN: "more",
    signal.SIGTTOU: "fewer",
    signal.SIGWINCH: "drain_workers",
}


class Inbox:
    """Signals as they come, without a handler that does anything."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in VERBS:
            signal.signal(number, _noted)

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._read

    def verbs(self) -> list[str]:
        """What was asked for since the last call."""
        try:
            data = os.read(self._read, 4096)
        except BlockingIOError:
            return []
        return [VERBS[signal.Signals(number)] for number in data if number in VERBS]

    def close(self) -> None:
        """From here on signals are ignored: an interpreter that ends would give them their deadly defaults back."""
        for number in VERBS:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)


def _noted(number: int, frame: object) -> None:
    """The byte in the pipe is all that is needed."""


def reset() -> None:
    """A child's own handlers: none, and deaf to what a terminal sends to everyone."""
    to_default()
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def to_default() -> None:
    """As for a program that is to be executed: ignored signals would stay ignored."""
    signal.set_wakeup_fd(-1)
    for number in VERBS:
        signal.signal(number, signal.SIG_DFL)
