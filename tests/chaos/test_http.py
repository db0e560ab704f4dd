"""The quick parts of `python -m tests.chaos.http`, and that its judges are no rubber stamps."""

from __future__ import annotations

import hashlib
import random

import pytest

pytest.importorskip("h11")

from tests.chaos import http_cases
from tests.chaos.http import PARTS, Run
from tests.chaos.http_cases import BadAnswer, compare

ANSWER = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nDate: now\r\n%s\r\n%s"


def told(method: str, target: str, body: bytes = b"") -> bytes:
    """What the application answers who saw this."""
    text = f'["{method}", "{target}", {len(body)}, "{hashlib.sha1(body).hexdigest()}", 1]'.encode()
    return ANSWER % (200, len(text), b"", text)


@pytest.mark.parametrize("part", [part for part in PARTS if part != "connections"])
def test_clients_without_manners_are_survived(part: str) -> None:
    run = Run(random.SystemRandom().randrange(1 << 32), 0.02)
    PARTS[part](run)
    assert run.wrong == [], f"seed {run.seed}"


SMUGGLED = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" + http_cases.INNER


def test_the_judge_is_content_with_what_h11_finds_too() -> None:
    answered = told("POST", "/a", b"abc") + told("GET", "/inner")
    assert compare(SMUGGLED, answered) == ("agreed", 2)


@pytest.mark.parametrize(
    "answered",
    [
        told("POST", "/a", b"ab"),
        told("GET", "/inner") + told("POST", "/a", b"abc"),
        told("POST", "/a", b"abc") + told("GET", "/inner") + told("GET", "/inner"),
        told("POST", "/a", b"abc")[:-1],
        told("POST", "/a", b"abc") + ANSWER % (500, 0, b"", b""),
        ANSWER % (400, 0, b"Connection: close\r\n", b"") + told("GET", "/inner"),
        b"Traceback\r\n\r\n",
    ],
)
def test_the_judge_sees_what_is_wrong(answered: bytes) -> None:
    with pytest.raises(BadAnswer):
        compare(SMUGGLED, answered)


def test_a_request_behind_the_closing_one_is_not_to_be_served() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + http_cases.INNER
    assert compare(raw, told("GET", "/")) == ("agreed", 1)
    with pytest.raises(BadAnswer):
        compare(raw, told("GET", "/") + told("GET", "/inner"))
