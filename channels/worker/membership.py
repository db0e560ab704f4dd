"""Who in this worker is in which channel, and what the router is asked about it.

Runs in: worker, in the hub's thread.
"""

from __future__ import annotations

import collections
import time
from typing import Any

from channels.core import native
from channels.errors import ChannelTableFull, RouterUnavailable
from channels.settings import Settings
from channels.worker.room import Room, Wake

OK, TABLE_FULL, NOBODY = 0, 1, 3  # the router's answers: JOIN_STATUS of core/layout.h


class Pending:
    """A question to the router that is not answered yet; several greenlets may wait for the answer."""

    __slots__ = ("name", "owner", "status", "token", "waiters", "what")

    def __init__(self, what: str, name: bytes, token: int, owner: Any) -> None:
        self.what = what
        self.name = name
        self.token = token
        self.waiters: list[Wake] = []
        self.status: int | None = None
        self.owner = owner


class LocalPrefix:
    """A prefix that someone in this worker has joined."""

    __slots__ = ("joined", "name", "pending", "queues")

    def __init__(self, name: str) -> None:
        self.name = name
        self.queues: list[native.Member] = []
        self.joined = False
        self.pending: Pending | None = None


class Membership:
    """The channels and prefixes that somebody in this worker is in."""

    def __init__(self, segment: native.Segment, endpoint: native.Endpoint, room: Room, settings: Settings) -> None:
        self.channels: dict[str, native.LocalChannel] = {}
        self.prefixes: dict[str, LocalPrefix] = {}
        self._segment = segment
        self._endpoint = endpoint
        self._room = room
        self._settings = settings
        self._token = 0
        self._pending: dict[int, Pending] = {}
        self._outbox: collections.deque[tuple[str, int, bytes]] = collections.deque()
        room.before = self._flush_outbox
        endpoint.resolve = self._resolve

    # ---- asking the router ----

    def _ask(self, what: str, token: int, name: bytes) -> None:
        """Never waits: what does not fit now goes, in order, when there is room."""
        if self._outbox or not self._endpoint.ask(what, token, name):
            self._outbox.append((what, token, name))
            self._room.hub.loop.run_callback(self._room.serve)

    def _flush_outbox(self) -> None:
        while self._outbox:
            what, token, name = self._outbox[0]
            if not self._endpoint.ask(what, token, name):
                self._endpoint.unwant_up()
                if not self._endpoint.want_up(len(name)):
                    return
                continue
            self._outbox.popleft()

    def _start(self, pending: Pending) -> None:
        self._token += 1
        pending.token = self._token
        self._pending[pending.token] = pending
        if isinstance(pending.owner, native.LocalChannel):
            self._endpoint.pending_joins[pending.token] = pending.owner
        self._ask(pending.what, pending.token, pending.name)

    def _await(self, pending: Pending, deadline: float | None) -> int | None:
        wake = Wake()
        pending.waiters.append(wake)
        try:
            while pending.status is None:
                if not self._room.park(wake, None if deadline is None else deadline - time.monotonic()):
                    break
        finally:
            pending.waiters.remove(wake)
        return pending.status

    def ask_and_wait(self, pending: Pending, deadline: float | None) -> int:
        self._start(pending)
        status = self._await(pending, deadline)
        if status is None:
            self._forget(pending)
            raise RouterUnavailable(pending.what, self._settings.join_timeout)
        return status

    def _forget(self, pending: Pending) -> None:
        self._pending.pop(pending.token, None)
        self._endpoint.pending_joins.pop(pending.token, None)

    def on_answer(self, _: str, token: int, status: int) -> None:
        """The router has answered."""
        pending = self._pending.pop(token, None)
        if pending is None:
            return
        pending.status = status
        owner = pending.owner
        if isinstance(owner, native.LocalChannel):
            owner.join = None
            owner.joined = status == OK
        elif isinstance(owner, LocalPrefix):
            owner.pending = None
            owner.joined = status == OK
        for wake in list(pending.waiters):
            self._room.fire(wake)
        if not pending.waiters:
            self._tidy(owner)

    def ask_again(self) -> None:
        """There is a new router: what the old one had not answered is asked again; it may be done twice."""
        for pending in list(self._pending.values()):
            self._ask(pending.what, pending.token, pending.name)

    # ---- joining and leaving ----

    def join(self, queue: native.Member, name: Any) -> None:
        """Done when it returns: whatever anyone sends afterwards gets into `queue`."""
        text = native.check_name(name)
        self._room.check_here("channel_join")
        channel = self.channels.get(text)
        if channel is None:
            channel = self._add_channel(text)
        self._endpoint.bind(channel, queue)
        if channel.joined:
            return
        pending = channel.join
        if pending is None:
            pending = channel.join = Pending("join", text.encode(), 0, channel)
            self._start(pending)
        status = None
        try:
            status = self._await(pending, time.monotonic() + self._settings.join_timeout)
        finally:
            if status != OK:
                self.leave(queue, text)
        if status == TABLE_FULL:
            raise ChannelTableFull(self._segment.rows)
        if status is None:
            raise RouterUnavailable(f"joining {text!r}", self._settings.join_timeout)

    def leave(self, queue: native.Member, name: Any) -> None:
        """Done when it returns: nothing of the channel is received afterwards.  Does not wait."""
        channel = self.channels.get(native.check_name(name))
        if channel is not None:
            self._endpoint.release(channel, queue)
            self._tidy(channel)

    def join_prefix(self, queue: native.Member, prefix: str) -> None:
        """Every channel whose name begins so, those that come later included."""
        if prefix:
            native.check_name(prefix)
        self._room.check_here("subscribe")
        local = self.prefixes.get(prefix)
        if local is None:
            local = self.prefixes[prefix] = LocalPrefix(prefix)
        if queue not in local.queues:
            local.queues.append(queue)
        for channel in self.channels.values():
            if channel.name.startswith(prefix):
                self._endpoint.bind(channel, queue, prefix)
        if local.joined:
            return
        if local.pending is None:
            local.pending = Pending("join_prefix", prefix.encode(), 0, local)
            self._start(local.pending)
        status = None
        try:
            status = self._await(local.pending, time.monotonic() + self._settings.join_timeout)
        finally:
            if status != OK:
                self.leave_prefix(queue, prefix)
        if status == TABLE_FULL:
            raise ChannelTableFull(self._segment.rows)
        if status is None:
            raise RouterUnavailable(f"joining {prefix + '*'!r}", self._settings.join_timeout)

    def leave_prefix(self, queue: native.Member, prefix: str) -> None:
        local = self.prefixes.get(prefix)
        if local is None or queue not in local.queues:
            return
        local.queues.remove(queue)
        for channel in list(self.channels.values()):
            if channel.name.startswith(prefix):
                self._endpoint.release(channel, queue, prefix)
                self._tidy(channel)
        self._tidy(local)

    def _tidy(self, owner: Any) -> None:
        """Leave at the router what nobody here is in any more."""
        if isinstance(owner, LocalPrefix):
            if owner.queues or self.prefixes.get(owner.name) is not owner:
                return
            if owner.pending is not None:
                self._forget(owner.pending)
            if owner.joined or owner.pending is not None:
                self._ask("leave_prefix", 0, owner.name.encode())
            del self.prefixes[owner.name]
        elif isinstance(owner, native.LocalChannel):
            if self.channels.get(owner.name) is not owner:
                return
            if (owner.joined or owner.join is not None) and not owner.exact_members:
                if owner.join is not None:
                    self._forget(owner.join)
                    owner.join = None
                owner.joined = False
                self._ask("leave", 0, owner.name.encode())
            if not owner.members:
                self._endpoint.displace(owner)
                del self.channels[owner.name]

    def _resolve(self, name: str) -> native.LocalChannel | None:
        """A channel seen for the first time, because of a prefix."""
        if not any(name.startswith(local.name) and local.queues for local in self.prefixes.values()):
            return None
        channel = self.channels.get(name)
        return self._add_channel(name) if channel is None else channel

    def _add_channel(self, name: str) -> native.LocalChannel:
        """A channel that somebody here is in from now on, and with them those whose prefixes it matches."""
        channel = self.channels[name] = native.LocalChannel(name)
        for local in self.prefixes.values():
            if name.startswith(local.name):
                for queue in local.queues:
                    self._endpoint.bind(channel, queue, local.name)
        return channel
