"""A chat over several worker processes, with nothing between them but shared memory.

    channels examples.chat:app --workers 4

Messages travel by channels: one per room, read by the classical loop (join, wait for the descriptor, receive).  Every
worker remembers the last messages of every room, because it is subscribed to all of them; a new worker asks the others
by a call of an alert before it serves.  So any worker can be killed at any time, and a browser that comes back misses
nothing.  Alerts overtake messages: the question goes round as a message too, and is answered when that was heard.
"""

import collections
import json
import os
import re
import signal
import time

import gevent
from flask import Flask, Response, abort, jsonify, redirect, render_template, request, url_for
from gevent.event import Event

import channels
from channels import alerts, channel_fd, channel_join, channel_recv, channel_send, wait_fd_read

HEARTBEAT = 15  # seconds of silence after which a comment is sent, so that proxies keep the stream open
REMEMBERED = 100  # messages of each room, and questions
ROOMS_REMEMBERED = 1000
TEXT_MAX, NAME_MAX = 2000, 40  # characters
ROOMS = ("lobby", "music", "travel")
ROOM = re.compile(r"[\w-]{1,40}")
MESSAGE_ID = re.compile(r"[0-9a-f]{32}")

app = Flask(__name__)


class History:
    """What was said last in every room, as far as this worker knows."""

    def __init__(self):
        self.rooms = collections.OrderedDict()  # room -> {message id: (when and number, body)}, the oldest first
        self.subscription = None
        self.questions = collections.OrderedDict()  # a new worker's question -> Event that it was heard

    def start(self):
        """Listen to every room; then ask the other workers what was said before."""
        self.subscription = channels.subscribe("chat:*", maxlen=10_000)
        question = os.urandom(16).hex()
        channel_send("chat:", json.dumps({"kind": "question", "id": question}).encode())
        for answer in alerts.call_all("chat-history", question.encode(), timeout=5).values():
            if isinstance(answer, bytes):
                self.adopt(json.loads(answer))
        alerts.receive("chat-history", self.answer)
        gevent.spawn(self.listen)

    def listen(self):
        for message in self.subscription:
            self.add(message)

    def answer(self, question):
        """Everything that was said before the question."""
        self.heard(question.decode()).wait(timeout=2)
        return self.export()

    def heard(self, question):
        event = self.questions.setdefault(question, Event())
        if len(self.questions) > REMEMBERED:
            self.questions.popitem(last=False)
        return event

    def add(self, message):
        said = json.loads(message.data)
        if said["kind"] == "question":
            self.heard(said["id"]).set()
        elif said["kind"] != "presence":
            place = [message.time, int(message.id.split("-")[1])]
            self.room(message.channel[len("chat:") :]).setdefault(said["id"], (place, message.data.decode()))

    def room(self, name):
        if name not in self.rooms:
            self.rooms[name] = collections.OrderedDict()
            while len(self.rooms) > ROOMS_REMEMBERED:
                self.rooms.popitem(last=False)
        said = self.rooms[name]
        while len(said) > REMEMBERED:
            said.popitem(last=False)
        return said

    def since(self, name, last_id):
        """[(message id, body)] after that message; all of them when it is not known."""
        for message in self.subscription.drain():
            self.add(message)
        said = [(message_id, body) for message_id, (_, body) in self.room(name).items()]
        known = [place for place, (message_id, _) in enumerate(said) if message_id == last_id]
        return said[known[0] + 1 :] if known else said

    def export(self):
        return json.dumps({name: list(said.items()) for name, said in self.rooms.items()}).encode()

    def adopt(self, rooms):
        """What another worker remembers, in the channel's order: each knows what was said since it listens."""
        for name, said in rooms.items():
            mine = self.room(name)
            both = sorted({**dict(said), **mine}.items(), key=lambda item: item[1][0])
            mine.clear()
            mine.update(both)


history = History()
streams = {}  # of this worker: stream's number -> (room, name)


def start():
    """In a worker, and not where the application is only looked at (`--check-config`)."""
    try:
        channels.worker_id()
    except channels.NotAttached:
        return
    history.start()
    alerts.receive(
        "chat-people", lambda room: json.dumps([name for at, name in streams.values() if at == room.decode()]).encode()
    )


