"""Processes that applications fork in a worker, and what the fabric tells them: nothing.

gevent's own fork() may wait for ever for a child that ends at once (so it does without this project); so children live
for a moment here, and where it can be the raw call is used.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
from multiprocessing.connection import Connection
from typing import Callable

import gevent.socket
from gevent import monkey

from channels import channel_send, errors

LIVES = 0.05  # seconds
_fork = monkey.get_original("os", "fork")
_waitpid = monkey.get_original("os", "waitpid")
_sleep = monkey.get_original("time", "sleep")


def refused(channel: str) -> int:
    """In a child: 0 when the fabric is closed to it."""
    try:
        channel_send(channel, b"from nobody")
    except (errors.ForkedProcess, errors.NotAttached):
        return 0
    except BaseException:
        return 2
    return 1


def leave(channel: str, to: Connection) -> None:
    """In a child of multiprocessing."""
    to.send_bytes(bytes([refused(channel)]))
    _sleep(LIVES)
    os._exit(0)


def by_fork(channel: str) -> int:
    """What a forked child says; -1: nothing, in time."""
    read, write = os.pipe()
    pid = _fork()
    if pid == 0:
        os.write(write, bytes([refused(channel)]))
        os._exit(0)
    gevent.socket.wait_read(read, timeout=30)
    said = os.read(read, 1)
    os.close(read)
    os.close(write)
    try:
        _waitpid(pid, 0)
    except ChildProcessError:  # gevent's loop has reaped it
        pass
    return said[0] if said else -1


def by_multiprocessing(channel: str, kind: str = "fork") -> int:
    """What the child says; -1: nothing, in time.  Its status is not known when gevent's loop has reaped it."""
    context = multiprocessing.get_context(kind)
    ours, theirs = context.Pipe(False)
    # typeshed gives the base of all contexts no Process
    child = context.Process(target=leave, args=(channel, theirs))  # type: ignore[attr-defined]
    child.start()
    theirs.close()
    try:
        said = ours.recv_bytes()[0] if ours.poll(30) else -1
    except EOFError:
        said = -1
    ours.close()
    child.join(30)
    return said or int(child.exitcode or 0)


def by_subprocess(channel: str) -> int:
    return subprocess.run(["sleep", str(LIVES)], check=False, timeout=30).returncode


WAYS: tuple[Callable[[str], int], ...] = (by_fork, by_multiprocessing, by_subprocess)
