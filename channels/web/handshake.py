"""A WebSocket's opening handshake, from a WSGI environ (RFC 6455, 4.2)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Response
from websockets.server import ServerProtocol

log = logging.getLogger("channels.websocket")
log.setLevel(logging.WARNING)  # the library tells of each connection otherwise

HOPS = {"connection", "date", "upgrade"}  # the server's own business in a refusal
WINDOW_BITS = 12  # 4 KiB of history for each client and direction: most of the gain, an eighth of the memory
CONTROL_MAX = 125  # bytes of a ping (RFC 6455, 5.5): the library counts one within a message to the message
_COPIED = ("HTTP_UPGRADE", "HTTP_CONNECTION", "HTTP_HOST")


class Protocol(ServerProtocol):
    """The library's, which counts a message as RFC 6455, 5.4 does: a ping between its pieces is no part of it."""

    def __init__(self, max_size: int, **options: Any) -> None:
        super().__init__(max_size=max_size + CONTROL_MAX, **options)
        self._max_size = max_size
        self._size = 0  # bytes so far of the message that has begun

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            size = self._size + len(frame.data)
            if size > self._max_size:
                self.fail(CloseCode.MESSAGE_TOO_BIG, f"more than {self._max_size} bytes")  # and what follows is dropped
                return
            self._size = 0 if frame.fin else size
        super().recv_frame(frame)


def refusal(status: int, text: str) -> Response:
    """A response that says why not."""
    reasons = {400: "Bad Request", 403: "Forbidden", 501: "Not Implemented"}
    body = text.encode() + b"\n"
    fields = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body))}
    return Response(status, reasons[status], Headers(fields), body)


def answer(
    environ: dict[str, Any],
    *,
    origins: str | Iterable[str] | None,
    subprotocols: Iterable[str],
    compression: bool,
    max_size: int,
) -> tuple[ServerProtocol, Response]:
    """The protocol's state and its response: 101, or one that refuses."""
    ours = list(subprotocols)

    def choose(protocol: ServerProtocol, offered: Sequence[Any]) -> Any:
        return next((name for name in ours if name in offered), None)

    deflate = ServerPerMessageDeflateFactory(
        server_max_window_bits=WINDOW_BITS, client_max_window_bits=WINDOW_BITS, compress_settings={"memLevel": 5}
    )
    protocol = Protocol(max_size, extensions=[deflate] if compression else None, select_subprotocol=choose, logger=log)
    if not origin_allowed(environ, origins):
        return protocol, refusal(403, "pages of this origin may not connect")
    request = _request(environ)
    if request.isascii():  # before websockets 17 another key is an accident, with a traceback
        protocol.receive_data(request)
    events = protocol.events_received()
    if not events:
        return protocol, refusal(400, "not a WebSocket handshake")
    response = protocol.accept(events[0])  # type: ignore[arg-type]
    return protocol, response


def _request(environ: dict[str, Any]) -> bytes:
    """What matters of the request, as it came."""
    lines = [f"{environ['REQUEST_METHOD']} / HTTP/1.1"]
    for key, value in environ.items():
        if key in _COPIED or key.startswith("HTTP_SEC_WEBSOCKET_"):
            lines.append(f"{key[5:].replace('_', '-')}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def origin_allowed(environ: dict[str, Any], origins: str | Iterable[str] | None) -> bool:
    """Whether a page of the request's Origin may connect (RFC 6455, 10.2)."""
    origin = environ.get("HTTP_ORIGIN")
    if origin is None or origins == "*":
        return True
    if origins is None:
        try:
            page = urlsplit(origin)
        except ValueError:
            return False
        if environ.get("wsgi.url_scheme") == "https" and page.scheme != "https":
            return False  # a page that came over the open wire may be anybody's
        return bool(page.netloc.lower() == environ.get("HTTP_HOST", "").lower() != "")
    return origin in ([origins] if isinstance(origins, str) else list(origins))
