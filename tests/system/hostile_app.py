"""An application that was taken over: it does to its neighbours what descriptors allow."""

from __future__ import annotations

import os
import socket
from typing import Any

from gevent import monkey

import channels

WORDS = [b"leaving " + b"x" * 500, b"changed /etc\n2026 [1] [ERROR] forged", b"ready", b"nonsense", b"\xff\0"]
_thread = monkey.get_original("_thread", "start_new_thread")


def sockets(kind: int) -> list[int]:
    """This process's descriptors of that kind of socket."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as looked:
                if looked.type == kind:
                    found.append(int(name))
        except OSError:
            continue
    return found


def flood() -> None:
    """To the supervisor, to the inboxes of the other workers, for ever."""
    turn = 0
    while True:
        for fd in targets:
            try:
                os.write(fd, WORDS[turn % len(WORDS)])
            except OSError:
                pass
            turn += 1


targets: list[int] = []


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    path = environ["PATH_INFO"]
    if path == "/flood" and not targets:
        targets.extend(sockets(socket.SOCK_SEQPACKET))
        _thread(flood, ())
    elif path == "/descriptors":
        names = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if is_open(name)]
        start_response("200 OK", [])
        return ["\n".join(names).encode()]
    start_response("200 OK", [])
    return [b"%d" % channels.worker_id()]


def is_open(name: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{name}")
