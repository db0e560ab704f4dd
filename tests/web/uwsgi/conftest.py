"""One server of three workers for all tests of the uwsgi module that do not end it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import pytest

from tests.server import Server

APPLICATION = "tests.web.uwsgi.application:application"


class Asked(Server):
    """Evaluates expressions in its workers; `uwsgi`, `gevent`, `time` and what the application has are known there."""

    def ask(self, expression: str) -> Any:
        """In whichever worker; an error comes as "NAME: text"."""
        text = self.get("/", expression.encode()).decode()
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text

    def ask_worker(self, number: int, expression: str) -> Any:
        """In that one, outside of a request."""
        found = self.ask(f"uwsgi.rpc('worker{number}', 'evaluate', {expression!r})")
        assert isinstance(found, bytes), found
        try:
            return ast.literal_eval(found.decode())
        except (ValueError, SyntaxError):
            return found.decode()

    def ask_all(self, expression: str) -> list[Any]:
        return [self.ask_worker(number, expression) for number in range(1, self.count + 1)]


@pytest.fixture(scope="package")
def server() -> Iterator[Asked]:
    with Asked(APPLICATION, "--uwsgi-cache", "default:64:1024", "--uwsgi-cache", "other:8:64", workers=3) as started:
        yield started
