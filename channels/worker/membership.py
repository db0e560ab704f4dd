"""Who in this worker is in which channel, and what the router is asked about it.

Runs in: worker, in the hub's thread.
"""

from __future__ import annotations

import collections
import time
from typing import Any

from channels.core import native
from channels.errors import BadChannelName, ChannelTableFull, RouterUnavailable, SubscriptionClosed
from channels.settings import Settings
from channels.worker.room import Room, Wake

OK, TABLE_FULL, NOBODY = 0, 1, 3  # the router's answers: JOIN_STATUS of core/layout.h
NEVER = (1 << 64) - 1
GIVEN_UP = -1  # nobody wants the answer any more: whoever waits for it looks again


class Pending:
    """A question to the router that is not answered yet; several greenlets may wait for the answer."""

    __slots__ = ("name", "owner", "status", "token", "waiters", "what")

    def __init__(self, what: str, name: bytes, token: int, owner: Any) -> None:
        self.what = what
        self.name = name
        self.token = token
        self.waiters: list[tuple[Wake, Any]] = []  # and the member that each of them joins, or None
        self.status: int | None = None
        self.owner = owner


class LocalPrefix:
    """A prefix that someone in this worker has joined."""

    __slots__ = ("joined", "name", "pending", "queues", "since")

    def __init__(self, name: str) -> None:
        self.name = name
        self.queues: list[native.Member] = []
        self.joined = False
        self.pending: Pending | None = None
        self.since = NEVER  # epoch: this worker is in every matching channel that began later, from its first message


def _joins(pending: Pending | None, member: native.Member) -> bool:
    """Whether somebody still waits there until this very member is in."""
    return pending is not None and any(other is member for _, other in pending.waiters)


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
        if pending.owner is not None:
            self._endpoint.pending_joins[pending.token] = pending.owner
        self._ask(pending.what, pending.token, pending.name)

    def _await(self, pending: Pending, deadline: float | None, member: native.Member | None = None) -> int | None:
        wake = Wake()
        waiter = (wake, member)
        pending.waiters.append(waiter)
        try:
            while pending.status is None:
                if not self._room.park(wake, None if deadline is None else deadline - time.monotonic()):
                    break
        finally:
            pending.waiters.remove(waiter)
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
        pending.status = GIVEN_UP
        for wake, _ in pending.waiters:
            self._room.hub.loop.run_callback(self._room.fire, wake)

    def on_answer(self, _: str, token: int, status: int) -> None:
        """The router has answered."""
        pending = self._pending.get(token)
        if pending is None:
            return
        waiters = list(pending.waiters)  # first what may find no memory: the answer is read again then
        del self._pending[token]
        pending.status = status
        owner = pending.owner
        if isinstance(owner, native.LocalChannel):
            owner.join = None
            owner.joined = status == OK
        elif isinstance(owner, LocalPrefix):
            owner.pending = None
            owner.joined = status == OK
        for wake, _ in waiters:
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
        deadline = time.monotonic() + self._settings.join_timeout
        while True:
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
            try:
                self._await_join(pending, text, queue, deadline)
            except BaseException:
                if self.channels.get(text) is channel and not channel.joined and not _joins(channel.join, queue):
                    self.leave(queue, text)
                raise
            if not queue.has_joined(channel) and getattr(queue, "closed", False):
                raise SubscriptionClosed()

    def _await_join(self, pending: Pending, text: str, member: native.Member, deadline: float) -> None:
        """Until the router has let it in, or nobody waits for that any more: the caller looks which."""
        status = self._await(pending, deadline, member)
        if status is None:
            raise RouterUnavailable(f"joining {text!r}", self._settings.join_timeout)
        if status == TABLE_FULL:
            raise ChannelTableFull(self._segment.rows)
        if status not in (OK, GIVEN_UP):
            raise BadChannelName(text, "is refused by the router")

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
        deadline = time.monotonic() + self._settings.join_timeout
        while True:
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
            try:
                self._await_join(local.pending, prefix + "*", queue, deadline)
            except BaseException:
                if self.prefixes.get(prefix) is local and not local.joined and not _joins(local.pending, queue):
                    self.leave_prefix(queue, prefix)
                raise
            if queue not in local.queues and getattr(queue, "closed", False):
                raise SubscriptionClosed()

    def leave_prefix(self, queue: native.Member, prefix: str) -> None:
        local = self.prefixes.get(prefix)
        if local is None or queue not in local.queues:
            return
        local.queues.remove(queue)
        for channel in list(self.channels.values()):
            if channel.name.startswith(prefix):
                self._endpoint.release(channel, queue, prefix)
                self._tidy(channel)
        if isinstance(queue, native.Queue):
            self._endpoint.release_forgotten(queue, prefix)
        self._tidy(local)

    def on_displaced(self, _: str, channel: native.LocalChannel) -> None:
        """Its row is another channel's.  Kept for a prefix alone it is forgotten: there is no end to such names."""
        kept = channel.joined or channel.join is not None
        if not kept and self.channels.get(channel.name) is channel and self._endpoint.forget(channel):
            del self.channels[channel.name]

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

    def _resolve(self, name: str) -> tuple[native.LocalChannel | None, int]:
        """A channel seen for the first time, because of a prefix, and since which epoch none of it can be unseen.

        What comes before a prefix's join is answered was sent before it: an earlier join of it has left that behind.
        """
        known = [local for local in self.prefixes.values() if local.since != NEVER and local.queues]
        found = [local for local in known if name.startswith(local.name)]
        if not found:
            return None, NEVER
        channel = self.channels.get(name)
        return self._add_channel(name) if channel is None else channel, min(local.since for local in found)

    def _add_channel(self, name: str) -> native.LocalChannel:
        """A channel that somebody here is in from now on, and with them those whose prefixes it matches."""
        channel = native.LocalChannel(name)
        matching = [(queue, local.name) for local in self.prefixes.values() for queue in local.queues]
        matching = [(queue, prefix) for queue, prefix in matching if name.startswith(prefix)]
        try:
            for queue, prefix in matching:
                self._endpoint.bind(channel, queue, prefix)
            self.channels[name] = channel
        except MemoryError:
            for queue, prefix in matching:
                self._endpoint.release(channel, queue, prefix)
            raise
        return channel
