"""Every case goes to a real server over a socket: what it answers, and that the application saw nothing of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels.worker.http.config import HttpConfig
from channels.worker.http.head import CHUNKED, BadRequest, HeadParser
from tests.worker.http.running import Running, hello, read_answer

HOST = b"Host: a\r\n"


def get(line: bytes = b"GET / HTTP/1.1", *fields: bytes, host: bytes = HOST) -> bytes:
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


REFUSED = {
    # the request line
    "no version": (b"GET /\r\n\r\n", 400),
    "version 0.9": (get(b"GET / HTTP/0.9"), 505),
    "version 1.2": (get(b"GET / HTTP/1.2"), 400),
    "version 2.0": (get(b"GET / HTTP/2.0"), 505),
    "version 3": (get(b"GET / HTTP/3"), 400),
    "version in small letters": (get(b"GET / http/1.1"), 400),
    "version with a long number": (get(b"GET / HTTP/11.1"), 400),
    "version with a sign": (get(b"GET / HTTP/+1.1"), 400),
    "another protocol": (get(b"SETUP / RTSP/1.0"), 400),
    "ICE": (get(b"SOURCE / ICE/1.0"), 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "two spaces before the target": (get(b"GET  / HTTP/1.1"), 400),
    "two spaces before the version": (get(b"GET /  HTTP/1.1"), 400),
    "a tab instead of a space": (get(b"GET\t/ HTTP/1.1"), 400),
    "a space behind the version": (get(b"GET / HTTP/1.1 "), 400),
    "a space before the method": (get(b" GET / HTTP/1.1"), 400),
    "no target": (get(b"GET HTTP/1.1"), 400),
    "an unknown method": (get(b"FETCH / HTTP/1.1"), 501),
    "a method in small letters": (get(b"get / HTTP/1.1"), 400),
    "a method that is no token": (get(b"GE(T / HTTP/1.1"), 400),
    "a NUL in the method": (get(b"GE\0T / HTTP/1.1"), 400),
    "a space in the target": (get(b"GET /a b HTTP/1.1"), 400),
    "a NUL in the target": (get(b"GET /\0 HTTP/1.1"), 400),
    "a DEL in the target": (get(b"GET /\x7f HTTP/1.1"), 400),
    "a tab in the target": (get(b"GET /\t HTTP/1.1"), 400),
    "bytes above 127 in the target": (get(b"GET /\xc3\xa4 HTTP/1.1"), 400),
    "a fragment": (get(b"GET /#here HTTP/1.1"), 400),
    "GET *": (get(b"GET * HTTP/1.1"), 400),
    "a target without a slash": (get(b"GET index.html HTTP/1.1"), 400),
    "a target that is a query": (get(b"GET ?a=b HTTP/1.1"), 400),
    "absolute-form of another scheme": (get(b"GET ftp://a/ HTTP/1.1"), 400),
    "absolute-form without a host": (get(b"GET http:///a HTTP/1.1"), 400),
    "absolute-form with a user": (get(b"GET http://me@a/ HTTP/1.1"), 400),
    "CONNECT": (get(b"CONNECT a:80 HTTP/1.1"), 400),
    "a lone LF after the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "lone LFs throughout": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "a lone CR after the request line": (b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
    "a lone LF before everything": (b"\n" + get(), 400),
    "a lone CR before everything": (b"\r" + get(), 400),
    "a lone LF behind an empty line": (b"\r\n\n" + get(), 400),
    "a lone CR behind an empty line": (b"\r\n\r" + get(), 400),
    "a NUL before everything": (b"\0" + get(), 400),
    "a space before everything": (b" " + get(), 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    # field names
    "a space before the colon": (get(b"GET / HTTP/1.1", b"X : a"), 400),
    "a tab before the colon": (get(b"GET / HTTP/1.1", b"X\t: a"), 400),
    "a space in a name": (get(b"GET / HTTP/1.1", b"X Y: a"), 400),
    "an empty name": (get(b"GET / HTTP/1.1", b": a"), 400),
    "no colon": (get(b"GET / HTTP/1.1", b"X"), 400),
    "a bracket in a name": (get(b"GET / HTTP/1.1", b"X(: a"), 400),
    "a NUL in a name": (get(b"GET / HTTP/1.1", b"X\0: a"), 400),
    "a byte above 127 in a name": (get(b"GET / HTTP/1.1", b"X\xe4: a"), 400),
    "a quote in a name": (get(b"GET / HTTP/1.1", b'"X": a'), 400),
    "a CR in a name": (get(b"GET / HTTP/1.1", b"X\rY: a"), 400),
    "space before the first field": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    # field values
    "a folded value": (get(b"GET / HTTP/1.1", b"X: a", b" b"), 400),
    "a value folded with a tab": (get(b"GET / HTTP/1.1", b"X: a", b"\tb"), 400),
    "a folded Content-Length": (get(b"POST / HTTP/1.1", b"Content-Length:", b" 3") + b"abc", 400),
    "a folded Transfer-Encoding": (get(b"POST / HTTP/1.1", b"Transfer-Encoding:", b" chunked") + b"0\r\n\r\n", 400),
    "a NUL in a value": (get(b"GET / HTTP/1.1", b"X: a\0b"), 400),
    "a DEL in a value": (get(b"GET / HTTP/1.1", b"X: a\x7f"), 400),
    "a control character in a value": (get(b"GET / HTTP/1.1", b"X: a\x01"), 400),
    "a lone CR in a value": (get(b"GET / HTTP/1.1", b"X: a\rb"), 400),
    "a lone LF in a value": (get(b"GET / HTTP/1.1", b"X: a\nY: b"), 400),
    "a lone LF before the empty line": (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    # Host
    "no Host": (get(host=b""), 400),
    "two Hosts": (get(b"GET / HTTP/1.1", b"Host: b"), 400),
    "two equal Hosts": (get(b"GET / HTTP/1.1", b"Host: a"), 400),
    "two Hosts in one": (get(host=b"Host: a, b\r\n"), 400),
    "a Host with a path": (get(host=b"Host: a/b\r\n"), 400),
    "a Host with a user": (get(host=b"Host: me@a\r\n"), 400),
    "a Host with a space": (get(host=b"Host: a b\r\n"), 400),
    "a Host with a port that is no number": (get(host=b"Host: a:b\r\n"), 400),
    "a Host with an open bracket": (get(host=b"Host: [::1\r\n"), 400),
    "a Host above 127": (get(host=b"Host: \xe4\r\n"), 400),
    "two Hosts in HTTP/1.0": (get(b"GET / HTTP/1.0", b"Host: b"), 400),
    # framing
    "two Content-Lengths": (get(b"POST / HTTP/1.1", b"Content-Length: 3", b"Content-Length: 4") + b"abcd", 400),
    "two equal Content-Lengths": (get(b"POST / HTTP/1.1", b"Content-Length: 3", b"Content-Length: 3") + b"abc", 400),
    "two Content-Lengths in one": (get(b"POST / HTTP/1.1", b"Content-Length: 3, 3") + b"abc", 400),
    "a signed Content-Length": (get(b"POST / HTTP/1.1", b"Content-Length: +3") + b"abc", 400),
    "a negative Content-Length": (get(b"POST / HTTP/1.1", b"Content-Length: -1"), 400),
    "a hexadecimal Content-Length": (get(b"POST / HTTP/1.1", b"Content-Length: 0x3") + b"abc", 400),
    "an empty Content-Length": (get(b"POST / HTTP/1.1", b"Content-Length:"), 400),
    "a Content-Length with a space in it": (get(b"POST / HTTP/1.1", b"Content-Length: 1 1") + b"abc", 400),
    "a Content-Length with an underscore": (get(b"POST / HTTP/1.1", b"Content-Length: 1_0") + b"abc", 400),
    "a Content-Length beyond 64 bits": (get(b"POST / HTTP/1.1", b"Content-Length: 18446744073709551616"), 400),
    "a Content-Length beyond all": (get(b"POST / HTTP/1.1", b"Content-Length: " + b"9" * 40), 400),
    "a Content-Length of other digits": (get(b"POST / HTTP/1.1", b"Content-Length: \xb2"), 400),
    "a body above the limit": (get(b"POST / HTTP/1.1", b"Content-Length: 5000000"), 413),
    "both framings": (
        get(b"POST / HTTP/1.1", b"Content-Length: 3", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        400,
    ),
    "both framings, the other way round": (
        get(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", b"Content-Length: 3") + b"0\r\n\r\n",
        400,
    ),
    "Transfer-Encoding in HTTP/1.0": (get(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "chunked twice": (get(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n", 400),
    "chunked in two fields": (
        get(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        400,
    ),
    "chunked not last": (get(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked, gzip") + b"0\r\n\r\n", 400),
    "gzip before chunked": (get(b"POST / HTTP/1.1", b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", 501),
    "gzip alone": (get(b"POST / HTTP/1.1", b"Transfer-Encoding: gzip") + b"0\r\n\r\n", 400),
    "identity": (get(b"POST / HTTP/1.1", b"Transfer-Encoding: identity"), 400),
    "nearly chunked": (get(b"POST / HTTP/1.1", b"Transfer-Encoding: xchunked") + b"0\r\n\r\n", 400),
    "chunked with a vertical tab": (get(b"POST / HTTP/1.1", b"Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n", 400),
    "chunked in quotes": (get(b"POST / HTTP/1.1", b'Transfer-Encoding: "chunked"') + b"0\r\n\r\n", 400),
    "an empty Transfer-Encoding": (get(b"POST / HTTP/1.1", b"Transfer-Encoding:"), 400),
    # other fields
    "two Content-Types": (get(b"POST / HTTP/1.1", b"Content-Type: a/b", b"Content-Type: a/c"), 400),
    "two Authorizations": (get(b"GET / HTTP/1.1", b"Authorization: a", b"Authorization: b"), 400),
    "an expectation nobody can meet": (get(b"POST / HTTP/1.1", b"Expect: a-pony", b"Content-Length: 3"), 417),
    # sizes
    "a long request line": (get(b"GET /" + b"a" * 9000 + b" HTTP/1.1"), 414),
    "a request line without an end": (b"GET /" + b"a" * 20000, 414),
    "a long field": (get(b"GET / HTTP/1.1", b"X: " + b"a" * 9000), 431),
    "too many fields": (get(b"GET / HTTP/1.1", *[b"X: a"] * 100), 431),
    "a long head": (get(b"GET / HTTP/1.1", *[b"X: " + b"a" * 8000] * 9), 431),
    "a head without an end": (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 20000, 431),
}


@pytest.fixture(scope="module")
def server() -> Any:
    with Running(_remember, limit_request_body=1_000_000) as running:
        yield running


_seen: list[str] = []


def _remember(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    _seen.append(environ["RAW_URI"])
    return hello(environ, start_response)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_good_request_is_refused_and_never_seen(server: Running, case: str) -> None:
    raw, status = REFUSED[case]
    _seen.clear()
    answer = server.ask(raw + get(b"GET /smuggled HTTP/1.1"))
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1, "nothing behind it is served"
    assert b"\r\nConnection: close\r\n" in answer
    assert _seen == []


ACCEPTED = {
    "the simplest": get(),
    "empty lines before it": b"\r\n\r\n" + get(),
    "HTTP/1.0 without a Host": get(b"GET / HTTP/1.0", host=b""),
    "no space behind a colon": get(b"GET / HTTP/1.1", b"X:a"),
    "an empty value": get(b"GET / HTTP/1.1", b"X:"),
    "tabs around a value": get(b"GET / HTTP/1.1", b"X:\ta\t"),
    "bytes above 127 in a value": get(b"GET / HTTP/1.1", b"X: \xe4"),
    "every character of a token in a name": get(b"GET / HTTP/1.1", b"!#$%&'*+-.^`|~9aZ: x"),
    "an IPv6 Host": get(host=b"Host: [::1]:8000\r\n"),
    "an empty Host": get(host=b"Host:\r\n"),
    "odd characters that browsers send in a target": get(b'GET /<>"{}|\\^` HTTP/1.1'),
    "broken percents": get(b"GET /%zz%4 HTTP/1.1"),
    "a second question mark": get(b"GET /?a?b HTTP/1.1"),
    "absolute-form": get(b"GET http://a/ HTTP/1.1"),
    "OPTIONS *": get(b"OPTIONS * HTTP/1.1"),
    "a body": get(b"POST / HTTP/1.1", b"Content-Length: 3") + b"abc",
    "a chunked body": get(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",
    "Chunked in large letters": get(b"POST / HTTP/1.1", b"TRANSFER-ENCODING: CHUNKED") + b"0\r\n\r\n",
    "a field twice": get(b"GET / HTTP/1.1", b"X: a", b"X: b"),
    "PATCH": get(b"PATCH / HTTP/1.1"),
    "a request that would be a tunnel": get(b"GET / HTTP/1.1", b"Connection: upgrade", b"Upgrade: h2c"),
    "a long but allowed line": get(b"GET /" + b"a" * 8000 + b" HTTP/1.1"),
    "a hundred fields": get(b"GET / HTTP/1.1", *[b"X: a"] * 99),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_odd_but_good_is_served(server: Running, case: str) -> None:
    assert server.ask(ACCEPTED[case]).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_head_may_come_in_any_pieces(server: Running, size: int) -> None:
    raw = get(b"GET /pieces HTTP/1.1", b"X: a")
    with server.connect() as client:
        for start in range(0, len(raw), size):
            client.sendall(raw[start : start + size])
        assert read_answer(client).status == 200


def test_data_behind_a_request_that_closes_is_not_served(server: Running) -> None:
    _seen.clear()
    answer = server.ask(get(b"GET /first HTTP/1.1", b"Connection: close") + get(b"GET /second HTTP/1.1"))
    assert answer.count(b"HTTP/1.1 200") == 1
    assert _seen == ["/first"]


# ---- environ, without a socket ----


def parse(raw: bytes, **limits: Any) -> Any:
    return HeadParser(HttpConfig(**limits)).parse(raw, {})


def test_the_path_is_unquoted_and_the_query_is_not() -> None:
    environ = parse(get(b"GET /a%20b%C3%A4%2F?c=%20d&e HTTP/1.1")).environ
    assert environ["PATH_INFO"] == "/a b\xc3\xa4/"
    assert environ["QUERY_STRING"] == "c=%20d&e"
    assert environ["RAW_URI"] == environ["REQUEST_URI"] == "/a%20b%C3%A4%2F?c=%20d&e"


def test_absolute_form_gives_the_host() -> None:
    environ = parse(get(b"GET http://b:81/c?d HTTP/1.1")).environ
    assert (environ["HTTP_HOST"], environ["PATH_INFO"], environ["QUERY_STRING"]) == ("b:81", "/c", "d")
    assert parse(get(b"GET http://b?d HTTP/1.1")).environ["PATH_INFO"] == "/"


def test_the_whole_server_is_an_empty_path() -> None:
    environ = parse(get(b"OPTIONS * HTTP/1.1")).environ
    assert (environ["PATH_INFO"], environ["RAW_URI"]) == ("", "*")


def test_fields_that_come_twice_are_joined() -> None:
    environ = parse(get(b"GET / HTTP/1.1", b"X: a", b"Cookie: a=b", b"x:  b ", b"cookie: c=d")).environ
    assert environ["HTTP_X"] == "a,b"
    assert environ["HTTP_COOKIE"] == "a=b; c=d"


def test_a_name_with_an_underscore_cannot_pass_for_another() -> None:
    environ = parse(get(b"GET / HTTP/1.1", b"X_Forwarded_For: 1.2.3.4", b"Content_Length: 3")).environ
    assert "HTTP_X_FORWARDED_FOR" not in environ
    assert "CONTENT_LENGTH" not in environ
    assert "HTTP_CONTENT_LENGTH" not in environ


def test_content_type_and_length_have_no_prefix() -> None:
    environ = parse(get(b"POST / HTTP/1.1", b"content-TYPE: a/b", b"Content-Length: 3")).environ
    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"]) == ("a/b", "3")
    assert "HTTP_CONTENT_TYPE" not in environ


@pytest.mark.parametrize(
    ("line", "connection", "keeps"),
    [
        (b"GET / HTTP/1.1", b"", True),
        (b"GET / HTTP/1.1", b"close", False),
        (b"GET / HTTP/1.1", b"Keep-Alive, Close", False),
        (b"GET / HTTP/1.0", b"", False),
        (b"GET / HTTP/1.0", b"keep-alive", True),
        (b"GET / HTTP/1.0", b"TE, Keep-Alive", True),
        (b"GET / HTTP/1.1", b"closed", True),
    ],
)
def test_whether_the_connection_goes_on(line: bytes, connection: bytes, keeps: bool) -> None:
    assert parse(get(line, *([b"Connection: " + connection] if connection else []))).keep_alive is keeps


def test_how_the_body_is_framed() -> None:
    assert parse(get()).length == 0
    assert parse(get(b"POST / HTTP/1.1", b"Content-Length: 0")).length == 0
    assert parse(get(b"POST / HTTP/1.1", b"Content-Length: 007")).length == 7
    assert parse(get(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked")).length == CHUNKED


def test_an_upgrade_needs_both_fields_and_the_right_version() -> None:
    fields = [b"Connection: keep-alive, Upgrade", b"Upgrade: websocket"]
    assert parse(get(b"GET / HTTP/1.1", *fields)).upgrade
    assert not parse(get(b"GET / HTTP/1.0", *fields)).upgrade
    assert not parse(get(b"GET / HTTP/1.1", fields[1])).upgrade
    assert not parse(get(b"GET / HTTP/1.1", fields[0])).upgrade


def test_one_parser_judges_heads_of_every_kind_one_after_the_other() -> None:
    parser = HeadParser(HttpConfig())
    for _ in range(3):
        assert parser.parse(get(), {}).length == 0
        assert parser.parse(get(b"POST / HTTP/1.1", b"Content-Length: 5"), {}).length == 5
        assert parser.parse(get(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked"), {}).length == CHUNKED
        assert not parser.parse(get(b"GET / HTTP/1.1", b"Connection: close"), {}).keep_alive
        assert parser.parse(get(b"GET / HTTP/1.1", b"Connection: upgrade", b"Upgrade: x"), {}).upgrade
        with pytest.raises(BadRequest):
            parser.parse(get(b"GET / HTTP/1.1", b"X"), {})


WORDS = (b"close", b"keep-alive", b"upgrade", b"keep-alive, upgrade", b"TE,close", b"")
FIELDS = [name + b": " + words for name in (b"Connection", b"Proxy-Connection") for words in WORDS]
FIELDS += [b"Upgrade: x", b"Content-Length: 0", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"X: a", b"X : a"]
METHODS = (b"GET /", b"HEAD /", b"POST /", b"FETCH /")
LINES = [method + version for method in METHODS for version in (b" HTTP/1.0", b" HTTP/1.1")]
HEADS = st.builds(
    lambda line, fields: get(line, *fields), st.sampled_from(LINES), st.lists(st.sampled_from(FIELDS), max_size=3)
)


def verdict(parser: HeadParser, raw: bytes) -> Any:
    try:
        head = parser.parse(raw, {})
    except BadRequest as error:
        return error.status, error.reason
    return head.keep_alive, head.length, head.upgrade


@settings(max_examples=200, deadline=None)
@given(heads=st.lists(HEADS, min_size=2, max_size=6))
def test_no_head_is_judged_by_what_came_before_it(heads: list[bytes]) -> None:
    parser = HeadParser(HttpConfig())
    for raw in heads:
        assert verdict(parser, raw) == verdict(HeadParser(HttpConfig()), raw)


def test_what_one_client_says_of_its_proxy_is_no_matter_to_the_next() -> None:
    parser = HeadParser(HttpConfig())
    assert parser.parse(get(b"GET / HTTP/1.1", b"Proxy-Connection: close"), {}).keep_alive
    for _ in range(2):
        assert parser.parse(get(), {}).keep_alive


def test_what_is_remembered_of_names_and_hosts_is_bounded() -> None:
    parser = HeadParser(HttpConfig())
    for number in range(3000):
        parser.parse(get(b"GET / HTTP/1.1", b"X-%d: a" % number, host=b"Host: a%d\r\n" % number), {})
    assert len(parser._keys) <= 1024
    assert len(parser._hosts) <= 1024
