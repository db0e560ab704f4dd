"""channels: streams written natively; /own gives each client a greenlet instead."""

from __future__ import annotations

from typing import Any

from benchmarks.webapps import create
from channels.flask import Channels

ch = Channels()
app = create(lambda text: ch.publish("all", text))
ch.init_app(app)


@app.get("/events")
def events() -> Any:
    return ch.sse("all")


@app.get("/own")
def own() -> Any:
    return ch.sse("all", filter=lambda message: True)
