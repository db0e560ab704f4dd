"""Everyone's cursor on one page: a WebSocket each, one channel for all.

channels examples.cursors:app --workers 4
"""

import colorsys
import json
import random
import uuid

from flask import Flask, render_template

import channels
from channels.flask import Channels

CHANNEL = "cursors"
NAMES = ("Otter", "Heron", "Lynx", "Wren", "Marten", "Ibex", "Plover", "Stoat", "Kestrel", "Hare")

app = Flask(__name__)
ch = Channels(app)


def colour():
    red, green, blue = colorsys.hls_to_rgb(random.random(), 0.36, 0.7)  # dark enough for white letters
    return f"#{int(red * 255):02x}{int(green * 255):02x}{int(blue * 255):02x}"


@app.get("/")
def page():
    return render_template("cursors.html")


@ch.websocket("/socket")
def socket(ws):
    me = {"id": uuid.uuid4().hex, "name": random.choice(NAMES), "colour": colour(), "worker": channels.worker_id()}
    ws.join(CHANNEL)
    ws.send(json.dumps({"you": me}))
    ch.publish(CHANNEL, {"hello": me["id"]})  # whoever is there says where it is
    try:
        for text in ws:
            try:
                x, y = (min(max(float(value), 0.0), 1.0) for value in json.loads(text))
            except (ValueError, TypeError):
                continue  # not one of our pages
            ch.publish(CHANNEL, {**me, "x": round(x, 4), "y": round(y, 4)})
    finally:
        ch.publish(CHANNEL, {"gone": me["id"]})
