"""Flask-SSE with Redis, as its documentation shows: a Redis subscription and a greenlet for each client."""

from __future__ import annotations

import os

from flask_sse import sse

from benchmarks.webapps import create

app = create(sse.publish)
app.config["REDIS_URL"] = os.environ["BENCHMARK_REDIS"]
app.register_blueprint(sse, url_prefix="/events")
