"""WebSockets under servers that are not ours: pywsgi, gunicorn, werkzeug."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

ROOT = Path(__file__).parent.parent.parent
PYWSGI = """
from gevent import monkey; monkey.patch_all()
from gevent.pywsgi import WSGIServer
from tests.web.apps import application
server = WSGIServer(("127.0.0.1", 0), application)
server.start()
print(f"at 127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""
WERKZEUG = """
from gevent import monkey; monkey.patch_all()
from werkzeug.serving import make_server
from tests.web.apps import application
server = make_server("127.0.0.1", 0, application, threaded=True)
print(f"at 127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""
GUNICORN = ["-m", "gunicorn", "-k", "gevent", "-b", "127.0.0.1:0", "tests.web.apps:application"]


@contextmanager
def running(*arguments: str) -> Iterator[str]:
    """Its address, as it prints it, and in the end all it has printed must be free of tracebacks."""
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    said = ""
    try:
        for line in process.stdout:
            said += line
            found = re.search(r"(?:at:?) (?:http://)?(127\.0\.0\.1:\d+)", line)
            if found:
                yield found[1]
                break
        else:
            pytest.fail(said)
        time.sleep(0.1)  # what it logs in the end
    finally:
        process.terminate()
        said += process.communicate(timeout=30)[0]
    assert "Traceback" not in said, said


SERVERS = {"pywsgi": ["-c", PYWSGI], "gunicorn": GUNICORN, "werkzeug": ["-c", WERKZEUG]}


@pytest.mark.parametrize("name", SERVERS)
def test_an_echo_works_under_a_foreign_server(name: str) -> None:
    if name == "gunicorn":
        pytest.importorskip("gunicorn")
    with running(*SERVERS[name]) as address:
        for _ in range(2):
            with connect(f"ws://{address}/echo", open_timeout=30) as ws:
                for text in ("hello", "x" * 200_000):
                    ws.send(text)
                    assert ws.recv(timeout=30) == text
        with connect(f"ws://{address}/close") as ws, pytest.raises(ConnectionClosed) as caught:
            ws.recv(timeout=30)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 4001
