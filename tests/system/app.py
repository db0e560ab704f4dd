"""The application of the system tests: each path does one thing that a server has to cope with."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import channels
from channels.web import sse

HERE = Path.cwd()
VERSION = (HERE / "version").read_text().strip() if (HERE / "version").exists() else "1"
if VERSION == "broken":
    raise RuntimeError("this version cannot be imported")
if VERSION == "slow":
    time.sleep(2)


def answer(start_response: Any, body: str, status: str = "200 OK") -> list[bytes]:
    data = body.encode()
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(data)))])
    return [data]


def stream(start_response: Any, channel: str) -> Iterable[bytes]:
    """Messages of a channel, a line each, until the stream is to end."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    with channels.subscribe(channel) as sub:
        yield f"{os.getpid()}\n".encode()
        for message in sub:
            yield message.data + b"\n"


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    given = dict(parse_qsl(environ.get("QUERY_STRING", "")))
    path = environ["PATH_INFO"]
    if "mark" in given:
        Path(given["mark"]).touch()
    if path == "/pid":
        return answer(start_response, str(os.getpid()))
    if path == "/version":
        return answer(start_response, VERSION)
    if path == "/slow":
        time.sleep(float(given["s"]))
        return answer(start_response, str(os.getpid()))
    if path == "/block":
        end = time.monotonic() + float(given["s"])
        while time.monotonic() < end:
            pass
        return answer(start_response, "done")
    if path == "/upload":
        size = 0
        while part := environ["wsgi.input"].read(65536):
            size += len(part)
        return answer(start_response, str(size))
    if path == "/events":
        status, fields, events = sse.stream("news", environ=environ)
        start_response(status, fields)
        return events
    if path == "/stream":
        return stream(start_response, given.get("channel", "news"))
    if path == "/send":
        while "when" in given and not Path(given["when"]).exists():
            time.sleep(0.01)
        data = given["data"] + (f"@{os.getpid()}" if "signed" in given else "")
        return answer(start_response, str(channels.channel_send(given["channel"], data.encode())))
    if path == "/env":
        return answer(start_response, os.environ.get(given["name"], "-"))
    if path == "/ids":
        return answer(start_response, f"{os.getuid()} {os.getgid()} {' '.join(map(str, os.getgroups()))}")
    if path == "/cwd":
        return answer(start_response, os.getcwd())
    if path == "/orphan":
        if (child := os.fork()) == 0:
            if (grandchild := os.fork()) == 0:
                os._exit(0)
            os.write(2, f"orphan {grandchild}\n".encode())
            os._exit(0)
        os.waitpid(child, 0)
    if path == "/daemon":
        if (child := os.fork()) == 0:
            if (grandchild := os.fork()) == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.pause()
            os.write(2, f"daemon {grandchild}\n".encode())
            os._exit(0)
        os.waitpid(child, 0)
    if path == "/exit":
        os._exit(int(given["status"]))
    return answer(start_response, "ok")
