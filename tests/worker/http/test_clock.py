"""What changes once a second."""

from __future__ import annotations

from channels.worker.http.clock import Clock


def test_the_date_is_as_http_writes_it() -> None:
    clock = Clock("me")
    clock.tick(784111777.9)
    assert clock.date == b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"  # RFC 9110, section 5.6.7
    assert clock.both == clock.date + b"Server: me\r\n"
    assert clock.logged.startswith("[0") and clock.logged.endswith("]")


def test_without_a_name_there_is_no_server_field() -> None:
    clock = Clock("")
    clock.tick(0)
    assert clock.both == clock.date


def test_within_a_second_nothing_is_made_anew() -> None:
    clock = Clock("me")
    clock.tick(5.1)
    before = clock.both
    clock.tick(5.9)
    assert clock.both is before
    clock.tick(6.0)
    assert clock.both != before
