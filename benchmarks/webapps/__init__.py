"""The applications of benchmarks.web: each streams what a request publishes, in the way that its name says.

GET /events streams; POST /burst?count=N&gap=SECONDS&size=BYTES publishes N messages, each beginning with its time.
"""

from __future__ import annotations

import time
from typing import Any, Callable

import gevent
from flask import Flask, request


def create(publish: Callable[[str], Any]) -> Flask:
    """With what all have in common."""
    app = Flask(__name__)

    @app.post("/burst")
    def burst() -> str:
        pause, size = float(request.args["gap"]), int(request.args["size"])
        rest = " " + "x" * (size - 20) if size else ""
        for _ in range(int(request.args["count"])):
            publish(f"{time.monotonic_ns()}{rest}")
            gevent.sleep(pause)
        return "done"

    return app
