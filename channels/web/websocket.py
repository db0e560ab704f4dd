"""WebSockets for any WSGI framework: accept one, talk, and close it however the application ends.

Runs in: worker, in a request, under any server that gives the socket away (see web/upgrade.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Callable

import gevent
from websockets.frames import CloseCode
from websockets.http11 import Response

from channels.errors import StreamEnded
from channels.settings import Settings
from channels.web import handshake
from channels.web.connection import WebSocket
from channels.web.handshake import HOPS
from channels.web.upgrade import take
from channels.worker import client as fabric

log = logging.getLogger("channels")

Handler = Callable[[WebSocket], Any]


def accept(
    environ: dict[str, Any],
    *,
    origins: str | Iterable[str] | None = None,
    subprotocols: Iterable[str] = (),
    compression: bool = False,
    slow: str | None = None,
    max_size: int | None = None,
) -> WebSocket | Response:
    """Answer a handshake: an open WebSocket, or the response that refuses it.

    Args:
        origins: Origins of pages that may connect; "*": any; None: the request's own host.  Clients without an Origin
            header are no browsers and may always.
        subprotocols: Those that the application speaks, the best first.
        compression: permessage-deflate, if the client offers it: saves bytes, and costs each message a compression for
            each client.
        slow: "gap" or "close" for a client that is too slow for the channels it has joined; default
            `settings.stream_overflow`.
        max_size: Bytes of the largest message from the client; default `settings.websocket_max_size`.
    """
    settings = fabric.current().settings if fabric.is_attached() else Settings()
    protocol, response = handshake.answer(
        environ,
        origins=origins,
        subprotocols=subprotocols,
        compression=compression,
        max_size=settings.websocket_max_size if max_size is None else max_size,
    )
    if response.status_code != 101:
        return response
    upgraded = take(environ)
    if upgraded is None:
        return handshake.refusal(501, "this server does not hand sockets over; see the documentation")
    protocol.send_response(response)
    return WebSocket(upgraded, protocol, settings, slow)


def run(ws: WebSocket, handler: Handler) -> None:
    """Call `handler(ws)` and close the WebSocket however it ends.  What it raises means 1011, and is logged.

    But for StreamEnded and GreenletExit, which end it: 1000.  What is no Exception goes on to the caller.
    """
    code: int = CloseCode.NORMAL_CLOSURE
    reason = ""
    try:
        handler(ws)
    except StreamEnded as ended:
        log.debug("websocket: %s", ended)
    except gevent.GreenletExit:  # somebody ends it, and means to
        raise
    except BaseException as error:
        code, reason = CloseCode.INTERNAL_ERROR, "the application failed"
        if not isinstance(error, Exception):
            raise  # such as a Timeout, which may be a caller's
        log.exception("websocket: the handler failed")
    finally:
        ws.finish(code, reason)


def serve(
    environ: dict[str, Any],
    start_response: Callable[..., Any],
    handler: Handler,
    **options: Any,
) -> Iterable[bytes]:
    """A WebSocket as a WSGI application: accept, call `handler(ws)`, close.  Options as for accept()."""
    accepted = accept(environ, **options)
    if isinstance(accepted, Response):
        headers = [(name, value) for name, value in accepted.headers.raw_items() if name.lower() not in HOPS]
        start_response(f"{accepted.status_code} {accepted.reason_phrase}", headers)
        return [bytes(accepted.body or b"")]
    run(accepted, handler)
    return accepted.result()


__all__ = ["HOPS", "Handler", "Response", "WebSocket", "accept", "run", "serve"]
