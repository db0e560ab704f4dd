"""Clients that people have: npm's `ws` and `eventsource`, websocket-client, sseclient-py, httpx-sse, the browser."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import httpx
import pytest
import sseclient
import websocket as websocket_client
from httpx_sse import connect_sse

from tests.browser import Browser
from tests.server import Server
from tests.system.line import Line
from tests.system.npm import node

DEADLINE = 30


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    options = ("--stream-retry", "0.2", "--drain-spread", "0.1", "--stream-heartbeat", "1")
    with Server("tests.web.apps:application", *options, workers=2) as made:
        yield made


def url(server: Server, path: str) -> str:
    return server.url.replace("http:", "ws:") + path


def say(server: Server, channel: str, text: str, listeners: bool = True) -> None:
    """When somebody listens, or to nobody."""
    sent = server.get(f"/send?channel={channel}&data={text}")
    assert (sent != b"0") is listeners


def reload(server: Server) -> None:
    old = set(server.workers.values())
    server.send_signal(signal.SIGHUP)
    server.wait_ready(2, without=old)


# ---- event streams ----

EVENTSOURCE = """
const { EventSource } = require('eventsource')
const source = new EventSource(process.argv[1])
source.onopen = () => console.log('open')
source.onmessage = event => console.log('message', JSON.stringify([event.data, event.lastEventId]))
source.addEventListener('kind', event => console.log('kind', JSON.stringify([event.data])))
source.addEventListener('gap', event => console.log('gap', event.data))
"""


@contextlib.contextmanager
def somebody_else(server: Server, channel: str) -> Iterator[None]:
    """Listens all the time, so that the channel goes on counting."""
    with urlopen(f"{server.url}/events?channels={channel}", timeout=DEADLINE):
        yield


def test_npm_s_eventsource_comes_back_by_itself_and_is_told_exactly_what_it_missed(server: Server) -> None:
    with Line(server.address) as line, somebody_else(server, "npm"):
        client = node(EVENTSOURCE, f"{line.url}/events?channels=npm", packages=("eventsource",))
        watch = threading.Timer(DEADLINE, client.kill)
        watch.start()
        try:
            assert client.stdout is not None and client.stderr is not None
            assert client.stdout.readline() == "open\n", client.stderr.read()
            say(server, "npm", "one%0Atwo")
            data, last = json.loads(client.stdout.readline().removeprefix("message "))
            assert data == "one\ntwo" and last.endswith("-1")
            server.get("/send?channel=npm&data=x&event=kind")
            assert client.stdout.readline() == 'kind ["x"]\n'
            line.cut()
            for number in range(3):
                say(server, "npm", f"not+heard+{number}")
            line.mend()
            assert client.stdout.readline() == "open\n"
            assert json.loads(client.stdout.readline().removeprefix("gap ")) == {"channel": "npm", "missed": 3}
            say(server, "npm", "after")
            data, last = json.loads(client.stdout.readline().removeprefix("message "))
            assert data == "after" and last.endswith("-6")
        finally:
            watch.cancel()
            client.kill()
            client.communicate()


def test_the_browser_s_event_source_sends_its_last_id_and_is_told_exactly_what_it_missed(server: Server) -> None:
    with Line(server.address) as line, somebody_else(server, "chromium"), Browser() as browser:
        browser.open(line.url + "/")

        def look(what: str) -> Any:
            return browser.driver.execute_script(f"return window.{what}")

        browser.driver.execute_script(
            """
            window.log = []; window.opened = 0
            const source = new EventSource('/events?channels=chromium')
            source.onopen = () => window.opened++
            source.onmessage = event => log.push([event.data, event.lastEventId])
            source.addEventListener('gap', event => log.push(JSON.parse(event.data)))
            """
        )
        browser.wait(lambda: look("opened") == 1)
        say(server, "chromium", "first")
        browser.wait(lambda: len(look("log")) == 1)
        line.cut()
        for number in range(3):
            say(server, "chromium", f"not+heard+{number}")
        line.mend()
        browser.wait(lambda: len(look("log")) == 2)
        say(server, "chromium", "after")
        browser.wait(lambda: len(look("log")) == 3)
        first, gap, after = look("log")
        assert first[0] == "first" and after[0] == "after"
        assert gap == {"channel": "chromium", "missed": 3}
        assert [int(entry[1].rpartition("-")[2]) for entry in (first, after)] == [1, 5]


def test_sseclient_and_httpx_sse_read_the_same_and_know_the_ids(server: Server) -> None:
    path = f"{server.url}/events?channels=py"
    with httpx.Client(timeout=DEADLINE) as client, connect_sse(client, "GET", path) as source:
        other = sseclient.SSEClient(urlopen(path, timeout=DEADLINE))  # type: ignore[arg-type]
        mine, theirs = source.iter_sse(), other.events()
        seen = []
        for number in range(5):
            say(server, "py", f"number+{number}")
            seen.append(next(mine))  # another request may reach another worker, and overtake it
        assert [event.data for event in seen] == [f"number {number}" for number in range(5)]
        assert [event.id.rpartition("-")[2] for event in seen] == ["1", "2", "3", "4", "5"]
        assert [event.retry for event in seen] == [200, None, None, None, None]
        assert [(event.data, event.id) for event in (next(theirs) for _ in range(5))] == [
            (event.data, event.id) for event in seen
        ]


# ---- WebSockets ----


def test_websocket_client_talks_to_it(server: Server) -> None:
    ws = websocket_client.create_connection(url(server, "/echo"), timeout=DEADLINE)
    ws.send("text")
    assert ws.recv() == "text"
    ws.send_binary(b"\0\1")
    assert ws.recv() == b"\0\1"
    ws.ping("p")
    ws.send("after the ping")
    assert ws.recv() == "after the ping"
    ws.close()


def test_websocket_client_s_app_hears_its_channel_and_the_end_at_a_reload(server: Server) -> None:
    heard: list[Any] = []

    def opened(app: websocket_client.WebSocketApp) -> None:
        heard.append("open")

    def said(app: websocket_client.WebSocketApp, message: str) -> None:
        heard.append(message)

    def ended(app: websocket_client.WebSocketApp, code: int | None, reason: str | None) -> None:
        heard.append(code)

    app = websocket_client.WebSocketApp(
        url(server, "/join?channels=app"), on_open=opened, on_message=said, on_close=ended
    )
    runner = threading.Thread(target=app.run_forever, daemon=True)
    runner.start()
    server.wait(lambda: heard == ["open", "joined"])
    say(server, "app", "hello")
    server.wait(lambda: len(heard) == 3)
    reload(server)
    runner.join(DEADLINE)
    assert heard == ["open", "joined", "hello", 1012]


WS = """
const { WebSocket } = require('ws')
const ws = new WebSocket(process.argv[1])
const big = 'x'.repeat(200000)
let seen = 0
ws.on('open', () => { ws.send('hello'); ws.send(Buffer.from([0, 255])); ws.send(big); ws.ping('payload') })
ws.on('pong', data => console.log('pong', data.toString()))
ws.on('message', (data, binary) => {
  console.log(binary ? 'binary' : 'text', data.length)
  if (++seen === 3) ws.close(1000, 'done')
})
ws.on('close', code => console.log('close', code))
"""


@pytest.mark.parametrize("path", ["/echo", "/echo?deflate=1"])
def test_npm_s_ws_talks_to_it(server: Server, path: str) -> None:
    client = node(WS, url(server, path), packages=("ws",))
    said, errors = client.communicate(timeout=60)
    assert set(said.split("\n")) - {""} == {"text 5", "binary 2", "text 200000", "pong payload", "close 1000"}, errors


WS_REJOINS = """
const { WebSocket } = require('ws')
function connect () {
  const ws = new WebSocket(process.argv[1])
  ws.on('message', data => console.log('message', data.toString()))
  ws.on('close', code => { console.log('close', code); if (code === 1012) connect() })
}
connect()
"""


def test_npm_s_ws_is_told_to_come_back_after_a_reload(server: Server) -> None:
    client = node(WS_REJOINS, url(server, "/join?channels=back"), packages=("ws",))
    watch = threading.Timer(DEADLINE, client.kill)
    watch.start()
    try:
        assert client.stdout is not None and client.stderr is not None
        assert client.stdout.readline() == "message joined\n", client.stderr.read()
        reload(server)
        assert client.stdout.readline() == "close 1012\n"
        assert client.stdout.readline() == "message joined\n"
        say(server, "back", "hello+again")
        assert client.stdout.readline() == "message hello again\n"
    finally:
        watch.cancel()
        client.kill()
        client.communicate()
