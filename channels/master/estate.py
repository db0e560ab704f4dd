"""What a master owns and an upgrade hands on: segment, eventfds, inboxes, commons, listening sockets."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence

from channels.assignment import Inbox
from channels.core import native
from channels.core.commons import memory, plan
from channels.errors import BadSetting
from channels.master import limits, listeners, systemd, upgrade
from channels.settings import Settings

INBOX_BYTES = 1 << 20
_HANDED = "systemd/"  # before the number of a socket that was handed in; no address to bind begins so
_COPY = "#"  # between an address and the number of the worker that has a socket of its own there


class Estate:
    """Made new, or taken over from the master that executed this one."""

    def __init__(self, settings: Settings) -> None:
        inherited = upgrade.adopt()
        self.upgraded = inherited is not None
        self.peer = inherited.peer if inherited is not None else None
        self.same = False
        size = native.segment_size(
            settings.slots, settings.ring_size, settings.ring_size, settings.direct_ring_size, settings.channels_max
        )
        limits.raise_descriptors()
        if inherited is not None and inherited.segment is not None and inherited.segment.size == size:
            self.same = True
            self.segment = inherited.segment
            self.eventfds = inherited.eventfds
            numbers = inherited.extra_fds["inboxes"]
            self.inboxes = [Inbox(*pair) for pair in zip(numbers[::2], numbers[1::2])]
            self.commons = _commons(settings, self.segment.slots, inherited.extra_fds.get("commons", []))
        else:
            if inherited is not None:
                upgrade.discard(inherited)
            limits.check(settings, size, limits.memory_free())
            self._make(settings)
        self.segment.enter("supervisor")
        self.listeners = self._listen(settings, inherited.listeners if inherited is not None else {})

    def _make(self, settings: Settings) -> None:
        self.segment = native.Segment.create(
            settings.slots,
            settings.ring_size,
            settings.ring_size,
            settings.direct_ring_size,
            settings.channels_max,
            os.urandom(16),
            time.time_ns() // 1000,
        )
        self.eventfds = [native.make_eventfd() for _ in range(settings.slots)]
        self.inboxes = [_inbox() for _ in range(settings.slots)]
        self.commons = _commons(settings, self.segment.slots, [])

    def other_fds(self) -> dict[str, list[int]]:
        """What an upgrade hands on besides segment, eventfds and listening sockets."""
        inboxes = [fd for inbox in self.inboxes for fd in (inbox.read, inbox.write)]
        return {"inboxes": inboxes, "commons": [self.commons] if self.commons >= 0 else []}

    def listeners_of(self, number: int) -> tuple[list[socket.socket], list[socket.socket]]:
        """(what the worker of this number accepts on, what it looks after beside that: with `accept = reuseport`)."""
        tcp = [text for text in self.listeners if not text.startswith("unix:")]
        copies = {text: int(text.rpartition(_COPY)[2]) for text in tcp if _COPY in text}
        count = max(copies.values(), default=0) + 1
        own: list[socket.socket] = []
        others: list[socket.socket] = []
        for text, listener in self.listeners.items():
            shared = not copies or text not in tcp
            (own if shared or copies.get(text, 0) == number % count else others).append(listener)
        return own, others

    def own_listeners(self) -> list[socket.socket]:
        """Those that end with this server: systemd's wait for the next one."""
        return [listener for text, listener in self.listeners.items() if not text.startswith(_HANDED)]

    @staticmethod
    def _listen(settings: Settings, inherited: dict[str, socket.socket]) -> dict[str, socket.socket]:
        """By the text that says where.  systemd's sockets take the place of `bind`; an old master's are kept."""
        handed = {f"{_HANDED}{number}": listener for number, listener in enumerate(systemd.inherited_listeners())}
        handed = handed or {text: listener for text, listener in inherited.items() if text.startswith(_HANDED)}
        listeners.admit_new([*handed.values(), *inherited.values()])
        if handed:
            return handed
        found: dict[str, socket.socket] = {}
        try:
            for text in settings.bind:
                if text in found:
                    raise BadSetting("bind", text, "is given twice")
                kept = inherited.pop(text, None)
                several = settings.accept == "reuseport" and not text.startswith("unix:")
                found[text] = kept or listeners.open_listener(text, settings.backlog, several, settings.umask)
                for number in range(1, settings.workers) if several else ():
                    name = f"{text}{_COPY}{number}"
                    kept = inherited.pop(name, None)
                    found[name] = kept or listeners.open_beside(found[text], settings.backlog)
        except BadSetting:
            for listener in found.values():
                listener.close()
            raise
        for listener in inherited.values():
            listener.close()
        return found


def _commons(settings: Settings, slots: int, inherited: Sequence[int]) -> int:
    """The old master's if it was made for the same settings, else a new one; -1: none is wanted."""
    wanted = plan.parts(settings, slots)
    for fd in inherited:
        if wanted and memory.matches(fd, wanted):
            return fd
        os.close(fd)
    return memory.create(wanted) if wanted else -1


def _inbox() -> Inbox:
    read, write = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (read, write):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, INBOX_BYTES)
    return Inbox(read.detach(), write.detach())
