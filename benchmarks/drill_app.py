"""What the drill asks for: short, slow and streamed answers, and uploads.  Runs under any WSGI server."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MODE = Path(os.environ["DRILL_MODE"]).read_text().strip()
if MODE == "slow":
    time.sleep(2)
if MODE == "broken":
    raise RuntimeError("cannot be imported")

try:
    from channels import subscribe, worker_id

    worker_id()
except Exception:  # another server, or an import by none
    subscribe = None


def ticks() -> Iterator[bytes]:
    """A line at once, then nothing for long: what a stream of events mostly is."""
    yield b"begin\n"
    if subscribe is not None:
        with subscribe("drill") as sub:
            for message in sub:
                yield message.data
        return
    while True:
        time.sleep(0.5)
        yield b"tick\n"


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return ticks()
    if path == "/slow":
        time.sleep(1.0)
    size = 0
    if path == "/upload":
        while part := environ["wsgi.input"].read(65536):
            size += len(part)
            time.sleep(0.01)
    body = str(size).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
