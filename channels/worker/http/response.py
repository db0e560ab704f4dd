"""Status and header fields of an answer: what applications give -> bytes, and what the server has to know of them.

Pure.
"""

from __future__ import annotations

import http
import re
from collections.abc import Iterable
from typing import Any

from channels.errors import ChannelsError

CLOSE, DATE, SERVER = 1, 2, 4
_LENGTH, _DROP, _CONNECTION, _DATE, _SERVER = 1, 2, 3, 4, 5
_SPECIAL = {
    "content-length": _LENGTH,
    "connection": _CONNECTION,
    "date": _DATE,
    "server": _SERVER,
    # How a message travels is the server's (PEP 3333, "Other HTTP Features"; RFC 9110, section 7.6.1).
    "transfer-encoding": _DROP,
    "keep-alive": _DROP,
    "proxy-connection": _DROP,
    "upgrade": _DROP,
    "trailer": _DROP,
    "te": _DROP,
}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_LEARNED_MAX = 1024

_names: dict[str, int] = {}
_statuses: dict[str, tuple[int, bytes]] = {}


class BadResponse(ChannelsError, ValueError):
    """The application gave a status or a header field that HTTP cannot carry."""

    def __init__(self, what: str, value: object, reason: str) -> None:
        super().__init__(what, value, reason)
        self.what = what
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what} {self.value!r:.200} {self.reason}"


def status_line(status: str) -> tuple[int, bytes]:
    """(code, the line) of "200 OK".  Raises BadResponse."""
    found = _statuses.get(status)
    if found is not None:
        return found
    if not isinstance(status, str):
        raise BadResponse("status", status, "must be a str like '200 OK'")
    code = status[:3]
    if not (code.isascii() and code.isdigit() and "100" <= code <= "999") or status[3:4] not in ("", " "):
        raise BadResponse("status", status, "must be three digits, a space and a reason")
    if not all(" " <= character <= "~" or character >= "\xa0" for character in status):
        raise BadResponse("status", status, "must have no control characters")
    try:
        made = int(code), f"HTTP/1.1 {status if len(status) > 4 else code + ' '}\r\n".encode("latin-1")
    except UnicodeEncodeError:
        raise BadResponse("status", status, "must be latin-1") from None
    if len(_statuses) < _LEARNED_MAX:
        _statuses[status] = made
    return made


def _learn(name: Any) -> int:
    if not isinstance(name, str):
        raise BadResponse("header name", name, "must be a str")
    if not _TOKEN.match(name):
        raise BadResponse("header name", name, "is no token (RFC 9110, section 5.6.2)")
    kind = _SPECIAL.get(name.lower(), 0)
    if len(_names) < _LEARNED_MAX and len(name) < 64:
        _names[name] = kind
    return kind


def fields(headers: Iterable[tuple[str, str]]) -> tuple[bytes, int, int]:
    """(lines, content length or -1, CLOSE | DATE | SERVER) of an application's header fields.  Raises BadResponse."""
    if not isinstance(headers, (list, tuple)):
        headers = list(headers)  # they are looked at twice
    text = ""
    count, length, flags = 0, -1, 0
    for pair in headers:
        try:
            name, value = pair
            kind = _names.get(name)
        except (TypeError, ValueError):
            raise BadResponse("header", pair, "must be a pair of str") from None
        if kind is None:
            kind = _learn(name)
        if not isinstance(value, str):
            raise BadResponse(f"header {name}:", value, "must be a str")
        if kind:
            if kind == _LENGTH:
                if not (value.isascii() and value.isdigit()) or len(value) > 18 or length not in (-1, int(value)):
                    raise BadResponse("header Content-Length:", value, "must be one number")
                length = int(value)
                continue
            if kind == _CONNECTION:
                if "close" in value.lower():
                    flags |= CLOSE
                continue
            if kind == _DROP:
                continue
            flags |= DATE if kind == _DATE else SERVER
        text += f"{name}: {value}\r\n"
        count += 1
    if text.count("\n") != count or text.count("\r") != count or "\0" in text:
        for name, value in headers:
            if "\r" in value or "\n" in value or "\0" in value:
                raise BadResponse(f"header {name}:", value, "must have no CR, LF or NUL")
        raise BadResponse("headers", text, "must have no CR, LF or NUL")
    try:
        return text.encode("latin-1"), length, flags
    except UnicodeEncodeError:
        for name, value in headers:
            if any(character > "\xff" for character in value):
                raise BadResponse(
                    f"header {name}:", value, "must be latin-1; encode it, as with email.header or percent-encoding"
                ) from None
        raise


def refusal(code: int, date: bytes, reason: str = "", fields: str = "") -> bytes:
    """A whole answer of the server's own, after which it closes.

    Args:
        date: The fields Date and Server.
        fields: More lines.
    """
    try:
        phrase = http.HTTPStatus(code).phrase
    except ValueError:
        phrase = "Error"
    text = f"{code} {phrase}" + (f": {reason}" if reason else "") + "\n"
    return (
        f"HTTP/1.1 {code} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(text)}\r\n"
        f"{fields}Connection: close\r\n".encode("ascii")
        + date
        + b"\r\n"
        + text.encode("ascii", "replace")
    )