start()


def say(room, kind, name="", text="", message_id=None):
    """Send it to everyone in the room; how many workers have somebody there."""
    said = {
        "id": message_id or os.urandom(16).hex(),
        "kind": kind,
        "name": name,
        "text": text,
        "worker": channels.worker_id(),
        "pid": os.getpid(),
        "time": time.time(),
    }
    return channel_send(f"chat:{room}", json.dumps(said).encode())


def frame(event, body, message_id=None):
    """One server-sent event; `body` is JSON and so has no line break."""
    return f"id: {message_id}\n" * bool(message_id) + f"event: {event}\ndata: {body}\n\n"


def stream(room, name, last_id):
    """The classical loop: join, wait until the core's descriptor is readable, receive."""
    channel_join(f"chat:{room}")
    fd = channel_fd()
    number = object()
    streams[number] = (room, name)
    try:
        yield "retry: 300\n\n" + frame("worker", json.dumps({"worker": channels.worker_id(), "pid": os.getpid()}))
        say(room, "presence")
        replayed = set()
        for message_id, body in history.since(room, last_id):
            replayed.add(message_id)
            yield frame("said", body, message_id)
        while True:
            if not wait_fd_read(fd, timeout=HEARTBEAT):
                yield ": still here\n\n"
            while (body := channel_recv()) is not None:
                said = json.loads(body)
                if said["kind"] == "presence":
                    yield frame("presence", body.decode())
                elif said["id"] not in replayed:
                    yield frame("said", body.decode(), said["id"])
    finally:
        del streams[number]
        say(room, "presence")


def checked(room):
    return room if ROOM.fullmatch(room) else abort(404)


def given(key, limit):
    """A text of the request's JSON, trimmed."""
    body = request.get_json(silent=True)
    value = body.get(key) if isinstance(body, dict) else None
    if not isinstance(value, str) or not value.strip() or len(value) > limit:
        abort(400, f"{key}: 1 to {limit} characters")
    return value.strip()


@app.get("/")
def index():
    return redirect(url_for("page", room=ROOMS[0]))


@app.get("/rooms/<room>/")
def page(room):
    rooms = ROOMS if checked(room) in ROOMS else (*ROOMS, room)
    return render_template("chat.html", room=room, rooms=rooms, text_max=TEXT_MAX, name_max=NAME_MAX)


@app.get("/rooms/<room>/events")
def events(room):
    name = request.args.get("name", "").strip()[:NAME_MAX] or "someone"
    last_id = request.headers.get("Last-Event-ID") or request.args.get("last", "")
    return Response(
        stream(checked(room), name, last_id), mimetype="text/event-stream", headers={"Cache-Control": "no-store"}
    )


@app.post("/rooms/<room>/messages")
def post(room):
    """The browser numbers its messages, so that it may send one again when it does not know whether it arrived."""
    message_id = given("id", 32)
    if not MESSAGE_ID.fullmatch(message_id):
        abort(400, "id: 32 hexadecimal digits")
    workers = say(checked(room), "message", given("name", NAME_MAX), given("text", TEXT_MAX), message_id)
    return jsonify(workers=workers), 201


@app.get("/rooms/<room>/people")
def people(room):
    """Who is in the room, by worker: asked of every worker."""
    answers = alerts.call_all("chat-people", checked(room).encode(), timeout=2)
    return jsonify({worker: json.loads(answer) for worker, answer in answers.items() if isinstance(answer, bytes)})


@app.post("/rooms/<room>/kill")
def kill(room):
    """SIGKILL for one of the workers.  JSON only, which no other site can post from a browser unasked."""
    name = given("name", NAME_MAX)
    pid = request.get_json().get("pid")
    victim = next((worker for worker in channels.workers() if worker.pid == pid), None)
    if victim is None:
        abort(404, "no such worker; it may be dead already")
    say(checked(room), "killed", name, f"killed worker {victim.id} (process {victim.pid})")
    if victim.pid == os.getpid():
        gevent.spawn_later(0.2, os.kill, victim.pid, signal.SIGKILL)  # after this answer
    else:
        os.kill(victim.pid, signal.SIGKILL)
    return jsonify(worker=victim.id), 202
