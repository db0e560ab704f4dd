"""What applications rely on, asked of gevent's own server and of ours: one contract, both keep it."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Callable
from wsgiref.validate import validator

import gevent
import gevent.local
import pytest
from gevent import pywsgi
from greenlet import getcurrent

from channels.worker.http import Server
from tests.worker.http.running import DEADLINE, Answer, everything, read_answer

App = Callable[..., Any]
TEXT = [("Content-Type", "text/plain")]


def make_ours(listener: socket.socket, application: App) -> Any:
    return Server(listener, application)


def make_pywsgi(listener: socket.socket, application: App) -> Any:
    return pywsgi.WSGIServer(listener, application, log=None, error_log=None)


@pytest.fixture(params=[make_ours, make_pywsgi], ids=["channels", "pywsgi"])
def make(request: Any) -> Any:
    return request.param


class Running:
    """A server of either kind in a thread of its own."""

    def __init__(self, make: Callable[[socket.socket, App], Any], application: App) -> None:
        self._make, self._application = make, application
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._listener.setblocking(False)
        self._up, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        server = self._make(self._listener, self._application)
        server.start()
        assert server.server_port == self.port
        self._up.set()
        while not self._stop.is_set():
            gevent.sleep(0.01)
        server.stop(0)
        gevent.get_hub().destroy(destroy_loop=True)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)

    def ask(self, raw: bytes, method: str = "GET") -> Answer:
        with self.connect() as client:
            client.sendall(raw)
            return read_answer(client, method)

    def get(self, path: str = "/", *fields: str, method: str = "GET", body: bytes = b"") -> Answer:
        head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", "Connection: close", *fields, "", ""])
        return self.ask(head.encode("latin-1") + body, method)


@contextlib.contextmanager
def running(make: Any, application: App) -> Iterator[Running]:
    found = Running(make, application)
    found._thread.start()
    assert found._up.wait(DEADLINE)
    try:
        yield found
    finally:
        found._stop.set()
        found._thread.join(DEADLINE)
        assert not found._thread.is_alive()


# ---- answering ----


def test_a_generator_may_call_start_response_when_it_is_iterated(make: Any) -> None:
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("201 Created", TEXT)
        yield b"a"
        yield b"b"

    with running(make, application) as server:
        answer = server.get()
        assert (answer.status, answer.body) == (201, b"ab")


def test_empty_parts_before_the_first_leave_the_answer_open(make: Any) -> None:
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b""
        try:
            raise ValueError
        except ValueError:
            start_response("500 Oh", TEXT, sys.exc_info())
        yield b"sorry"

    with running(make, application) as server:
        answer = server.get()
        assert (answer.status, answer.body) == (500, b"sorry")


@pytest.mark.parametrize(
    "result",
    [[b"ab"], (b"a", b"b"), iter([b"a", b"", b"b"]), [b"", b"ab", b""], bytearray(b"")],
    ids=["list", "tuple", "iterator", "empty parts", "nothing"],
)
def test_any_iterable_of_bytes_is_a_body(make: Any, result: Iterable[bytes]) -> None:
    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return result

    with running(make, application) as server:
        assert server.get().body in (b"ab", b"")


def test_what_is_written_comes_before_what_is_returned(make: Any) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [*TEXT, ("Content-Length", "6")])
        write(b"ab")
        write(b"cd")
        return [b"ef"]

    with running(make, application) as server:
        assert server.get().body == b"abcdef"


@pytest.mark.parametrize("fails", [False, True])
def test_the_result_is_closed_once_however_it_ends(make: Any, fails: bool) -> None:
    closed: list[int] = []

    class Result:
        def __iter__(self) -> Iterator[bytes]:
            yield b"a"
            if fails:
                raise ValueError("on purpose")

        def close(self) -> None:
            closed.append(1)

    def application(environ: Any, start_response: Any) -> Result:
        start_response("200 OK", TEXT)
        return Result()

    with running(make, application) as server:
        server.get()
    assert closed == [1]


def test_cookies_and_the_case_of_names_stay_as_they_are(make: Any) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [*TEXT, ("Set-Cookie", "a=1"), ("X-mIxEd", "y"), ("Set-Cookie", "b=2")])
        return [b""]

    with running(make, application) as server:
        raw = server.get().raw
        assert raw.index(b"Set-Cookie: a=1\r\n") < raw.index(b"X-mIxEd: y\r\n") < raw.index(b"Set-Cookie: b=2\r\n")


def test_an_application_that_raises_is_a_500_and_the_server_goes_on(make: Any) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/bad":
            raise ValueError("on purpose")
        start_response("200 OK", TEXT)
        return [b"good"]

    with running(make, application) as server:
        answer = server.get("/bad")
        assert answer.status == 500 and b"on purpose" not in answer.body
        assert server.get().body == b"good"


def test_a_client_of_http_1_0_gets_the_body_and_then_the_end(make: Any) -> None:
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"a"
        yield b"b"

    with running(make, application) as server, server.connect() as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        head, _, body = everything(client).partition(b"\r\n\r\n")
        assert body == b"ab" and b"chunked" not in head


def test_requests_on_one_connection_are_answered_in_order(make: Any) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read() or environ["PATH_INFO"].encode()
        start_response("200 OK", [*TEXT, ("Content-Length", str(len(body)))])
        return [body]

    with running(make, application) as server, server.connect() as client:
        client.sendall(
            b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
            b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        assert [read_answer(client).body for _ in range(3)] == [b"/1", b"abc", b"/3"]


# ---- what it is told ----


def told(make: Any, raw: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def application(environ: Any, start_response: Any) -> list[bytes]:
        assert type(environ) is dict
        found.update(environ)
        start_response("200 OK", TEXT)
        return [b""]

    with running(make, application) as server:
        assert server.ask(raw).status == 200
        assert found["SERVER_PORT"] == str(server.port)
    return found


def test_the_path_is_unquoted_as_latin_1_and_the_query_is_left_alone(make: Any) -> None:
    found = told(make, b"GET /%C3%A4%2Fb%20c?d=%C3%A4&e HTTP/1.1\r\nHost: a\r\n\r\n")
    assert found["PATH_INFO"] == "/Ã¤/b c" and found["QUERY_STRING"] == "d=%C3%A4&e"
    assert found["SCRIPT_NAME"] == "" and found["REQUEST_METHOD"] == "GET"


def test_fields_that_come_twice_are_joined(make: Any) -> None:
    found = told(make, b"GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nCookie: a=1\r\nX-A: 2\r\nCookie: b=2\r\n\r\n")
    assert found["HTTP_X_A"] == "1,2" and found["HTTP_COOKIE"] == "a=1; b=2"


def test_the_server_s_own_keys_are_there(make: Any) -> None:
    found = told(make, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\n\r\n")
    assert found["wsgi.version"] == (1, 0) and found["wsgi.url_scheme"] == "http"
    assert found["CONTENT_TYPE"] == "a/b" and "HTTP_CONTENT_TYPE" not in found
    assert found["REMOTE_ADDR"] == "127.0.0.1" and int(found["REMOTE_PORT"]) and found["HTTP_HOST"] == "a"
    assert found["SERVER_PROTOCOL"] == "HTTP/1.1" and found["GATEWAY_INTERFACE"] == "CGI/1.1"
    assert found["wsgi.run_once"] is False and hasattr(found["wsgi.errors"], "write")


# ---- the request's body ----


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("read", "seen"),
    [
        (lambda body: body.read(), [b"ab\ncd\n\nef"]),
        (lambda body: body.read(4), [b"ab\nc"]),
        (lambda body: [body.read(5), body.read(100), body.read(), body.read(1)], [b"ab\ncd", b"\n\nef", b"", b""]),
        (lambda body: [body.readline(), body.readline(2), body.readline()], [b"ab\n", b"cd", b"\n"]),
        (lambda body: body.readlines(), [b"ab\n", b"cd\n", b"\n", b"ef"]),
        (lambda body: [*body], [b"ab\n", b"cd\n", b"\n", b"ef"]),
        (lambda body: [body.read(0), body.read()], [b"", b"ab\ncd\n\nef"]),
    ],
    ids=["read", "some", "pieces", "readline", "readlines", "iteration", "none"],
)
def test_the_body_reads_like_a_file(make: Any, read: Any, seen: list[bytes], chunked: bool) -> None:
    found: list[bytes] = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        what = read(environ["wsgi.input"])
        found.extend([what] if isinstance(what, bytes) else what)
        start_response("200 OK", TEXT)
        return [b""]

    body = b"ab\ncd\n\nef"
    fields = ("Content-Length: 9",)
    if chunked:
        fields, body = ("Transfer-Encoding: chunked",), b"4\r\nab\nc\r\n5\r\nd\n\nef\r\n0\r\n\r\n"
    with running(make, application) as server:
        assert server.get("/", *fields, method="POST", body=body).status == 200
    assert found == seen


def test_who_expects_100_gets_it_when_the_body_is_read(make: Any) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read()
        start_response("200 OK", TEXT)
        return [body]

    with running(make, application) as server, server.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        assert head.startswith(b"HTTP/1.1 100 ")
        client.sendall(b"abc")
        assert read_answer(client).body == b"abc"


# ---- greenlets ----


def test_a_request_runs_in_a_greenlet_that_can_wait_spawn_and_time_out(make: Any) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        assert isinstance(getcurrent(), gevent.Greenlet)
        child = gevent.spawn(lambda: gevent.sleep(0.001) or b"child")
        with gevent.Timeout(0.01, False):
            gevent.sleep(1000)
        start_response("200 OK", TEXT)
        return [child.get(timeout=DEADLINE)]

    with running(make, application) as server:
        assert server.get().body == b"child"


def test_requests_side_by_side_do_not_share_greenlet_locals(make: Any) -> None:
    local = gevent.local.local()
    both = gevent.event.Event()
    inside: list[str] = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        local.path = environ["PATH_INFO"]
        inside.append(local.path)
        if len(inside) == 2:
            both.set()
        both.wait(DEADLINE)
        start_response("200 OK", TEXT)
        return [local.path.encode()]

    with running(make, application) as server, server.connect() as one, server.connect() as other:
        one.sendall(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
        other.sendall(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (read_answer(one).body, read_answer(other).body) == (b"/1", b"/2")


# ---- the validator of the standard library, on all kinds of applications ----


def listed(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [b"ab", b"cd"]


def generated(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return (part for part in [b"ab", b"", b"cd"])


def filed(environ: Any, start_response: Any) -> Iterable[bytes]:
    found = open(__file__, "rb")  # noqa: SIM115  # closed by the server
    start_response("200 OK", TEXT)
    wrapped: Iterable[bytes] = environ.get("wsgi.file_wrapper", lambda file: iter([file.read()]))(found)
    return wrapped


def reading(environ: Any, start_response: Any) -> Iterable[bytes]:
    body = environ["wsgi.input"]
    found = [body.read(2), body.readline(50), *body, *body.readlines(10)]
    environ["wsgi.errors"].write("")
    environ["wsgi.errors"].flush()
    start_response("200 OK", TEXT)
    return [b"".join(found)]


def replaced(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    try:
        raise ValueError
    except ValueError as error:
        start_response("500 Oh", TEXT, (ValueError, error, error.__traceback__))
    return [b"sorry"]


def empty(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("204 No Content", [("X-Why", "nothing")])
    return [b""]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("application", [listed, generated, filed, reading, replaced, empty])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_the_validator_finds_no_fault(application: App, version: str, method: str, capfd: Any) -> None:
    body = b"a\nb\nc\n" if method == "POST" else b""
    raw = f"{method} /%41/b?c HTTP/{version}\r\nHost: a\r\nContent-Type: text/plain\r\n"
    raw += f"Content-Length: {len(body)}\r\nConnection: keep-alive\r\n\r\n"
    wanted = 500 if application is replaced else 204 if application is empty else 200
    checked = validator(application)
    with running(make_ours, checked) as server, server.connect() as client:
        for _ in range(2):
            client.sendall(raw.encode() + body)
            try:
                answer = read_answer(client, method)
            except EOFError:  # an answer without a length has ended the connection of HTTP/1.0
                assert version == "1.0" and application is not empty
                break
            assert answer.status == wanted, answer.raw
            if application is reading and method == "POST":
                assert answer.body == body
    said = capfd.readouterr()
    assert "AssertionError" not in said.err and "without being closed" not in said.err
