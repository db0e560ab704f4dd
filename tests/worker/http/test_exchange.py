"""What an application can do with one request, as PEP 3333 promises it and pywsgi's users know it."""

from __future__ import annotations

import logging
from typing import Any
from wsgiref.validate import validator

import gevent
import pytest

from channels.errors import ClientGone, Draining
from tests.worker.http.running import Answer, Running, echo, hello, read_answer, wait_until


def serve(application: Any, *fields: str, method: str = "GET", body: bytes = b"", **options: Any) -> Answer:
    with Running(application, **options) as server:
        return server.get("/", *fields, method=method, body=body)


def test_a_list_of_one_part_gets_a_length() -> None:
    answer = serve(hello)
    assert (answer.status, answer.body, answer.fields["content-length"]) == (200, b"hello", "5")
    assert "transfer-encoding" not in answer.fields
    assert answer.fields["server"] == "channels"
    assert answer.fields["date"].endswith(" GMT")


def test_a_list_of_several_parts_is_one_answer_with_a_length() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"a", b"", b"bc"]

    answer = serve(application)
    assert (answer.body, answer.fields["content-length"]) == (b"abc", "3")


def test_an_empty_answer_has_the_length_0() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return []

    assert serve(application).fields["content-length"] == "0"


def test_a_generator_is_chunked_and_each_part_leaves_at_once() -> None:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"first"
        yield b""
        go.wait()
        yield b"second"

    go = gevent.event.Event()
    with Running(application) as server, server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        seen = b""
        while b"first" not in seen:
            seen += client.recv(65536)
        assert b"Transfer-Encoding: chunked" in seen and seen.endswith(b"\r\n\r\n5\r\nfirst\r\n")
        server.spawn(go.set)
        rest = b""
        while not rest.endswith(b"0\r\n\r\n"):
            rest += client.recv(65536)
        assert rest == b"6\r\nsecond\r\n0\r\n\r\n"


def test_a_client_of_http_1_0_gets_no_chunks_but_the_end_of_the_connection() -> None:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"a"
        yield b"b"

    with Running(application) as server:
        answer = server.ask(b"GET / HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nab")
    assert b"chunked" not in answer and b"Connection: close" in answer


def test_a_client_of_http_1_0_can_keep_its_connection() -> None:
    with Running() as server, server.connect() as client:
        for _ in range(2):
            client.sendall(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            answer = read_answer(client)
            assert answer.fields["connection"] == "keep-alive" and answer.body == b"hello"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_an_answer_that_has_no_body_gets_none(status: str) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response(status, [])
        return [b"not to be sent"]

    with Running(application) as server, server.connect() as client:
        for _ in range(2):
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = read_answer(client)
            assert answer.status == int(status[:3]) and answer.raw.endswith(b"\r\n\r\n")
            assert "transfer-encoding" not in answer.fields


def test_head_is_answered_without_a_body_and_with_its_length() -> None:
    with Running() as server, server.connect() as client:
        for _ in range(2):
            client.sendall(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = read_answer(client, "HEAD")
            assert answer.fields["content-length"] == "5" and answer.raw.endswith(b"\r\n\r\n")


def test_head_of_a_generator_sends_nothing_of_it() -> None:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"body"

    with Running(application) as server:
        answer = server.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")


def test_write_sends_before_what_is_returned() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"one ")
        write(bytearray(b"two "))
        return [b"three"]

    answer = serve(application)
    assert answer.body == b"one two three" and answer.whole


def test_start_response_twice_is_an_error_without_exc_info() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        with pytest.raises(AssertionError):
            start_response("200 OK", [])
        return [b"x"]

    assert serve(application).body == b"x"


def test_exc_info_replaces_an_answer_that_has_not_left() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("X-First", "1")])
        try:
            raise ValueError
        except ValueError as error:
            start_response("503 Sorry", [("X-Second", "2")], (type(error), error, error.__traceback__))
        return [b"sorry"]

    answer = serve(application)
    assert answer.status == 503 and "x-first" not in answer.fields and answer.fields["x-second"] == "2"


def test_exc_info_is_raised_again_when_the_answer_has_left() -> None:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"begun"
        try:
            raise ValueError("too late")
        except ValueError as error:
            start_response("500 Oops", [], (type(error), error, error.__traceback__))

    assert not serve(application).whole


