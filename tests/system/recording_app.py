"""Remembers every request that it gets; the same list for all who ask /seen."""

from __future__ import annotations

import json
from typing import Any

seen: list[dict[str, Any]] = []


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    if environ["PATH_INFO"] == "/seen":
        body = json.dumps(seen).encode()
        seen.clear()
    else:
        read = environ["wsgi.input"].read()
        seen.append(
            {
                "method": environ["REQUEST_METHOD"],
                "target": environ["RAW_URI"],
                "host": environ.get("HTTP_HOST"),
                "body": read.decode("latin-1"),
                "address": environ["REMOTE_ADDR"],
                "scheme": environ["wsgi.url_scheme"],
                "secret": environ.get("HTTP_X_SECRET"),
            }
        )
        body = environ["RAW_URI"].encode("latin-1")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
