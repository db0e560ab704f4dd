"""What a worker is forked with: the one thing that master and worker both know."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Sequence
from typing import Any, Callable

from channels import identity
from channels.core import native
from channels.hooks import Hooks
from channels.settings import Settings


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Slot, segment, sockets and settings of one worker."""

    segment: native.Segment
    eventfds: Sequence[int]
    inboxes: Sequence[Inbox]
    commons: int  # the memfd of what the workers have in common; -1: there is none
    slot: int
    generation: int
    number: int  # 0 to workers - 1; the worker that follows it has the same
    settings: Settings
    hooks: Hooks
    listeners: Sequence[socket.socket]
    others: Sequence[socket.socket]  # other workers', to be looked after now and then
    link: socket.socket  # to the supervisor
    application: Callable[..., Any] | None  # imported already, with preload_app

    def let_go(self) -> None:
        """Close what only others need: whoever takes this worker over shall not write to their regions, nor take the
        connections that are passed to them."""
        self.segment.forget_fd()
        for slot, inbox in enumerate(self.inboxes):
            if slot != self.slot:
                os.close(inbox.read)

    def drop_privileges(self) -> None:
        """Become the user of the settings.  Raises BadSetting, OSError."""
        identity.drop_privileges(self.settings.user, self.settings.group)


@dataclasses.dataclass(frozen=True)
class Inbox:
    """How a slot gets connections that other processes have accepted: a pair of sockets that outlives its workers."""

    read: int
    write: int


WorkerEntry = Callable[[Assignment], int]
