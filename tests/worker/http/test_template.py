"""Formats of the access log."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from channels.errors import BadSetting
from channels.worker.http.accesslog import Entry
from channels.worker.http.config import HttpConfig
from channels.worker.http.template import compile_format, escape


def entry(**environ: str) -> Entry:
    given: dict[str, Any] = {
        "REMOTE_ADDR": "1.2.3.4",
        "REQUEST_METHOD": "GET",
        "RAW_URI": "/a?b",
        "PATH_INFO": "/a",
        "QUERY_STRING": "b",
        "SERVER_PROTOCOL": "HTTP/1.1",
        **environ,
    }
    return Entry(given, 200, 12, 1.25, "[now]", b"Content-Type: text/plain\r\nX: y\r\n")


def test_the_default_is_the_combined_format() -> None:
    line = compile_format(HttpConfig().access_log_format)(entry(HTTP_REFERER="r", HTTP_USER_AGENT="agent"))
    assert line == '1.2.3.4 - - [now] "GET /a?b HTTP/1.1" 200 12 "r" "agent"\n'


def test_every_atom() -> None:
    line = compile_format("%(m)s %(U)s %(q)s %(H)s %(B)s %(T)s %(M)s %(D)s %(L)s %% {%(p)s}")(entry())
    pid = Entry.pid
    assert line == f"GET /a b HTTP/1.1 12 1 1250 1250000 1.250000 % {{<{pid}>}}\n"


def test_fields_of_request_answer_and_environ() -> None:
    line = compile_format("%({x-a}i)s %({Content-Type}o)s %({none}o)s %({my.key}e)s")(
        entry(HTTP_X_A="1", **{"my.key": "2"})
    )
    assert line == "1 text/plain - 2\n"


def test_the_user_of_basic_authentication() -> None:
    token = base64.b64encode(b"me:secret").decode()
    assert compile_format("%(u)s")(entry(HTTP_AUTHORIZATION=f"Basic {token}")) == "me\n"
    assert compile_format("%(u)s")(entry(HTTP_AUTHORIZATION="Basic !")) == "-\n"
    assert compile_format("%(u)s")(entry(HTTP_AUTHORIZATION="Bearer x")) == "-\n"


def test_nothing_that_a_client_says_ends_a_line_or_a_quote() -> None:
    line = compile_format('"%(a)s"')(entry(HTTP_USER_AGENT='a"b\\c\n\x1b[31m\x85'))
    assert line == '"a\\"b\\\\c\\x0a\\x1b[31m\\x85"\n'
    assert compile_format("%(h)s")(entry(REMOTE_ADDR='a"\n')) == 'a\\"\\x0a\n'
    assert escape("plain") == "plain"


def test_json_is_json() -> None:
    line = compile_format("json")(entry(HTTP_USER_AGENT='a"b', PATH_INFO='/"}\n{"x":"\x9b', QUERY_STRING="\x85"))
    assert line.count("\n") == 1 and line.isascii()
    assert json.loads(line)["path"] == '/"}\n{"x":"\x9b'
    found = json.loads(compile_format("json")(entry(HTTP_USER_AGENT='a"b')))
    assert (found["status"], found["bytes"], found["path"], found["microseconds"]) == (200, 12, "/a", 1250000)


@pytest.mark.parametrize("text", ["%(zz)s", "%(h)", "%x", "%"])
def test_what_is_no_atom_is_a_clear_error(text: str) -> None:
    with pytest.raises(BadSetting, match="atoms"):
        compile_format(text)


def test_of_a_refusal_little_is_known() -> None:
    refused = Entry({"REMOTE_ADDR": "1.2.3.4"}, 400, 0, 0.0, "[now]", b"")
    assert compile_format(HttpConfig().access_log_format)(refused) == '1.2.3.4 - - [now] "- - -" 400 - "-" "-"\n'
    assert json.loads(compile_format("json")(refused))["status"] == 400
