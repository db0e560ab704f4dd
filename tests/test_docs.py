"""The pages' applications are run as they stand there."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from urllib.request import urlopen

import pytest
from websockets.sync.client import connect

from tests.server import ROOT, Server
from tests.tables import tables, unfilled
from tests.test_hazards import PROVEN, missing
from tests.web.parser import Parser

DEADLINE = 30
FRAME = "from flask import Flask\n\napp = Flask(__name__)\n"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", Path(ROOT, "docs", page).read_text(), re.DOTALL)


def serve(tmp_path: Path, source: str) -> Server:
    Path(tmp_path, "documented.py").write_text(source)
    return Server("documented:app", workers=2, directory=tmp_path)


def test_the_quickstart_s_chat_talks_by_all_its_ways(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serve(tmp_path, blocks("quickstart.md")[0]))
        stream = stack.enter_context(urlopen(f"{server.url}/rooms/lobby/events", timeout=DEADLINE))
        ws = stack.enter_context(connect(server.url.replace("http", "ws") + "/rooms/lobby/chat"))
        server.get("/rooms/lobby", b"posted")
        ws.send("by socket")
        seen: list[str] = []
        parser = Parser()
        while "by socket" not in seen:
            seen += [event.data for event in parser.feed(stream.readline())]
        assert seen[0] == "posted"
        while ws.recv(timeout=DEADLINE) != "by socket":
            pass


def test_the_quickstart_s_test_of_an_application_works() -> None:
    source = "\n".join([blocks("quickstart.md")[0], blocks("quickstart.md")[2]])
    source += (
        "    seen = b''\n    while b'data: hello' not in seen:\n        seen += next(chunks)\n    stream.close()\n"
    )
    names: dict[str, object] = {"__name__": "documented"}
    exec(compile(source, "quickstart.md", "exec"), names)
    assert b"data: hello" in names["seen"]  # type: ignore[operator]


def test_an_application_that_used_flask_sse_works_with_one_import_changed(tmp_path: Path) -> None:
    with serve(tmp_path, FRAME + blocks("from-flask-sse.md")[0]) as server, contextlib.ExitStack() as stack:
        stream = stack.enter_context(urlopen(f"{server.url}/stream", timeout=DEADLINE))
        assert server.get("/hello") == b"Message sent!"
        parser, events = Parser(), []
        while not events:
            events += parser.feed(stream.readline())
        assert (events[0].type, events[0].data) == ("greeting", '{"message": "Hello!"}')


def test_an_echo_that_used_flask_sock_works(tmp_path: Path) -> None:
    with serve(tmp_path, FRAME + blocks("from-flask-sock.md")[0]) as server, contextlib.ExitStack() as stack:
        ws = stack.enter_context(connect(server.url.replace("http", "ws") + "/echo"))
        ws.send("hello")
        assert ws.recv(timeout=DEADLINE) == "hello"


def test_the_chat_for_uwsgi_talks_between_workers(tmp_path: Path) -> None:
    Path(tmp_path, "documented.py").write_text(blocks("from-uwsgi.md")[0])
    with Server("documented:application", workers=3, directory=tmp_path) as server, contextlib.ExitStack() as stack:
        url = server.url.replace("http", "ws")
        clients = [stack.enter_context(connect(url)) for _ in range(6)]
        for number, client in enumerate(clients):
            client.send(f"from {number}")  # answered when it has joined, and then so have all before it
            for other in clients[: number + 1]:
                while other.recv(timeout=DEADLINE) != f"from {number}":
                    pass
        clients[0].send("last")
        for client in clients:
            while client.recv(timeout=DEADLINE) != "last":
                pass


@pytest.mark.parametrize(
    "page", ["quickstart.md", "from-flask-sse.md", "from-flask-sock.md", "from-uwsgi.md", "behind-nginx.md"]
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = Path(ROOT, "docs", page).read_text()
    assert not [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if not Path(ROOT, "docs", link).exists()]


def test_every_row_of_what_an_attacker_tries_names_a_test_that_exists() -> None:
    attacks = [table for table in tables("security.md") if table[0][-1] == "test"]
    assert [table[0][0] for table in attacks] == ["it tries", "it tries", "tries"]
    for table in attacks:
        assert unfilled(table) == []
        for tried, _, test in table[1:]:
            assert PROVEN.search(test), tried
    page = Path(ROOT, "docs", "security.md").read_text()
    assert list(missing(page)) == []
