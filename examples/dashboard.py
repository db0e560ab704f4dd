"""The server looks at itself: workers, channels and rates, told over one of its own channels.

channels examples.dashboard:app --workers 4
"""

import gevent
from flask import Flask, render_template

import channels
from channels import stats
from channels.flask import Channels
from channels.worker import client

PERIOD = 0.5  # seconds between reports
CHANNEL = "dashboard"
COUNTED = ("connections", "streams", "requests_total", "sent", "received", "alerts_received", "missed")

app = Flask(__name__)
ch = Channels(app)


def report():
    """What the page shows.  Counters grow for ever; the page makes rates of them."""
    seen = stats.snapshot(client.current().segment)
    router = seen["router"]["counters"]
    return {
        "time": seen["time"],
        "megabytes": round(seen["segment"]["bytes"] / (1 << 20), 1),
        "router": {name: router[name] for name in ("records", "deliveries", "dropped", "rows_used")},
        "workers": [
            {
                "id": worker["id"],
                "pid": worker["pid"],
                "state": worker["state"],
                "beat": worker["heartbeat_age"],
                **{name: worker["counters"].get(name, 0) for name in COUNTED},
            }
            for worker in seen["workers"]
        ],
    }


@ch.background
def tell():
    """In every worker; the one with the lowest number speaks, so that another takes over when it dies."""
    while True:
        ready = [worker.id for worker in channels.workers() if worker.state == "ready"]
        if ready and channels.worker_id() == min(ready):
            ch.publish(CHANNEL, report())
        gevent.sleep(PERIOD)


@app.get("/")
def page():
    return render_template("dashboard.html")


@app.get("/events")
def events():
    return ch.sse(CHANNEL)


@app.post("/load")
def load():
    """Something to look at: a thousand messages to everyone who has this page open."""
    for number in range(1000):
        channels.channel_send("dashboard:load", b"%d" % number)
        if number % 100 == 0:
            gevent.sleep(0.02)
    return "", 204


@ch.background
def listen():
    for _ in channels.subscribe("dashboard:load"):
        pass
