"""The application of the Flask extension's tests."""

from __future__ import annotations

from typing import Any

from flask import Flask, current_app, request

from channels.flask import Channels
from channels.flask_sse import sse
from channels.web.websocket import WebSocket

ch = Channels()


def create(**config: Any) -> Flask:
    app = Flask(__name__)
    app.config.update(config)
    app.register_blueprint(sse, url_prefix="/stream")

    @app.get("/")
    def page() -> str:
        return "<!doctype html><title>test</title><p>test"

    @app.get("/rooms/<room>/events")
    def events(room: str) -> Any:
        return ch.sse(f"room:{room}")

    @app.post("/rooms/<room>")
    def say(room: str) -> str:
        return str(ch.publish(f"room:{room}", request.get_data(as_text=True), event=request.args.get("event")))

    @app.post("/greet")
    def greet() -> str:
        given = request.get_json()
        return str(sse.publish(given.pop("data"), **given))

    ch.init_app(app)
    return app


@ch.websocket("/rooms/<room>/chat")
def chat(ws: WebSocket, room: str) -> None:
    assert current_app.name and request.path.endswith("/chat")
    ws.join(f"room:{room}")
    ws.send("welcome")
    for text in ws:
        ch.publish(f"room:{room}", text)


@ch.on_alert("whoami")
def whoami(data: bytes) -> bytes:
    return data + current_app.name.encode()


app = create(SECRET_KEY="not so secret", CHANNELS_EVENTS_URL="/channels/events", CHANNELS_CORS="*")
