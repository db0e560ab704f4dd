"""The only fork, exec, wait and kill.

Children are known by their pidfd: a pid that was reused can neither be killed nor reaped (H13), and nobody
else's child is ever waited for.
"""

from __future__ import annotations

import array
import json
import math
import os
import select
import signal
import socket
import traceback
from collections.abc import Iterable, Sequence
from typing import Callable

from channels.master import signals

LINK_BYTES = 65536  # the largest message on a link
FDS_MAX = 8  # descriptors with one message
UPGRADE = "CHANNELS_UPGRADE"  # in a new master's environment: what it is handed, and the pid of the old one
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class Process:
    """A child: its pid, a descriptor that becomes readable when it dies, and a socket to talk over."""

    def __init__(self, pid: int, pidfd: int, link: socket.socket) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.link = link
        self.hung_up = False  # it has closed its end: nothing more comes but its death

    def send(self, message: bytes) -> bool:
        """Never waits.  False: it does not read, or it is gone; its death is seen elsewhere."""
        try:
            self.link.send(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def send_fds(self, message: bytes, fds: list[int]) -> bool:
        """The same with descriptors."""
        return send_fds(self.link, message, fds)

    def receive_fds(self) -> tuple[bytes | None, list[int]]:
        """The same with descriptors, which are closed on exec."""
        message, fds = receive_fds(self.link)
        self.hung_up = message == b""
        return message, fds

    def receive(self) -> bytes | None:
        """The next message, b"" at the end of the link, None when there is none now."""
        try:
            message = self.link.recv(LINK_BYTES, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            message = b""
        self.hung_up = not message
        return message

    def kill(self, number: int) -> None:
        """Through the pidfd, so never to a stranger."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass

    def peek(self) -> int | None:
        """How it ended (negative: by a signal), while it stays a zombie; None: it lives."""
        found = os.waitid(_P_PIDFD, self.pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def reap(self) -> None:
        """Let the zombie go.  It must be one."""
        os.waitid(_P_PIDFD, self.pidfd, os.WEXITED)
        self.close()

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        self.link.close()

    def wait_dead(self, seconds: float) -> bool:
        """For the very end: wait until it is a zombie."""
        return wait_readable(self.pidfd, seconds)


def wait_readable(fd: int, seconds: float) -> bool:
    """A pidfd is when its process is dead.  Of any number, which select(2) does not take."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(math.ceil(seconds * 1000), 0)))


def send_fds(link: socket.socket, message: bytes, fds: Sequence[int]) -> bool:
    """One message with descriptors, without waiting.  socket.send_fds() ignores its flags, hence this."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
    try:
        link.sendmsg([message], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return False
    return True


def receive_fds(link: socket.socket) -> tuple[bytes | None, list[int]]:
    """One message and its descriptors, which are closed on exec; b"" at the end, None when there is none now."""
    fds = array.array("i")
    try:
        message, rights, _, _ = link.recvmsg(
            LINK_BYTES, socket.CMSG_SPACE(FDS_MAX * fds.itemsize), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        )
    except (BlockingIOError, InterruptedError):
        return None, []
    except OSError:
        return b"", []
    for level, kind, data in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return message, fds.tolist()


_P_PIDFD = getattr(os, "P_PIDFD", 3)


def fork(main: Callable[[socket.socket], int], close_in_child: Callable[[], None]) -> Process:
    """A child that runs `main(link)` and ends with what it returns.

    `close_in_child` closes what is this process's alone.  Signals are blocked until the child's handlers are its own.
    Raises OSError when there are no processes or descriptors left.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _child(main, close_in_child, ours, theirs, blocked)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so it cannot be anybody else
            os.waitpid(pid, 0)
            raise
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return Process(pid, pidfd, ours)


def _child(
    main: Callable[[socket.socket], int],
    close_in_child: Callable[[], None],
    ours: socket.socket,
    theirs: socket.socket,
    blocked: Iterable[int],
) -> None:
    """Never returns: what the parent was about to do is not this process's business."""
    status = 1
    try:
        ours.close()
        close_in_child()
        signals.reset()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        status = main(theirs)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, whoever's it is."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def daemonize() -> None:
    """Leave the terminal: a session of its own, standard streams on /dev/null."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def become_init() -> None:
    """As the first process of a container: fork the master, stay behind, reap whatever is orphaned, pass signals on.

    Returns in the child.  The parent ends with the master's status when no child is left: a master that was upgraded
    leaves its successor to us.
    """
    if os.getpid() != 1:
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    main = os.fork()
    if main == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    status = 0
    while True:
        number = signal.sigwait(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
        # The dead first: a signal is for whoever has succeeded them.
        for pid, raw in iter(_reap_any, (0, 0)):
            if pid < 0:
                os._exit(status)
            if pid == main:
                code = os.waitstatus_to_exitcode(raw)
                status = status or (code if code >= 0 else 128 - code)
                main = _successor(main)
        if number != signal.SIGCHLD:
            for pid in [main] if main else _children() if number in _ENDING else []:
                _pass_on(pid, number)


def _reap_any() -> tuple[int, int]:
    """(pid, status) of a child that is dead, (0, 0) when none is, (-1, 0) when there are no children."""
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return -1, 0


def _pass_on(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _children() -> list[int]:
    """Of process 1."""
    try:
        with open("/proc/self/task/1/children") as file:
            return [int(word) for word in file.read().split()]
    except (OSError, ValueError):
        return []


def _successor(dead: int) -> int:
    """The new master that `dead` has executed, an orphan among orphans; 0: there is none.

    Its workers, and what they have forked, show the same environment: they are younger.
    """
    found = []
    for pid in _children():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                variables = dict(entry.partition(b"=")[::2] for entry in file.read().split(b"\0"))
            with open(f"/proc/{pid}/stat", "rb") as file:
                started = int(file.read().rpartition(b")")[2].split()[19])
            if json.loads(variables[UPGRADE.encode()])["parent"] == dead:
                found.append((started, pid))
        except (OSError, ValueError, LookupError, TypeError):
            continue  # a stranger, or gone
    return min(found)[1] if found else 0
