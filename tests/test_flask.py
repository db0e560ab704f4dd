"""The Flask extension: in the test client, and through a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import httpx
import pytest
import sseclient
from flask import Flask, current_app
from httpx_sse import connect_sse
from websockets.sync.client import connect

import channels
from channels import alerts, testing
from channels.flask import BadToken, Channels
from tests.browser import Browser
from tests.flask_app import app, ch, create
from tests.server import ROOT, Server
from tests.web.parser import Parser

DEADLINE = 30


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("tests.flask_app:app", workers=2) as made:
        yield made


@pytest.fixture
def local() -> Iterator[None]:
    with testing.local():
        yield


def read(response: Any, count: int) -> list[Any]:
    parser, events = Parser(), []
    chunks = iter(response.response)
    while len(events) < count:
        events += parser.feed(next(chunks))
    return events


# ---- in the test client ----


def test_a_stream_in_the_test_client_gets_what_another_request_sends(local: None) -> None:
    client = app.test_client()
    stream = client.get("/rooms/1/events")
    assert stream.mimetype == "text/event-stream"
    assert stream.headers["Access-Control-Allow-Origin"] == "*"
    assert client.post("/rooms/1?event=greeting", data="hällo\nthere").data == b"1"
    (event,) = read(stream, 1)
    assert (event.type, event.data) == ("greeting", "hällo\nthere")
    stream.close()
    while client.post("/rooms/1", data="x").data != b"0":
        testing.pause()


def test_head_says_what_get_would(local: None) -> None:
    response = app.test_client().head("/rooms/1/events")
    assert response.mimetype == "text/event-stream"
    assert response.data == b""


def test_outside_of_a_worker_a_view_fails_with_advice() -> None:
    with app.app_context(), pytest.raises(channels.NotAttached, match="channels MODULE:APP"):
        ch.publish("a", "x")


def test_applications_keep_apart_by_their_prefix(local: None) -> None:
    one, two = (Flask(name) for name in ("one", "two"))
    both = Channels()
    for made in (one, two):
        made.config["CHANNELS_PREFIX"] = made.name + ":"
        both.init_app(made)
    with one.test_request_context("/"):
        stream = both.sse("a")
        assert both.publish("a", "mine") == 1
    with two.app_context():
        assert both.publish("a", "not theirs") == 0
    assert read(stream, 1)[0].data == "mine"
    stream.close()


def test_a_room_named_star_is_one_room(local: None) -> None:
    client = app.test_client()
    stream = client.get("/rooms/*/events")
    assert client.post("/rooms/1", data="secret").data == b"0"
    assert client.post("/rooms/*", data="ours").data == b"1"
    assert read(stream, 1)[0].data == "ours"
    stream.close()


def test_prefixes_stay_within_the_application_s_own(local: None) -> None:
    made = Flask("of prefixes")
    made.config["CHANNELS_PREFIX"] = "mine:"
    its = Channels(made)
    with made.test_request_context("/"):
        stream = its.sse(prefixes=("",))
        assert its.publish("a", "mine") == 1
        assert channels.publish("theirs", "x") == 0
    assert read(stream, 1)[0].data == "mine"
    stream.close()


def test_a_token_for_star_gives_leave_for_star(local: None) -> None:
    made = create(SECRET_KEY="key", CHANNELS_EVENTS_URL="/ev")
    with made.app_context():
        token, wide = ch.token("room:*"), ch.token(prefixes=("room:",))
    client = made.test_client()
    stream, all_rooms = (client.get("/ev", query_string={"token": each}) for each in (token, wide))
    client.post("/rooms/7", data="secret")
    client.post("/rooms/*", data="ours")
    assert read(stream, 1)[0].data == "ours"
    assert [event.data for event in read(all_rooms, 2)] == ["secret", "ours"]
    stream.close()
    all_rooms.close()


def test_an_application_takes_it_once() -> None:
    made = Flask("twice")
    Channels(made)
    with pytest.raises(RuntimeError, match="already"):
        Channels(made)


def test_a_plain_request_to_a_websocket_is_refused(local: None) -> None:
    assert app.test_client().get("/rooms/1/chat").status_code == 400


def test_alerts_are_handled_in_the_application_s_context() -> None:
    made, its = Flask("of alerts"), Channels()
    its.init_app(made)

    @its.on_alert("name?")
    def name(data: bytes) -> bytes:
        return current_app.name.encode() + data

    for _ in range(2):  # in each worker that comes
        with testing.local() as client:
            assert alerts.call(client.pid, "name?", b"!", timeout=10) == b"of alerts!"


def test_what_runs_in_the_background_runs_in_every_worker_that_comes() -> None:
    ran: list[int] = []

    @Channels().background
    def work() -> None:
        ran.append(channels.channel_send("nobody", b""))

    assert ran == []
    for number in (1, 2):
        with testing.local():
            while len(ran) < number:
                testing.pause()


def test_tokens_give_leave_for_what_they_name_and_for_so_long(local: None) -> None:
    made = create(SECRET_KEY="key", CHANNELS_EVENTS_URL="/ev", CHANNELS_TOKEN_AGE=1000)
    with made.app_context():
        token = ch.token("room:7", facts=["x"])
        assert ch.check_token(token) == (["room:7"], [], ["x"])
    client = made.test_client()
    stream = client.get("/ev", query_string={"token": token})
    client.post("/rooms/7", data="secret")
    assert read(stream, 1)[0].data == "secret"
    stream.close()
    assert client.get("/ev", query_string={"token": token + "x"}).status_code == 403
    assert client.get("/ev").status_code == 403
    made.config["CHANNELS_TOKEN_AGE"] = -1
    with made.app_context(), pytest.raises(BadToken, match="too old"):
        ch.check_token(token)


def test_without_a_key_there_are_no_tokens() -> None:
    with create().app_context(), pytest.raises(ValueError, match="SECRET_KEY"):
        ch.token("a")


# ---- through a server ----


def test_httpx_sse_and_sseclient_read_the_same(server: Server) -> None:
    with httpx.Client(timeout=DEADLINE) as client, connect_sse(client, "GET", f"{server.url}/rooms/s/events") as source:
        other = sseclient.SSEClient(urlopen(f"{server.url}/rooms/s/events", timeout=DEADLINE))  # type: ignore[arg-type]
        server.get("/rooms/s?event=kind", "one\ntwo ü".encode())
        server.get("/rooms/s", b"")
        server.get("/rooms/s", b"last")
        events = source.iter_sse()
        others = other.events()
        seen = [(event.event, event.data) for event in (next(events) for _ in range(3))]
        assert seen == [("kind", "one\ntwo ü"), ("message", ""), ("message", "last")]
        assert [(event.event, event.data) for event in (next(others) for _ in range(3))] == seen


def test_a_websocket_joins_its_room_within_the_request_s_context(server: Server) -> None:
    url = server.url.replace("http", "ws")
    with connect(f"{url}/rooms/w/chat") as one, connect(f"{url}/rooms/w/chat") as two:
        assert one.recv(timeout=DEADLINE) == two.recv(timeout=DEADLINE) == "welcome"
        one.send("hello")
        assert one.recv(timeout=DEADLINE) == two.recv(timeout=DEADLINE) == "hello"
        server.get("/rooms/w", b"from a request")
        assert two.recv(timeout=DEADLINE) == "from a request"


def test_a_browser_s_event_source_connects_again_by_itself_after_a_reload(server: Server) -> None:
    with Browser() as browser:
        browser.open(server.url + "/")
        browser.driver.execute_script(
            """
            window.log = []; window.opened = 0
            const source = new EventSource('/rooms/b/events')
            source.onopen = () => window.opened++
            source.onmessage = event => log.push(event.data)
            source.addEventListener('kind', event => log.push('kind ' + event.data))
            """
        )
        browser.wait(lambda: browser.driver.execute_script("return window.opened") == 1)
        server.get("/rooms/b", b"zwei\nZeilen")
        server.get("/rooms/b?event=kind", b"named")
        browser.wait(lambda: browser.driver.execute_script("return window.log.length") == 2)
        old = set(server.workers.values())
        server.send_signal(1)
        server.wait_ready(2, without=old)
        browser.wait(lambda: browser.driver.execute_script("return window.opened") >= 2)
        server.wait(lambda: server.get("/rooms/b", b"after") != b"0")
        browser.wait(lambda: "after" in browser.driver.execute_script("return window.log"))
        log = browser.driver.execute_script("return window.log")
        assert log[:2] == ["zwei\nZeilen", "kind named"]


def flask(server: Server, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "tests.flask_app:app", "channels", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_lists_sends_and_tails(server: Server) -> None:
    where = ("--control-socket", str(server.control))
    with connect(f"{server.url.replace('http', 'ws')}/rooms/cli/chat") as ws:
        assert ws.recv(timeout=DEADLINE) == "welcome"
        assert "room:cli" in flask(server, "ls", *where)
        assert "1 worker listened" in flask(server, "send", *where, "room:cli", "from the shell")
        assert ws.recv(timeout=DEADLINE) == "from the shell"
        tail = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flask",
                "--app",
                "tests.flask_app:app",
                "channels",
                "tail",
                *where,
                "--count",
                "1",
                "room:tail",
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        server.wait(lambda: server.get("/rooms/tail", b"seen") == b"1")
        assert tail.communicate(timeout=60)[0] == "room:tail seen\n"


def test_a_token_s_url_is_served(server: Server) -> None:
    with app.app_context():
        token = ch.token("room:t")
    with urlopen(f"{server.url}/channels/events?token={token}", timeout=DEADLINE) as stream:
        assert stream.readline().startswith(b"retry: ")
        server.get("/rooms/t", json.dumps({"a": 1}).encode())
        while not (line := stream.readline()).startswith(b"data: "):
            pass
        assert json.loads(line[6:]) == {"a": 1}
    with pytest.raises(HTTPError) as caught:
        server.get("/channels/events?token=none")
    assert caught.value.code == 403
