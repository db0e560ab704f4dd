"""control_path.py: a socket of this user's alone, under one name at a time."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from channels.master.control_path import ControlPath
from tests.children import in_child


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def test_it_is_found_after_it_was_published_and_gone_after_the_end(tmp_path: Path) -> None:
    control = ControlPath(tmp_path / "control.sock")
    control.open()
    assert not control.path.exists()
    control.publish()
    assert connects(control.path) and stat.S_IMODE(control.path.stat().st_mode) == 0o600
    control.publish()  # again is nothing
    assert connects(control.path)
    control.close()
    assert list(tmp_path.iterdir()) == []


def test_two_masters_of_one_path_hand_it_to_and_fro(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    old = ControlPath(path)
    old.open()
    old.publish()

    def failed_upgrade() -> bool:
        new = ControlPath(path)
        new.open()
        new.publish()
        accepted = connects(path)
        return accepted  # and dies without a word

    assert in_child(failed_upgrade)
    assert not connects(path)
    old.publish()
    assert connects(path)
    old.close()


def test_the_end_of_an_old_master_leaves_the_new_ones_socket(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    old = ControlPath(path)
    old.open()
    old.publish()

    def upgrade() -> None:
        new = ControlPath(path)
        new.open()
        new.publish()

    in_child(upgrade)
    old.close()
    assert path.exists()


def test_a_place_that_cannot_be_had_is_a_warning_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    control = ControlPath(tmp_path / "none" / "control.sock")
    control.open()
    control.publish()
    control.close()
    assert control.listener is None and "no control socket at" in caplog.text


def test_sockets_of_masters_that_were_killed_are_tidied_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    place = tmp_path / f"channels-{os.getuid()}"
    place.mkdir(mode=0o700)
    for name in ("4194399.sock", "4194399.sock.4194399", "1.sock", "notes.sock"):
        (place / name).touch()
    control = ControlPath(place / f"{os.getpid()}.sock")
    control.open()
    assert sorted(path.name for path in place.iterdir()) == sorted(
        ["1.sock", "notes.sock", f"{os.getpid()}.sock.{os.getpid()}"]
    )
    control.close()
