"""What a real nginx lets through never becomes a request that nobody asked nginx for."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.server import Server
from tests.system.test_nginx import DEADLINE, behind_nginx

HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED_HIDDEN = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)

# One after the other in each: what servers have understood differently.
FRAMINGS = {
    "length and coding": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "coding and length": b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n0\r\n\r\n" % (5 + len(HIDDEN))
    + HIDDEN,
    "two lengths": b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a list of lengths": b"Content-Length: 0, %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a signed length": b"Content-Length: +%d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a length in hex": b"Content-Length: 0x%x\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a length with a space": b"Content-Length: %d \r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a space before the colon": b"Content-Length : %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a folded length": b"Content-Length:\r\n %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a length behind an underscore": b"Content_Length: 0\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "another coding": b"Transfer-Encoding: xchunked\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a coding with a tab": b"Transfer-Encoding:\tchunked\r\n\r\n" + CHUNKED_HIDDEN,
    "a coding in capitals": b"Transfer-Encoding: CHUNKED\r\n\r\n" + CHUNKED_HIDDEN,
    "a coding twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + CHUNKED_HIDDEN,
    "a coding with a vertical tab": b"Transfer-Encoding: \x0bchunked\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN)
    + HIDDEN,
    "a coding behind a bare CR": b"X: y\rTransfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN)
    + HIDDEN,
    "a coding behind a bare LF": b"X: y\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED_HIDDEN,
    "an extension of a chunk": b'Transfer-Encoding: chunked\r\n\r\n%x;a="\n"\r\n%b\r\n0\r\n\r\n'
    % (len(HIDDEN), HIDDEN),
    "a chunk of a huge size": b"Transfer-Encoding: chunked\r\n\r\n1%016x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN),
    "a trailer": b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN),
    "a body on an upgrade": b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN)
    + HIDDEN,
    "an expectation": b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a header named away": b"Connection: close, Content-Length\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
}
TARGETS = [
    b"/a%0d%0aGET%20/smuggled%20HTTP/1.1",
    b"/a%0d%0a%0d%0aGET%20/smuggled%20HTTP/1.1%0d%0a%0d%0a",
    b"/a?%0d%0aX-Secret:%20forged",
    b"//evil/smuggled/..",
    b"http://x/a",
    b"/a#%0d%0a",
    b"/%00",
    b"/a\xff",
]


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    with behind_nginx(
        tmp_path_factory.mktemp("smuggling"), "tests.system.recording_app:application", workers=1
    ) as made:
        yield made


def seen(address: str) -> list[dict[str, Any]]:
    """What the application got since the last call."""
    with urlopen(f"http://{address}/seen", timeout=DEADLINE) as answer:
        found: list[dict[str, Any]] = json.loads(answer.read())
    return found


def say(address: str, raw: bytes) -> bytes:
    """Everything that comes back until nginx ends the connection."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as client:
        client.sendall(raw)
        answer = b""
        try:
            while part := client.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
        return answer


@pytest.mark.parametrize("case", FRAMINGS)
def test_a_body_is_never_taken_for_a_request(proxied: tuple[Server, str], case: str) -> None:
    _, address = proxied
    seen(address)
    answers = say(address, b"POST /outer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + FRAMINGS[case])
    asked = answers.count(b"HTTP/1.1 200 OK")
    got = seen(address)
    targets = [request["target"] for request in got]
    assert targets == ["/outer"] * asked  # nginx refuses some of them itself
    for number in range(3):  # over the connections that nginx keeps
        with urlopen(f"http://{address}/next/{number}", timeout=DEADLINE) as answer:
            assert answer.read() == b"/next/%d" % number
    assert len(seen(address)) == 3


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_stays_a_target(proxied: tuple[Server, str], target: bytes) -> None:
    _, address = proxied
    seen(address)
    answers = say(address, b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)
    got = seen(address)
    assert len(got) == answers.count(b"HTTP/1.1 200 OK") <= 1
    assert [request["secret"] for request in got] in ([], [None])
    assert "/smuggled" not in [request["target"] for request in got]


def test_what_a_client_says_of_itself_is_not_believed(proxied: tuple[Server, str]) -> None:
    _, address = proxied
    seen(address)
    for name in ("X-Forwarded-For", "X_Forwarded_For", "x-forwarded-for"):
        with urlopen(Request(f"http://{address}/", headers={name: "6.6.6.6", "X-Forwarded-Proto": "https"})) as answer:
            answer.read()
    got = [(request["address"], request["scheme"]) for request in seen(address)]
    assert got == [("127.0.0.1", "http")] * 3


def test_a_stranger_on_the_socket_s_own_machine_is_a_forwarder(proxied: tuple[Server, str]) -> None:
    """What docs/security.md warns of: with `unix` believed, whoever may open the socket says who the client is."""
    server, address = proxied
    path = Path(server.url.removeprefix("unix:"))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /direct HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n")
        while client.recv(65536):
            pass
    assert seen(address)[-1]["address"] == "6.6.6.6"
