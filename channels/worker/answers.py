"""The outcome of a call, on its way back to the caller.

Runs in: worker, in the handler's greenlet or in the hub; waits in a greenlet of its own.
"""

from __future__ import annotations

import time
from typing import Any

import gevent

from channels.core import native
from channels.errors import MessageTooBig

AT_ONCE = 8  # fragments before others run
DETAIL_MAX = 1000  # characters of an error's text that travel


def answer(client: Any, source: int, correlation: int, result: bytes | None, error: BaseException | None) -> None:
    """The same as send(); where there is no memory for it, that is the answer, as soon as there is some."""
    try:
        send(client, source, correlation, result, error)
    except MemoryError:
        owe(client, source, correlation)


def owe(client: Any, source: int, correlation: int) -> None:
    """Let the call fail for lack of memory."""
    client.endpoint.events.append(("refused", source, correlation, b"", "no memory for its answer"))
    client.endpoint.schedule()


def send(client: Any, source: int, correlation: int, result: bytes | None, error: BaseException | None) -> None:
    """Send what a handler returned, or the words of what it raised, to whoever called.

    Raises:
        MemoryError: Nothing was sent.
    """
    endpoint = client.endpoint
    kind = native.REPLY if error is None else native.ERROR
    flags = native.NONE if error is None and result is None else 0
    words = b"" if error is None else _words(error).encode(errors="replace")
    data = (result or b"") if error is None else words[: client.settings.message_max]
    if source == endpoint.id:
        native.alert_self(endpoint, kind, flags, 0, correlation, b"", data)
        return
    try:
        parcel = native.Parcel(endpoint, kind, flags, 0, correlation, b"", data, [native.split_id(source)])
    except MessageTooBig as too_big:
        send(client, source, correlation, None, too_big)
        return
    if not parcel.pump(AT_ONCE):
        try:
            gevent.spawn(_finish, client, parcel)
        except MemoryError:
            client.sender.abort(parcel)


def _words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:DETAIL_MAX]
    except Exception:  # an application's __str__ may do anything
        return type(error).__name__


def _finish(client: Any, parcel: native.Parcel) -> None:
    """With the time over the caller is told, as soon as there is room for that: its call has failed."""
    done = False
    try:
        done = client.sender.pump(parcel, time.monotonic() + client.settings.send_timeout, None)
    finally:
        if not done:
            client.sender.abort(parcel)