def test_an_application_that_fails_is_a_500_without_a_traceback(caplog: Any) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        raise ValueError("secret")

    with Running(application) as server, server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = read_answer(client)
        assert answer.status == 500 and b"secret" not in answer.raw
        assert answer.fields["connection"] == "close"
        assert server.get().status == 500, "the server goes on"
    assert "ValueError: secret" in caplog.text


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, gevent.Timeout, MemoryError])
def test_whatever_an_application_raises_the_server_goes_on(error: type[BaseException]) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/raise":
            raise error()
        return hello(environ, start_response)

    with Running(application) as server:
        assert server.get("/raise").status == 500
        assert server.get("/").status == 200


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200 OK", [("X", "a\r\nY: b")]),
        ("200 OK", [("X", "a\nY: b")]),
        ("200 OK", [("X", "a\0")]),
        ("200 OK", [("X Y", "a")]),
        ("200 OK", [("", "a")]),
        ("200 OK", [("X", "\u20ac")]),
        ("200 OK", [("X", "\ud800")]),
        ("200 OK", [("X", 5)]),
        ("200 OK", [("X", b"a")]),
        ("200 OK", [(b"X", "a")]),
        ("200 OK", [("X",)]),
        ("200 OK", [("Content-Length", "a")]),
        ("200 OK", [("Content-Length", "-1")]),
        ("200 OK", [("Content-Length", "1"), ("Content-Length", "2")]),
        ("200 O\r\nK", []),
        ("200 \u20ac", []),
        ("2000 OK", []),
        ("OK", []),
        (200, []),
    ],
)
def test_what_http_cannot_carry_is_a_500_and_a_clear_line_in_the_log(caplog: Any, status: Any, headers: Any) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/good":
            return hello(environ, start_response)
        start_response(status, headers)
        return [b"x"]

    with Running(application) as server:
        answer = server.get()
        assert answer.status == 500
        assert server.get("/good").status == 200
    assert "BadResponse: " in caplog.text


def test_an_application_can_catch_what_http_cannot_carry() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        with pytest.raises(ValueError, match="latin-1"):
            start_response("200 OK", [("X", "\u20ac")])
        start_response("200 OK", [("X", "euro")])
        return [b"x"]

    assert serve(application).fields["x"] == "euro"


def test_a_body_that_is_no_bytes_is_a_500() -> None:
    def application(environ: Any, start_response: Any) -> list[str]:
        start_response("200 OK", [])
        return ["text"]

    assert serve(application).status == 500


def test_a_body_without_a_status_is_a_500() -> None:
    assert serve(lambda environ, start_response: [b"x"]).status == 500


def test_how_a_message_travels_is_not_the_application_s() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Transfer-Encoding", "chunked"), ("Keep-Alive", "x"), ("Date", "now")])
        return [b"x"]

    answer = serve(application)
    assert answer.body == b"x" and answer.fields["content-length"] == "1"
    assert "keep-alive" not in answer.fields and answer.fields["date"] == "now"


def test_an_application_can_close_the_connection() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Connection", "close")])
        return [b"x"]

    with Running(application) as server, server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_answer(client).fields["connection"] == "close"
        assert client.recv(1) == b""


def test_more_body_than_announced_is_cut(caplog: Any) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "2")])
        return [b"abc"]

    with Running(application) as server, server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_answer(client).body == b"ab"
        assert client.recv(10) == b"", "nothing that could be taken for another answer"
    assert "more body than Content-Length" in caplog.text


def test_less_body_than_announced_ends_the_connection(caplog: Any) -> None:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "5")])
        yield b"abc"

    assert not serve(application).whole
    assert "2 bytes of body less" in caplog.text


def test_an_error_in_the_middle_of_a_body_shows_as_an_answer_that_is_not_whole() -> None:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"begun"
        raise ValueError

    assert not serve(application).whole


def test_close_of_the_result_is_called_however_it_ended() -> None:
    closed = []

    class Result:
        def __init__(self, fails: bool) -> None:
            self.fails = fails

        def __iter__(self) -> Any:
            yield b"a"
            if self.fails:
                raise ValueError

        def close(self) -> None:
            closed.append(self.fails)

    def application(environ: Any, start_response: Any) -> Result:
        start_response("200 OK", [])
        return Result(environ["PATH_INFO"] == "/fails")

    with Running(application) as server:
        server.get("/")
        server.get("/fails")
        wait_until(lambda: closed == [False, True])


def test_a_client_that_goes_ends_the_iteration_and_closes_the_result(caplog: Any) -> None:
    closed = []

    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 65536
        finally:
            closed.append(True)

    caplog.set_level(logging.ERROR)
    with Running(application) as server:
        client = server.connect()
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(10)
        client.close()
        wait_until(lambda: closed)
        wait_until(lambda: server.server.stats.connections == 0)
    assert caplog.text == "", "a client may go: nothing to log"


