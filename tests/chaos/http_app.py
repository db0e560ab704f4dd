"""What the HTTP robustness runs have served: it tells what it saw of a request."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

import gevent

BIG = b"x" * (16 << 20)  # more than the kernel holds for a connection


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """`/big`: 16 MiB; `/stream`: goes on; anything else: method, target, and length and digest of the body."""
    if environ["RAW_URI"] == "/big":
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return [BIG]
    if environ["RAW_URI"] == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return stream()
    body = environ["wsgi.input"].read()
    for name, value in environ.items():
        # The path is unquoted: what was quoted there is the client's business.
        if name != "PATH_INFO" and isinstance(value, str) and any(character in value for character in "\r\n\0"):
            raise AssertionError(f"{name} is {value!r}")
    seen = [environ["REQUEST_METHOD"], environ["RAW_URI"], len(body), hashlib.sha1(body).hexdigest(), os.getpid()]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(seen).encode()]


def stream() -> Iterable[bytes]:
    while True:
        yield b"beat\n"
        gevent.sleep(0.5)
