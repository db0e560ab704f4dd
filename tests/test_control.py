"""control.py: finding a running master, and one conversation with it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from channels import control


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    control.make_directory(control.directory())
    yield control.directory()


NOBODY, STRANGER = 65534, 65533


@contextlib.contextmanager
def effective(uid: int) -> Iterator[None]:
    """As this user, for a while."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


class FakeMaster:
    """Answers each connection with these lines."""

    def __init__(self, path: Path, *answers: bytes) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.asked: list[bytes] = []
        self._answers = answers
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread too: one left in accept would go on with whichever socket gets the number next."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as file:
                line = file.readline()
                if line:
                    self.asked.append(line)
                    connection.sendall(b"".join(self._answers))


def test_the_directory_is_this_users_alone(place: Path) -> None:
    assert place.stat().st_mode & 0o777 == 0o700 and str(os.getuid()) in place.name
    control.make_directory(place)


def test_a_directory_that_others_may_write_is_not_trusted(place: Path) -> None:
    place.chmod(0o777)
    with pytest.raises(PermissionError, match="not a directory of this user's alone"):
        control.make_directory(place)


def test_a_link_in_its_place_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises((PermissionError, FileExistsError)):
        control.make_directory(tmp_path / "link")


def test_the_only_master_is_found_and_dead_ones_do_not_count(place: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(place / "1.sock"))
    dead.close()
    master = FakeMaster(place / "2.sock")
    assert control.find(None, None) == place / "2.sock"
    master.close()


def test_none_and_several_masters_are_told_with_what_to_do(place: Path) -> None:
    with pytest.raises(control.NoMaster, match=r"no running master of this user was found.*--control-socket PATH"):
        control.find(None, None)
    masters = [FakeMaster(place / f"{number}.sock") for number in (7, 8)]
    with pytest.raises(control.NoMaster, match=r"several masters are running \(7, 8\); say which: --pid NUMBER"):
        control.find(None, None)
    assert control.find(8, None) == place / "8.sock" and control.find(8, "/x") == Path("/x")
    for master in masters:
        master.close()


def test_nobody_is_looked_for_where_others_could_have_put_a_socket(place: Path) -> None:
    master = FakeMaster(place / "2.sock")
    place.chmod(0o755)
    for pid in (None, 2):
        with pytest.raises(control.NoMaster, match=r"not a directory of this user's alone; .*--control-socket PATH"):
            control.find(pid, None)
    assert control.find(None, str(place / "2.sock")) == place / "2.sock"
    master.close()


@pytest.mark.skipif(os.getuid() != 0, reason="needs a second user")
def test_nothing_is_told_to_a_stranger_who_listens() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        path = Path(directory, "2.sock")

        def talk(listener: int, client: int) -> tuple[str, int]:
            path.unlink(missing_ok=True)
            with effective(listener):
                master = FakeMaster(path, b"{}\n")
            path.chmod(0o777)
            try:
                with effective(client), control.Conversation(path, {"do": "send"}) as conversation:
                    return str(conversation.answer()), len(master.asked)
            except control.NoMaster as error:
                return str(error), len(master.asked)
            finally:
                master.close()

        for listener, client in ((0, 0), (0, NOBODY), (NOBODY, NOBODY), (NOBODY, 0)):
            assert talk(listener, client) == ("{}", 1)
        assert talk(STRANGER, NOBODY) == (f"whoever listens at {path} is neither this user nor root", 0)


def test_a_request_is_a_line_and_answers_are_lines(place: Path) -> None:
    master = FakeMaster(place / "2.sock", b'{"a": 1}\n', b'{"a": 2}\n')
    with control.Conversation(place / "2.sock", {"do": "ls"}, b"body") as conversation:
        assert [answer["a"] for answer in conversation.answers()] == [1, 2]
    assert json.loads(master.asked[0]) == {"do": "ls"}
    master.close()


def test_a_refusal_and_silence_are_errors(place: Path) -> None:
    master = FakeMaster(place / "2.sock", b'{"error": "no such thing"}\n')
    with control.Conversation(place / "2.sock", {}) as conversation, pytest.raises(control.Refused, match="no such"):
        conversation.answer()
    master.close()
    silent = FakeMaster(place / "3.sock")
    with control.Conversation(place / "3.sock", {}) as conversation, pytest.raises(control.Refused, match="without an"):
        conversation.answer()
    silent.close()


def test_a_master_that_is_not_there_is_told(place: Path) -> None:
    with pytest.raises(control.NoMaster, match=r"cannot talk to the master at .*: No such file"):
        control.Conversation(place / "9.sock", {})


def test_an_answer_that_is_no_json_is_refused_in_words(place: Path) -> None:
    master = FakeMaster(place / "2.sock", b"<html>\n")
    with control.Conversation(place / "2.sock", {}) as conversation, pytest.raises(control.Refused, match="nonsense"):
        conversation.answer()
    master.close()
