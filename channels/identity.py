"""Who this process is: pidfile, user, daemon, first process of a container.  Runs in: any process."""

from __future__ import annotations

import grp
import os
import pwd
import signal

from channels.errors import BadSetting

OLD_SUFFIX = ".oldbin"


class PidFile:
    """A file with the master's pid, in the way of gunicorn and nginx."""

    def __init__(self, path: str) -> None:
        self.path = path

    def write(self) -> None:
        """Raises BadSetting when another live master has it."""
        other = self.read()
        if other is not None and other != os.getpid() and _alive(other):
            raise BadSetting("pid", self.path, f"process {other} is running already; stop it or remove the file")
        fresh = f"{self.path}.{os.getpid()}"
        try:
            with open(fresh, "w") as file:
                file.write(f"{os.getpid()}\n")
            os.chmod(fresh, 0o644)
            os.rename(fresh, self.path)
        except OSError as error:
            raise BadSetting("pid", self.path, f"cannot be written: {error.strerror}") from None

    def read(self) -> int | None:
        try:
            with open(self.path) as file:
                return int(file.read().strip() or 0) or None
        except (OSError, ValueError):
            return None

    def step_aside(self) -> None:
        """A new master comes: keep ours under another name."""
        self._rename(self.path, self.path + OLD_SUFFIX)

    def step_back(self) -> None:
        """It did not stay."""
        self._rename(self.path + OLD_SUFFIX, self.path)

    def remove(self) -> None:
        """Only if it is still ours, under either name."""
        for path in (self.path, self.path + OLD_SUFFIX):
            if PidFile(path).read() == os.getpid():
                try:
                    os.unlink(path)
                except OSError:
                    pass

    def _rename(self, old: str, new: str) -> None:
        if PidFile(old).read() == os.getpid():
            try:
                os.rename(old, new)
            except OSError:
                pass


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def user_id(name: str) -> int | None:
    """Of a name or a number; None for "".  Raises BadSetting."""
    if not name:
        return None
    try:
        return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise BadSetting("user", name, "there is no such user") from None


def group_id(name: str) -> int | None:
    if not name:
        return None
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise BadSetting("group", name, "there is no such group") from None


def drop_privileges(user: str, group: str) -> None:
    """For good: group and its list first, the user last.  Raises BadSetting, OSError."""
    uid, gid = user_id(user), group_id(group)
    if uid is not None and gid is None:
        try:
            gid = pwd.getpwuid(uid).pw_gid
        except KeyError:
            gid = None
    if gid is not None and gid != os.getegid():
        os.setgid(gid)
    if uid is not None and uid != os.geteuid():
        if gid is not None:
            try:
                os.initgroups(pwd.getpwuid(uid).pw_name, gid)
            except KeyError:
                os.setgroups([gid])
        os.setuid(uid)


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
    child = os.fork()
    if child == 0:
        return
    main = [child]
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        try:
            signal.signal(number, lambda got, frame: _pass_on(main[0], got))
        except (OSError, ValueError):
            continue
    status = 0
    while True:
        try:
            pid, raw = os.wait()
        except InterruptedError:
            continue
        except ChildProcessError:
            os._exit(status)
        if pid == main[0]:
            code = os.waitstatus_to_exitcode(raw)
            status = code if code >= 0 else 128 - code
            main[0] = _oldest_child() or main[0]


def _pass_on(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _oldest_child() -> int | None:
    """The new master, orphaned by the old one."""
    try:
        with open("/proc/self/task/1/children") as file:
            children = [int(word) for word in file.read().split()]
    except (OSError, ValueError):
        return None
    return min(children, default=None)