def test_a_stream_that_is_to_end_gets_its_last_chunk() -> None:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"a"
        raise Draining()

    answer = serve(application)
    assert answer.body == b"a" and answer.whole


def test_a_request_that_is_to_end_before_its_answer_gets_503() -> None:
    def application(environ: Any, start_response: Any) -> Any:
        raise Draining()

    answer = serve(application)
    assert answer.status == 503 and answer.fields["retry-after"] == "1"


def test_gone_client_raised_by_the_application_ends_quietly(caplog: Any) -> None:
    def application(environ: Any, start_response: Any) -> Any:
        raise ClientGone()

    with Running(application) as server:
        client = server.connect()
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.close()
        wait_until(lambda: server.server.stats.connections == 0)
    assert "Traceback" not in caplog.text


def test_a_request_that_takes_too_long_is_ended_with_504(caplog: Any) -> None:
    ended = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/quick":
            return hello(environ, start_response)
        try:
            gevent.sleep(1000)
        except Exception:
            ended.append("caught")
        finally:
            ended.append("over")
        return []

    with Running(application, request_timeout=0.3) as server:
        assert server.get().status == 504
        assert ended == ["over"]
        assert server.server.stats.timeouts == 1
        assert server.get("/quick").status == 200
    assert "took longer than 0.3 s" in caplog.text


def test_a_slow_answer_that_has_begun_is_cut_off_by_the_request_timeout() -> None:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"begun"
        gevent.sleep(1000)

    assert not serve(application, request_timeout=0.3).whole


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
def test_the_validator_of_the_standard_library_is_content(method: str) -> None:
    seen = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        seen.append(environ["wsgi.input"].read(3))
        seen.append(environ["wsgi.input"].readline(100))
        write = start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
        write(b"abc")
        return iter([b"def"])

    with Running(validator(application)) as server:
        path = "/a%20b?c=d"
        answer = server.get(path, "Content-Length: 5", "Content-Type: a/b", method=method, body=b"12345")
        assert answer.status == 200, answer.raw
        if method != "HEAD":
            assert answer.body == b"abcdef"
        assert seen == [b"123", b"45"]
        assert server.get(method=method).status == 200


def test_environ_says_what_pep_3333_wants() -> None:
    found: dict[str, Any] = {}

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        found.update(environ)
        return hello(environ, start_response)

    with Running(application, multiprocess=True) as server:
        server.get("/x")
        assert found["SERVER_PORT"] == str(server.port)
    assert found["SERVER_NAME"] == "127.0.0.1" and found["REMOTE_ADDR"] == "127.0.0.1"
    assert int(found["REMOTE_PORT"]) > 0
    assert found["wsgi.version"] == (1, 0) and found["wsgi.url_scheme"] == "http"
    assert found["wsgi.multithread"] is True and found["wsgi.multiprocess"] is True
    assert found["wsgi.run_once"] is False and found["wsgi.input_terminated"] is True
    assert found["SERVER_PROTOCOL"] == "HTTP/1.1" and found["SCRIPT_NAME"] == ""


def test_requests_do_not_see_each_other_s_environ() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert "mine" not in environ
        environ["mine"] = True
        return hello(environ, start_response)

    with Running(application) as server, server.connect() as client:
        for _ in range(3):
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read_answer(client).status == 200


def test_an_echo_of_a_large_body_comes_back_whole() -> None:
    body = bytes(range(256)) * 20000
    answer = serve(echo, f"Content-Length: {len(body)}", method="POST", body=body)
    assert answer.body == body


def test_an_upgrade_gives_the_socket_and_what_was_read_behind_the_head() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        sock, early = environ["channels.upgrade"]()
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n" + early)
        while data := sock.recv(100):
            sock.sendall(data.upper())
        return []

    raw = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
    with Running(application) as server, server.connect() as client:
        client.sendall(raw + b"early")
        seen = b""
        while not seen.endswith(b"early"):
            seen += client.recv(1000)
        client.sendall(b"late")
        assert client.recv(100) == b"LATE"
        assert server.server.stats.connections == 1
        client.close()
        wait_until(lambda: server.server.stats.connections == 0)


def test_an_upgrade_is_offered_to_those_only_who_ask() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [str("channels.upgrade" in environ).encode()]

    with Running(application) as server:
        assert server.get().body == b"False"
        with server.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
            assert read_answer(client).body == b"True"
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read_answer(client).body == b"False", "an upgrade that was not taken changes nothing"
