"""Ways to get bytes from one process to others on a host, one file each, behind one face."""

from __future__ import annotations

from typing import Any, Callable

from benchmarks import actors


class Peer:
    """One way.  Made anew for each run; `open` before the fork, `sender` and `taker` in the actors' processes."""

    name = ""
    does = ""  # what it does for a message, for the report
    flight = 4 << 20  # bytes of bodies in flight at most, to each subscriber
    has_alerts = False
    window = 0  # messages that may be in flight to one subscriber in this run

    def open(self, channels: dict[str, int]) -> None:
        """Servers, pipes and queues, for channels with so many subscribers each."""

    def sender(self, channel: str) -> Callable[[list[bytes]], None]:
        """In a publisher: a function that sends all of these, in order."""
        raise NotImplementedError

    def taker(self, channel: str, subscriber: int) -> Callable[[int], list[bytes]]:
        """In a subscriber, joined when it returns: a function that takes so many bodies."""
        raise NotImplementedError

    def wait_read(self, fd: int) -> None:
        """Until a descriptor is readable, as users of this peer would wait."""
        actors.wait_blocking(fd)

    def play(self, functions: list[Callable[[], Any]], lines: list[actors.Line]) -> list[Any]:
        """Each function in a process of its own; what they return, in order."""
        return actors.play(functions, lines)

    def close(self) -> None:
        """Undo open."""
