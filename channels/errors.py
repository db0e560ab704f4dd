"""The one error tree: each error knows its facts and says what to do.

Every class has `ChannelsError` and a builtin as parents, so that code which knows nothing of this package can catch it.
"""

from __future__ import annotations


class ChannelsError(Exception):
    """Root of everything this package raises on purpose."""


class NotAttached(ChannelsError, RuntimeError):
    """A call that needs a worker was made outside of one."""

    def __init__(self, what: str = "this call") -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return (
            f"{self.what} works inside a worker only; start the application with "
            "`channels MODULE:APP`, or call it from a request instead of at import time"
        )


class ForkedProcess(NotAttached):
    """The calling process was forked by a worker and has no place of its own in the segment."""

    def __str__(self) -> str:
        return (
            f"{self.what} does not work in a process that was forked by a worker; send from the worker "
            "itself, or let the child write to a pipe that the worker reads"
        )


class BadChannelName(ChannelsError, ValueError):
    """A channel name that is empty, too long, not UTF-8, or has control characters."""

    def __init__(self, name: object, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        shown = repr(self.name)
        if len(shown) > 60:
            shown = shown[:57] + "..."
        return f"channel name {shown} {self.reason}; use 1 to 255 bytes of UTF-8 without control characters"


class BadAlertName(ChannelsError, ValueError):
    """An alert name that is empty or longer than 254 bytes."""

    def __init__(self, name: object) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        shown = repr(self.name)
        if len(shown) > 60:
            shown = shown[:57] + "..."
        return f"alert name {shown} must be 1 to 254 bytes of UTF-8"


class MessageTooBig(ChannelsError, ValueError):
    """A message or alert that can never be sent; nothing was."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"{self.size} bytes are more than the {self.limit} that may be sent at once; raise the setting "
            "`message_max`, or store the data and send where it is"
        )


class RingFull(ChannelsError, TimeoutError):
    """The receiver was behind for the whole timeout; definitely nothing was sent."""

    def __init__(self, to: str, timeout: float) -> None:
        super().__init__(to, timeout)
        self.to = to
        self.timeout = timeout

    def __str__(self) -> str:
        return f"no room towards {self.to} within {self.timeout:g} s; nothing was sent, try again or send less often"


class ChannelTableFull(ChannelsError, RuntimeError):
    """The table has no row for another channel, or none for this worker, which has had more than its share of them.

    Nothing was joined or sent.
    """

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.rows = rows

    def __str__(self) -> str:
        return f"of the channel table's {self.rows} rows none is left for this worker; raise the setting `channels_max`"


class RouterUnavailable(ChannelsError, TimeoutError):
    """The router did not answer in time; what was asked for did not happen."""

    def __init__(self, what: str, timeout: float) -> None:
        super().__init__(what, timeout)
        self.what = what
        self.timeout = timeout

    def __str__(self) -> str:
        return f"no answer from the router to {self.what} within {self.timeout:g} s; see the master's log"


class WorkerGone(ChannelsError, LookupError):
    """No live worker with that process id or number, or it died before it answered."""

    def __init__(self, worker: object) -> None:
        super().__init__(worker)
        self.worker = worker

    def __str__(self) -> str:
        return f"worker {self.worker} is not there (any more); channels.workers() lists those that are"


class CallTimeout(ChannelsError, TimeoutError):
    """The handler of a call did not answer in time; it may still run."""

    def __init__(self, worker: object, name: str, timeout: float) -> None:
        super().__init__(worker, name, timeout)
        self.worker = worker
        self.name = name
        self.timeout = timeout

    def __str__(self) -> str:
        return f"worker {self.worker} did not answer {self.name!r} within {self.timeout:g} s"


class RemoteError(ChannelsError, RuntimeError):
    """The handler of a call raised, or there is none; `detail` is what it said."""

    def __init__(self, worker: object, name: str, detail: str) -> None:
        super().__init__(worker, name, detail)
        self.worker = worker
        self.name = name
        self.detail = detail

    def __str__(self) -> str:
        return f"worker {self.worker} failed to handle {self.name!r}: {self.detail}"


class AlertLoop(ChannelsError, RuntimeError):
    """Alerts that caused alerts that caused alerts, too often."""

    def __init__(self, hops: int) -> None:
        super().__init__(hops)
        self.hops = hops

    def __str__(self) -> str:
        return (
            f"this alert is the {self.hops}th in a chain of handlers that send alerts; break the loop, send from a "
            "greenlet of its own, or raise the setting `alert_hops_max`"
        )


class SubscriptionClosed(ChannelsError, RuntimeError):
    """The subscription was closed, by its owner, by its overflow policy or because the worker drains."""

    def __str__(self) -> str:
        return "this subscription is closed; iterate over it to end quietly instead"


class StreamEnded(ChannelsError, EOFError):
    """The stream that the calling view serves is to end; let it pass, the server ends the response cleanly."""

    def __str__(self) -> str:
        return "this stream is to end"


class ClientGone(StreamEnded):
    """The client of the running request has gone away."""

    def __str__(self) -> str:
        return "the client has gone away"


class Draining(StreamEnded):
    """The worker drains: what is open is to end."""

    def __str__(self) -> str:
        return "the worker drains"


class Restarting(Draining):
    """The worker drains because another one takes its place: who connects again reaches that one."""

    def __str__(self) -> str:
        return "the worker is being replaced"


class WebSocketClosed(StreamEnded):
    """The WebSocket is closed, by either side or by the end of its connection."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code  # RFC 6455, 7.4; 1006: the connection ended without a word
        self.reason = reason

    def __str__(self) -> str:
        return f"the WebSocket is closed: {self.code} {self.reason}".rstrip()


class BadSetting(ChannelsError, ValueError):
    """A setting with a value that cannot be."""

    def __init__(self, name: str, value: object, reason: str) -> None:
        super().__init__(name, value, reason)
        self.name = name
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        return f"setting {self.name}={shown}: {self.reason}"


class SegmentError(ChannelsError, OSError):
    """The shared memory could not be made, mapped or adopted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class CommonsDamaged(ChannelsError, OSError):
    """What the workers have in common was written over by one of them; it is empty now."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} was damaged and has been emptied; some process writes where it should not"
