"""Upgrade: the new binary is executed with the sockets and the segment of the old one: what it inherits and checks."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

from channels.core import native
from channels.errors import SegmentError
from channels.master import processes, signals

log = logging.getLogger("channels")

VARIABLE = processes.UPGRADE
STATUS_NO_EXEC = 127
DEAD_WAIT = 5.0  # seconds for the kernel to tear a killed process down


def _start_command() -> list[str]:
    """How this process was started, to start it again."""
    original = getattr(sys, "orig_argv", None)
    if original:
        return [sys.executable, *original[1:]]
    if getattr(sys.modules["__main__"], "__spec__", None) is not None:
        return [sys.executable, "-m", "channels", *sys.argv[1:]]
    return [sys.executable, *sys.argv]


def _start_directory() -> str:
    """The way the user wrote it: a deployment may have moved a symbolic link on that way."""
    here, written = os.getcwd(), os.environ.get("PWD", "")
    try:
        if written and os.path.samefile(here, written):
            return written
    except OSError:
        pass
    return here


COMMAND, DIRECTORY = _start_command(), _start_directory()


class Peer:
    """The other master: a link that also carries descriptors, and the pidfds of it, its router and its workers."""

    def __init__(self, process: processes.Process, is_child: bool) -> None:
        self.process = process
        self.is_child = is_child
        self.router_pidfd = -1
        self.workers: dict[int, int] = {}  # slot -> pidfd

    def say(self, word: str, facts: Sequence[int] = (), fds: Sequence[int] = ()) -> None:
        message = json.dumps([word, *facts]).encode()
        if not processes.send_fds(self.process.link, message, fds):
            log.debug("the other master does not listen: %s", word)

    def receive(self) -> tuple[str, tuple[int, ...], list[int]] | None:
        """(word, facts, descriptors), or None when there is nothing now."""
        message, fds = self.process.receive_fds()
        if not message:
            return None
        try:
            word, *facts = json.loads(message)
            return str(word), tuple(int(fact) for fact in facts), fds
        except (ValueError, TypeError):
            log.error("the other master says nonsense: %r", message[:100])
            return None

    def meet_router(self, pidfd: int) -> None:
        """Its router, or the next one."""
        if self.router_pidfd >= 0:
            os.close(self.router_pidfd)
        self.router_pidfd = pidfd

    def is_dead(self) -> bool:
        return processes.wait_readable(self.process.pidfd, 0)

    def status(self) -> int:
        """Of a dead one; a parent's is not ours to know."""
        return (self.process.peek() or 0) if self.is_child else 0

    def end(self, master: bool) -> None:
        """SIGKILL to its router, and to itself; on return they are dead."""
        for pidfd, wanted in ((self.router_pidfd, True), (self.process.pidfd, master)):
            if pidfd < 0 or not wanted:
                continue
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                continue
            processes.wait_readable(pidfd, DEAD_WAIT)

    def close_in_child(self) -> None:
        """In a process that this master has forked."""
        self.process.close()
        for pidfd in (self.router_pidfd, *self.workers.values()):
            if pidfd >= 0:
                os.close(pidfd)

    def close(self) -> None:
        if self.is_child:
            self.process.reap()
        else:
            self.process.close()
        for pidfd in (self.router_pidfd, *self.workers.values()):
            if pidfd >= 0:
                os.close(pidfd)
        self.workers.clear()
        self.router_pidfd = -1


def execute(
    segment: native.Segment,
    eventfds: Sequence[int],
    listeners: Mapping[str, socket.socket],
    extra_fds: Mapping[str, Sequence[int]],
    environment: Mapping[str, str],
) -> Peer:
    """Fork and execute what this process was started with.  Raises OSError."""

    def main(link: socket.socket) -> int:
        handed = {
            "segment": segment.fd,
            "eventfds": list(eventfds),
            "listeners": {text: listener.fileno() for text, listener in listeners.items()},
            "extra": {name: list(fds) for name, fds in extra_fds.items()},
            "link": link.fileno(),
            "parent": os.getppid(),
        }
        for fd in _numbers(handed):
            os.set_inheritable(fd, True)
        signals.to_default()
        os.chdir(DIRECTORY)
        variables = {**os.environ, **environment, VARIABLE: json.dumps(handed)}
        try:
            os.execve(COMMAND[0], COMMAND, variables)
        except OSError as error:
            log.error("upgrade: cannot execute %s: %s", COMMAND[0], error)
        return STATUS_NO_EXEC

    return Peer(processes.fork(main, lambda: None), is_child=True)


def _numbers(handed: dict[str, object]) -> list[int]:
    found: list[int] = []
    for name, value in handed.items():
        if name == "parent":
            continue
        if isinstance(value, int):
            found.append(value)
        elif isinstance(value, list):
            found += value
        elif isinstance(value, dict):
            found += _numbers(value)
    return found


@dataclasses.dataclass
class Inherited:
    """What the old master handed over."""

    segment: native.Segment | None  # None: it has another layout
    eventfds: list[int]
    listeners: dict[str, socket.socket]
    extra_fds: dict[str, list[int]]
    peer: Peer | None  # None: it is dead already


def adopt() -> Inherited | None:
    """From the environment, which is cleaned; None when this is no upgrade."""
    text = os.environ.pop(VARIABLE, "")
    if not text:
        return None
    handed = json.loads(text)
    for fd in _numbers(handed):
        os.set_inheritable(fd, False)
    try:
        segment: native.Segment | None = native.Segment.attach(handed["segment"])
    except SegmentError as error:
        log.warning("upgrade: %s", error)
        segment = None
    found = {text: socket.socket(fileno=fd) for text, fd in handed["listeners"].items()}
    link = socket.socket(fileno=handed["link"])
    try:
        pidfd = os.pidfd_open(handed["parent"])
        if os.getppid() != handed["parent"]:
            os.close(pidfd)
            raise ProcessLookupError
        peer: Peer | None = Peer(processes.Process(handed["parent"], pidfd, link), is_child=False)
    except OSError:
        peer = None
    return Inherited(segment, handed["eventfds"], found, handed["extra"], peer)


def discard(inherited: Inherited) -> None:
    """Another layout: nothing of the old segment is used."""
    if inherited.segment is not None:
        os.close(inherited.segment.fd)
        inherited.segment.close()
    for fd in inherited.eventfds:
        os.close(fd)
    for fds in inherited.extra_fds.values():
        for fd in fds:
            os.close(fd)
