"""Status and fields to bytes; what HTTP cannot carry is in test_exchange."""

from __future__ import annotations

import pytest

from channels.worker.http.response import CLOSE, DATE, SERVER, BadResponse, fields, refusal, status_line


def test_status_lines() -> None:
    assert status_line("200 OK") == (200, b"HTTP/1.1 200 OK\r\n")
    assert status_line("599 Odd \xe4") == (599, b"HTTP/1.1 599 Odd \xe4\r\n")
    assert status_line("204") == (204, b"HTTP/1.1 204 \r\n")


def test_fields_come_out_in_order_and_framing_does_not() -> None:
    lines, length, flags = fields(
        [
            ("A", "1"),
            ("Content-Length", "7"),
            ("Transfer-Encoding", "chunked"),
            ("Set-Cookie", "a"),
            ("Set-Cookie", "b"),
        ]
    )
    assert lines == b"A: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n"
    assert (length, flags) == (7, 0)


def test_what_the_server_has_to_know_of_them() -> None:
    assert fields([("connection", "Close"), ("DATE", "x"), ("server", "y")])[2] == CLOSE | DATE | SERVER
    assert fields([]) == (b"", -1, 0)


def test_the_error_names_the_field_that_is_bad() -> None:
    with pytest.raises(BadResponse, match="header Bad:"):
        fields([("Good", "x"), ("Bad", "a\r\nb")])


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\0"])
def test_headers_that_can_be_looked_at_only_once_are_judged_all_the_same(end: str) -> None:
    with pytest.raises(BadResponse, match="header Bad:"):
        fields(iter([("Good", "x"), ("Bad", f"a{end}Set-Cookie: b")]))
    assert fields(iter([("Good", "x")]))[0] == b"Good: x\r\n"


def test_names_with_a_str_subclass_are_taken() -> None:
    class Name(str):
        pass

    assert fields([(Name("X"), Name("y"))])[0] == b"X: y\r\n"


def test_a_refusal_is_a_whole_answer() -> None:
    answer = refusal(404, b"Date: x\r\n", "no \xe4")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\n") and b"Connection: close" in head and b"Date: x" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert refusal(599, b"").startswith(b"HTTP/1.1 599 ")
