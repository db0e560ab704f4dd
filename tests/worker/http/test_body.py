"""Bodies, over a socket in any pieces."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest

from channels.errors import ClientGone
from channels.worker.http.body import Body
from channels.worker.http.head import CHUNKED, BadRequest
from tests.worker.http.running import Running, echo, everything, hello, read_answer, wait_until

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Pieces:
    """A source that has its bytes come in pieces of one size."""

    def __init__(self, data: bytes, size: int) -> None:
        self.buffer = b""
        self._data = data
        self._size = size
        self.sent = b""

    def more(self) -> bool:
        piece, self._data = self._data[: self._size], self._data[self._size :]
        self.buffer += piece
        return bool(piece)

    def say_continue(self) -> bool:
        self.sent += b"continue"
        return True


def chunked(data: bytes, sizes: random.Random) -> bytes:
    out = b""
    while data:
        size = sizes.randint(1, 50)
        part, data = data[:size], data[size:]
        out += b"%x%s\r\n%b\r\n" % (len(part), sizes.choice([b"", b";a=b", b" ; c"]), part)
    return out + b"0\r\n" + sizes.choice([b"", b"X-Sum: 1\r\n"]) + b"\r\n"


@pytest.mark.parametrize("seed", range(30))
def test_it_reads_like_a_file_however_it_comes(seed: int) -> None:
    sizes = random.Random(seed)
    data = bytes(sizes.choice(b"ab\n") for _ in range(sizes.randint(0, 500)))
    whole = io.BytesIO(data)
    if seed % 2:
        body = Body(Pieces(chunked(data, sizes) + b"GET", sizes.randint(1, 40)), CHUNKED, 0, False)
    else:
        body = Body(Pieces(data + b"GET", sizes.randint(1, 40)), len(data), 0, False)
    for _ in range(100):
        what, size = sizes.choice(["read", "readline", "readlines"]), sizes.randint(0, 30)
        if what == "readlines":
            assert body.readlines(size) == (whole.readlines(size) if size else [*whole])
        else:
            assert getattr(body, what)(size) == getattr(whole, what)(size)
    assert list(body) == list(whole)
    assert body.read() == body.read(5) == b""
    assert body.ended or not data


class Interrupted(BaseException):
    """As a gevent.Timeout is thrown into whoever waits."""


class Interrupting(Pieces):
    """Each wait is cut short once before it gets anything."""

    cut = False

    def more(self) -> bool:
        self.cut = not self.cut
        if self.cut:
            raise Interrupted
        return super().more()


@pytest.mark.parametrize("seed", range(20))
def test_who_is_interrupted_while_it_reads_loses_nothing(seed: int) -> None:
    sizes = random.Random(seed)
    data = bytes(sizes.choice(b"abc\n") for _ in range(sizes.randint(1, 300)))
    whole = io.BytesIO(data)
    if seed % 2:
        body = Body(Interrupting(chunked(data, sizes) + b"GET", sizes.randint(1, 9)), CHUNKED, 0, False)
    else:
        body = Body(Interrupting(data + b"GET", sizes.randint(1, 9)), len(data), 0, False)
    while not body.ended or whole.tell() < len(data):
        what, size = sizes.choice(["read", "readline", "readlines"]), sizes.choice([-1, 1, 20])
        while True:
            try:
                found = getattr(body, what)(size)
                break
            except Interrupted:
                pass
        assert found == getattr(whole, what)(size)


def test_what_came_of_a_body_that_broke_off_is_not_taken_for_all_of_it() -> None:
    body = Body(Pieces(b"abc", 2), 5, 0, False)
    with pytest.raises(ClientGone):
        body.read()
    assert body.read() == b""


def test_an_interruption_does_not_lift_the_limit_of_trailers() -> None:
    body = Body(Interrupting(b"0\r\n" + b"X: aaaaaaaaaaaaa\r\n" * 1000 + b"\r\n", 100), CHUNKED, 0, False)

    def read() -> bytes:
        while True:
            try:
                return body.read()
            except Interrupted:
                pass

    with pytest.raises(BadRequest, match=r"chunk line too long|trailer"):
        read()


@pytest.mark.parametrize(
    "chunks",
    [
        b"x\r\n",
        b"\r\n",
        b"-1\r\na\r\n0\r\n\r\n",
        b"+1\r\na\r\n0\r\n\r\n",
        b"0x1\r\na\r\n0\r\n\r\n",
        b"1_0\r\na\r\n0\r\n\r\n",
        b" 1\r\na\r\n0\r\n\r\n",
        b"1\na\n0\n\n",
        b"1\r\nab\r\n0\r\n\r\n",
        b"1\r\na0\r\n\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"1;a\nb\r\na\r\n0\r\n\r\n",
        b"1;\x00\r\na\r\n0\r\n\r\n",
        b"1" * 20 + b"\r\na",
        b"1;" + b"a" * 5000 + b"\r\na\r\n0\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\r\nX\r\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\nX: y\r\ntransfer-encoding: chunked\r\n\r\n",
        b"0\r\n" + b"X: aaaaaaaaaaaaa\r\n" * 1000 + b"\r\n",
    ],
)
def test_broken_chunks_are_a_400_and_nothing_behind_them_is_served(chunks: bytes) -> None:
    with Running(echo) as server:
        answer = server.ask(CHUNKS + chunks + GET)
        assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1") == 1


def test_trailers_are_read_and_forgotten() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [repr(sorted(key for key in environ if "TRAILING" in key)).encode()]

    with Running(application) as server, server.connect() as client:
        client.sendall(CHUNKS + b"1\r\na\r\n0\r\nTrailing: x\r\nContent-Lengths: 5\r\n\r\n" + GET)
        assert read_answer(client).body == b"[]"
        assert read_answer(client).status == 200


def test_a_chunked_body_beyond_the_limit_is_413() -> None:
    with Running(echo, limit_request_body=10) as server:
        assert server.ask(CHUNKS + b"6\r\nabcdef\r\n6\r\nabcdef\r\n0\r\n\r\n").startswith(b"HTTP/1.1 413 ")


def test_100_continue_is_said_when_the_application_reads() -> None:
    with Running(echo) as server, server.connect() as client:
        client.sendall(POST + b"Content-Length: 3\r\nExpect: 100-Continue\r\n\r\n")
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        assert read_answer(client).body == b"abc"


def test_100_continue_is_not_said_when_it_does_not_and_the_connection_ends() -> None:
    with Running(hello) as server, server.connect() as client:
        client.sendall(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert read_answer(client).status == 200
        assert client.recv(1) == b""


def test_100_continue_is_not_said_when_the_body_is_there_already() -> None:
    with Running(echo) as server, server.connect() as client:
        client.sendall(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\nabc")
        assert read_answer(client).body == b"abc"


def _writes(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])(b"first")
    return [environ["wsgi.input"].read()]


def _yields(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [])
    yield b"first"
    yield environ["wsgi.input"].read()


@pytest.mark.parametrize("application", [_writes, _yields])
def test_100_continue_is_not_said_in_the_middle_of_an_answer(application: Any) -> None:
    with Running(application) as server, server.connect() as client:
        client.sendall(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        seen = b""
        while not seen.endswith(b"first\r\n"):
            seen += client.recv(1000)
        client.sendall(b"abc")
        while not seen.endswith(b"0\r\n\r\n"):
            seen += client.recv(1000)
        assert seen.partition(b"\r\n\r\n")[2] == b"5\r\nfirst\r\n3\r\nabc\r\n0\r\n\r\n"


def test_nobody_waits_after_the_answer_for_a_body_that_was_not_asked_for_with_100_continue() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"first"
        yield environ["wsgi.input"].read(1)

    with Running(application) as server, server.connect() as client:
        client.sendall(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        seen = b""
        while not seen.endswith(b"first\r\n"):
            seen += client.recv(1000)
        client.sendall(b"a")
        assert everything(client) == b"1\r\na\r\n0\r\n\r\n"


def test_a_small_body_that_nobody_read_does_not_cost_the_connection() -> None:
    with Running(hello) as server, server.connect() as client:
        client.sendall(POST + b"Content-Length: 30000\r\n\r\n")
        assert read_answer(client).body == b"hello"
        client.sendall(b"x" * 30000 + GET)
        assert read_answer(client).body == b"hello"


def test_a_large_body_that_nobody_read_ends_the_connection_after_the_answer() -> None:
    with Running(hello) as server, server.connect() as client:
        client.sendall(POST + b"Content-Length: 10000000\r\n\r\n" + b"x" * 200_000)
        answer = read_answer(client)
        assert answer.body == b"hello"
        client.settimeout(20)
        assert client.recv(1) == b""


def test_the_time_of_a_request_ends_the_wait_for_a_body_that_nobody_read() -> None:
    with Running(hello, request_timeout=0.3) as server:
        with server.connect() as client:
            client.sendall(POST + b"Content-Length: 60000\r\n\r\n")
            assert read_answer(client).body == b"hello"
            assert client.recv(1) == b""
        wait_until(lambda: server.server.stats.connections == server.server.stats.running == 0)
        assert server.server.stats.timeouts == 0, "it was answered in time"
        assert server.get().body == b"hello"


@pytest.mark.parametrize("body", [b"zz\r\n", b"5\r\nabcde\r\n8\r\n"])
def test_nothing_behind_a_broken_body_is_served_though_the_application_goes_on(body: bytes) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except Exception:  # as a web framework does that makes an error page
            pass
        return hello(environ, start_response)

    with Running(application, limit_request_body=10) as server:
        answer = server.ask(CHUNKS + body + GET)
        assert answer.count(b"HTTP/1.1") == 1 and answer.endswith(b"hello")


def test_a_body_that_ends_early_raises_in_the_application() -> None:
    errors = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except ClientGone as error:
            errors.append(error)
            raise
        return hello(environ, start_response)

    with Running(application) as server:
        server.ask(POST + b"Content-Length: 10\r\n\r\nabc")
        wait_until(lambda: len(errors) == 1)
        server.ask(CHUNKS + b"5\r\nabc")
        wait_until(lambda: len(errors) == 2)


def test_a_body_that_does_not_come_is_408() -> None:
    with Running(echo, body_timeout=0.3) as server, server.connect() as client:
        client.sendall(POST + b"Content-Length: 10\r\n\r\nabc")
        assert read_answer(client).status == 408


def test_each_piece_of_a_body_gets_the_time_anew() -> None:
    with Running(echo, body_timeout=1.0) as server, server.connect() as client:
        client.sendall(POST + b"Content-Length: 6\r\n\r\n")
        for _ in range(6):
            wait_until(lambda: server.server.bodies.entries)
            client.sendall(b"a")
            wait_until(lambda: True)
        assert read_answer(client).body == b"aaaaaa"


def test_discard_says_whether_the_connection_can_go_on() -> None:
    body = Body(Pieces(b"abc", 2), 3, 0, False)
    assert body.read(1) == b"a" and body.discard()
    assert not Body(Pieces(b"", 1), 10**6, 0, False).discard(), "too much to wait for"
    assert not Body(Pieces(b"ab", 1), 3, 0, False).discard(), "the client went"
    assert not Body(Pieces(b"zz\r\n", 9), CHUNKED, 0, False).discard(), "broken"
    expecting = Body(Pieces(b"abc", 9), 3, 0, True)
    assert not expecting.discard()
    assert expecting._source.sent == b""  # type: ignore[attr-defined]


def test_what_is_broken_stays_ended() -> None:
    body = Body(Pieces(b"zz\r\nabc", 3), CHUNKED, 0, False)
    with pytest.raises(BadRequest):
        body.read()
    assert body.ended and body.read() == b""
