"""WSGI applications without a framework, for tests through a real server."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

import gevent

import channels
from channels.web import sse, websocket
from channels.web.websocket import WebSocket

PAGE = b"<!doctype html><title>test</title><p>test"


def echo(ws: WebSocket) -> None:
    for message in ws:
        ws.send(message)


def asked(query: dict[str, str]) -> tuple[list[str], list[str]]:
    names, prefixes = (query[key].split(",") if key in query else [] for key in ("channels", "prefixes"))
    return names, prefixes


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    query = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    if path == "/send":
        count = channels.publish(query["channel"], query["data"], event=query.get("event"))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"%d" % count]
    if path == "/flood":
        count, size = int(query["count"]), int(query["size"])
        for number in range(count):
            channels.channel_send(query["channel"], b"%08d" % number + b"x" * (size - 8))
            if number % 50 == 49:
                gevent.sleep(0.001)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"sent"]
    if path == "/events":
        options = {"heartbeat": float(query["heartbeat"])} if "heartbeat" in query else {}
        names, prefixes = asked(query)
        status, headers, body = sse.stream(*names, prefixes=prefixes, environ=environ, cors="*", **options)
        start_response(status, headers)
        return body
    if path == "/echo":
        return websocket.serve(environ, start_response, echo, compression="deflate" in query, origins="*")
    if path == "/guarded":
        return websocket.serve(environ, start_response, echo, subprotocols=["v2", "v1"], max_size=1000)
    if path == "/join":

        def join(ws: WebSocket) -> None:
            names, prefixes = asked(query)
            ws.join(*names, prefixes=prefixes, binary="binary" in query)
            ws.send("joined")
            for message in ws:
                channels.publish(names[0], message)

        options = {"slow": query["slow"]} if "slow" in query else {}
        return websocket.serve(environ, start_response, join, compression="deflate" in query, **options)
    if path == "/many":

        def many(ws: WebSocket) -> None:
            """Several greenlets send large messages at once, and a channel more of them in between."""
            if "channel" in query:
                ws.join(query["channel"])

            def talk(letter: str) -> None:
                for _ in range(20):
                    ws.send(letter * 30_000)

            def publish() -> None:
                for _ in range(80):
                    channels.channel_send(query["channel"], b"z" * 30_000)
                    gevent.sleep(0)

            talkers = [gevent.spawn(talk, letter) for letter in "abcdefgh"]
            gevent.joinall([*talkers, *([gevent.spawn(publish)] if "channel" in query else [])])
            ws.receive()
            ws.send("end")
            ws.receive()

        return websocket.serve(environ, start_response, many, compression="deflate" in query)
    if path == "/sleep":
        gevent.sleep(3600)
    if path == "/fail":

        def fail(ws: WebSocket) -> None:
            if query.get("how") == "Timeout":
                raise gevent.Timeout
            if query.get("how") == "GreenletExit":
                raise gevent.GreenletExit
            raise RuntimeError("on purpose")

        return websocket.serve(environ, start_response, fail)
    if path == "/close":

        def close(ws: WebSocket) -> None:
            ws.close(4001, "enough")

        return websocket.serve(environ, start_response, close)
    if path == "/timeouts":

        def timeouts(ws: WebSocket) -> None:
            before = time.monotonic()
            assert ws.receive(timeout=0.05) is None
            assert ws.receive(timeout=0) is None
            ws.send(f"{time.monotonic() - before:.3f}")
            ws.send(f"got {ws.receive(timeout=30)!r}")

        return websocket.serve(environ, start_response, timeouts)
    start_response("200 OK", [("Content-Type", "text/html")])
    return [PAGE]
