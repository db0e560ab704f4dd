"""What tests/chaos/websocket.py talks to: echoes in every way that a WebSocket can be served."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import uwsgi  # type: ignore[import-not-found]

from channels.web import websocket
from channels.web.websocket import WebSocket


def echo(ws: WebSocket) -> None:
    for message in ws:
        ws.send(message)


def joined(ws: WebSocket) -> None:
    """Written natively: whoever is in a channel is."""
    ws.join("somewhere")
    echo(ws)


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/uwsgi":
        uwsgi.websocket_handshake()
        while True:
            uwsgi.websocket_send_binary(uwsgi.websocket_recv())
    return websocket.serve(
        environ, start_response, joined if path == "/joined" else echo, compression=path == "/deflate"
    )
