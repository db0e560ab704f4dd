"""Files as answers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from tests.worker.http.running import Running, read_answer

DATA = bytes(range(256)) * 20_000


def serve(make: Any, headers: list[tuple[str, str]], method: str = "GET") -> Any:
    closed: list[bool] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", headers)
        file = make()
        close = file.close

        class Watched:
            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def close(self) -> None:
                closed.append(True)
                close()

        return environ["wsgi.file_wrapper"](Watched(), 8192)

    with Running(application) as server, server.connect() as client:
        answers = []
        for _ in range(2):
            client.sendall(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            answers.append(read_answer(client, method))
    assert closed == [True, True]
    assert answers[0].body == answers[1].body
    return answers[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "file"
    made.write_bytes(DATA)
    return made


def test_a_file_gets_its_length_and_comes_whole(path: Path) -> None:
    answer = serve(lambda: path.open("rb"), [])
    assert answer.body == DATA and answer.fields["content-length"] == str(len(DATA))


def test_a_file_starts_at_its_position(path: Path) -> None:
    def opened() -> Any:
        file = path.open("rb")
        file.seek(1000)
        return file

    assert serve(opened, []).body == DATA[1000:]


def test_no_more_than_announced_is_sent(path: Path) -> None:
    assert serve(lambda: path.open("rb"), [("Content-Length", "500")]).body == DATA[:500]


def test_head_of_a_file_sends_nothing_of_it(path: Path) -> None:
    answer = serve(lambda: path.open("rb"), [], "HEAD")
    assert answer.fields["content-length"] == str(len(DATA)) and answer.raw.endswith(b"\r\n\r\n")


def test_what_is_no_file_is_sent_in_blocks() -> None:
    answer = serve(lambda: io.BytesIO(DATA), [])
    assert answer.body == DATA and answer.fields["transfer-encoding"] == "chunked"


def test_an_empty_file_is_an_empty_answer(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert serve(lambda: (tmp_path / "empty").open("rb"), []).fields["content-length"] == "0"
