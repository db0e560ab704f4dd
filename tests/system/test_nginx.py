"""Behind a real nginx, configured as the documentation says."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from websockets.sync.client import connect

from tests.server import ROOT, Server
from tests.web.parser import Parser

DEADLINE = 30
MAIN = """
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    gzip on; gzip_min_length 1;
{server}
}}
"""


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    with behind_nginx(tmp_path_factory.mktemp("nginx"), "tests.flask_app:app", workers=2) as made:
        yield made


@contextlib.contextmanager
def behind_nginx(directory: Path, app: str, workers: int) -> Iterator[tuple[Server, str]]:
    """The server, and nginx's address before it; both as the documentation says."""
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if nginx is None:
        pytest.skip("there is no nginx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = Path(ROOT, "docs/behind-nginx.md").read_text()
    documented = re.search(r"```nginx\n(.*?)```", page, re.DOTALL)
    options = re.search(r"^channels app:app --workers 4 --bind unix:\S+ (.*)$", page, re.MULTILINE)
    assert documented is not None and options is not None
    text = documented[1].replace("/run/channels/app.sock", f"{directory}/app.sock")
    text = text.replace("listen 8080", f"listen 127.0.0.1:{port}")
    assert str(port) in text and str(directory) in text
    Path(directory, "nginx.conf").write_text(MAIN.format(directory=directory, server=text))
    with Server(app, *options[1].split(), workers=workers, bind=f"unix:{directory}/app.sock") as server:
        process = subprocess.Popen([nginx, "-p", str(directory), "-c", "nginx.conf", "-e", "stderr"])
        try:
            server.wait(lambda: reachable(port))
            yield server, f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(DEADLINE)


def reachable(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def post(address: str, path: str, data: bytes) -> bytes:
    with urlopen(Request(f"http://{address}{path}", data), timeout=DEADLINE) as answer:
        return bytes(answer.read())


def test_each_event_passes_at_once_and_unbuffered(proxied: tuple[Server, str]) -> None:
    _, address = proxied
    request = Request(f"http://{address}/rooms/n/events", headers={"Accept-Encoding": "gzip"})
    with urlopen(request, timeout=DEADLINE) as stream:
        assert stream.headers["Content-Encoding"] is None
        parser = Parser()
        for number in range(20):  # each is read before the next is sent
            post(address, "/rooms/n", b"%d" % number)
            events = []
            while not events:
                events = list(parser.feed(stream.readline()))
            assert events[0].data == str(number)


def test_a_websocket_passes_with_its_origin(proxied: tuple[Server, str]) -> None:
    _, address = proxied
    with connect(f"ws://{address}/rooms/n/chat", origin=f"http://{address}") as ws:  # type: ignore[arg-type]
        assert ws.recv(timeout=DEADLINE) == "welcome"
        ws.send("through the proxy")
        assert ws.recv(timeout=DEADLINE) == "through the proxy"
        ws.send("x" * 200_000)
        assert ws.recv(timeout=DEADLINE) == "x" * 200_000


def test_a_client_that_has_gone_behind_the_proxy_leaves_nothing(proxied: tuple[Server, str]) -> None:
    server, address = proxied
    stream = urlopen(f"http://{address}/rooms/leaving/events", timeout=DEADLINE)
    assert post(address, "/rooms/leaving", b"x") == b"1"
    stream.close()
    server.wait(lambda: post(address, "/rooms/leaving", b"x") == b"0" or time.sleep(0.05))
