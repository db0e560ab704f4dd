"""Where a running master is found, and how one talks to it: a Unix socket, a line of JSON each way.

Runs in: the command `channels`, and, for the path, the router.
"""

from __future__ import annotations

import array
import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from channels.errors import ChannelsError

LINE_MAX = 64 * 1024
SUFFIX = ".sock"


class NoMaster(ChannelsError, LookupError):
    """No running master was found, or too many."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Refused(ChannelsError, RuntimeError):
    """The master did not do what it was asked for."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def directory() -> Path:
    """For sockets of this user: under $XDG_RUNTIME_DIR, /run, or else /tmp, with the user's number in its name."""
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), "/run"):
        if base and os.access(base, os.W_OK):
            return Path(base) / f"channels-{os.getuid()}"
    return Path("/tmp") / f"channels-{os.getuid()}"


def path_for(pid: int) -> Path:
    """The socket of the master with this process id."""
    return directory() / f"{pid}{SUFFIX}"


def make_directory(path: Path) -> None:
    """Ours alone, or an error: somebody else's directory in /tmp is not to be trusted.  Raises OSError."""
    path.mkdir(mode=0o700, exist_ok=True)
    check_directory(path)


def check_directory(path: Path) -> None:
    """Raises OSError when others could have put something there."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{path} is not a directory of this user's alone")


def find(pid: int | None, path: str | None) -> Path:
    """The socket of a running master: the one asked for, or the only one there is.  Raises NoMaster."""
    if path:
        return Path(path)
    try:
        check_directory(directory())
    except FileNotFoundError:
        pass
    except OSError as error:
        raise NoMaster(f"{error}; remove it, or say which socket: --control-socket PATH") from None
    if pid is not None:
        return path_for(pid)
    running = []
    for candidate in sorted(directory().glob(f"*{SUFFIX}")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(candidate))
            except OSError:
                continue
            running.append(candidate)
    if not running:
        raise NoMaster(f"no running master of this user was found in {directory()}; say which: --control-socket PATH")
    if len(running) > 1:
        pids = ", ".join(candidate.stem for candidate in running)
        raise NoMaster(f"several masters are running ({pids}); say which: --pid NUMBER")
    return running[0]


def peer_uid(connection: socket.socket) -> int:
    """Who is at the other end of a Unix socket (unix(7), SO_PEERCRED); of a listener, who opened it."""
    _, uid, _ = array.array("i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid


def _is_trusted(connection: socket.socket) -> bool:
    """Root may talk to anybody's master; others tell nobody but themselves and root what they send."""
    return os.geteuid() == 0 or peer_uid(connection) in (0, os.geteuid())


class Conversation:
    """One request and its answers."""

    def __init__(self, path: Path, request: dict[str, Any], body: bytes = b"") -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise NoMaster(f"cannot talk to the master at {path}: {error.strerror}") from None
        if not _is_trusted(self._socket):
            self._socket.close()
            raise NoMaster(f"whoever listens at {path} is neither this user nor root")
        self._file: BinaryIO = self._socket.makefile("rb")
        self._socket.sendall(json.dumps(request).encode() + b"\n" + body)

    def answers(self) -> Iterator[dict[str, Any]]:
        """Until the other side has said everything.  Raises Refused."""
        for line in self._file:
            try:
                answer = json.loads(line)
            except ValueError:
                raise Refused(f"whoever listens there says nonsense: {line[:60]!r}") from None
            if "error" in answer:
                raise Refused(answer["error"])
            yield answer

    def answer(self) -> dict[str, Any]:
        """The one answer.  Raises Refused."""
        for answer in self.answers():
            return answer
        raise Refused("the master closed the connection without an answer; see its log")

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
