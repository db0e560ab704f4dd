"""A room with two doors: the same chat by server-sent events and by a WebSocket, side by side.

channels examples.rooms:app --workers 4
"""

import re

from flask import Flask, abort, redirect, render_template, request, url_for

import channels
from channels.flask import Channels

TEXT_MAX = 2000
ROOM = re.compile(r"[\w-]{1,40}")

app = Flask(__name__)
ch = Channels(app)


def say(room, text, door):
    """To everyone in the room, whichever door they came through."""
    if text.strip():
        ch.publish(f"room:{room}", {"text": text[:TEXT_MAX], "door": door, "worker": channels.worker_id()})


@app.url_value_preprocessor
def check(endpoint, values):
    if values and "room" in values and not ROOM.fullmatch(values["room"]):
        abort(404)


@app.get("/")
def start():
    return redirect(url_for("page", room="lobby"))


@app.get("/<room>")
def page(room):
    return render_template("rooms.html", room=room, text_max=TEXT_MAX)


@app.get("/<room>/events")
def events(room):
    return ch.sse(f"room:{room}")


@app.post("/<room>/say")
def post(room):
    say(room, request.get_data(as_text=True), "events")
    return "", 204


@ch.websocket("/<room>/socket")
def socket(ws, room):
    ws.join(f"room:{room}")
    for text in ws:
        say(room, text, "socket")
