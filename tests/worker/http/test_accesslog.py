"""The access log of a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from channels.errors import BadSetting
from tests.worker.http.running import Running, hello, wait_until


def test_a_line_per_answer_and_per_refusal(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with Running(hello, accesslog=str(path)) as server:
        server.get("/a?b", "User-Agent: me")
        server.ask(b"nonsense\r\n\r\n")
        wait_until(lambda: path.read_text().count("\n") == 2)
    first, second = path.read_text().splitlines()
    assert first.startswith("127.0.0.1 - - [") and first.endswith('] "GET /a?b HTTP/1.1" 200 5 "-" "me"')
    assert ' 400 - "-" "-"' in second


def test_what_waits_is_written_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with Running(hello, accesslog=str(path), access_log_buffer=1000.0) as server:
        server.get()
        wait_until(lambda: server.server.stats.running == 0)
        assert path.read_text() == ""
    assert path.read_text().count("\n") == 1


def test_after_a_rotation_it_goes_on_in_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with Running(hello, accesslog=str(path)) as server:
        server.get("/one")
        wait_until(lambda: server.server.stats.running == 0)
        path.rename(tmp_path / "old")
        server.call(server.server.access_log.reopen)  # type: ignore[union-attr]
        server.get("/two")
        wait_until(lambda: path.exists() and "/two" in path.read_text())
    assert "/one" in (tmp_path / "old").read_text()


def test_a_bad_format_is_refused_before_anything_is_served() -> None:
    with pytest.raises(BadSetting), Running(hello, accesslog="-", access_log_format="%(zz)s"):
        pass
