"""pidfile.py: whose pid stands there, under which name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from channels.errors import BadSetting
from channels.master.pidfile import PidFile


def test_it_holds_this_process_and_everyone_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    PidFile(str(path)).write()
    assert path.read_text() == f"{os.getpid()}\n" and path.stat().st_mode & 0o777 == 0o644
    PidFile(str(path)).write()  # again is nothing
    assert [entry.name for entry in tmp_path.iterdir()] == ["pid"]


@pytest.mark.parametrize("left", ["", "garbage", "0", "4194305", "-1", "99999999999999999999"])
def test_what_a_dead_or_mad_master_left_is_overwritten(tmp_path: Path, left: str) -> None:
    path = tmp_path / "pid"
    path.write_text(left)
    PidFile(str(path)).write()
    assert int(path.read_text()) == os.getpid()


def test_a_live_masters_file_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("1\n")
    with pytest.raises(BadSetting, match="process 1 is running already; stop it or remove the file"):
        PidFile(str(path)).write()
    assert path.read_text() == "1\n"


def test_it_steps_aside_and_back_and_goes_whichever_name_it_has(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    file = PidFile(str(path))
    file.write()
    file.step_aside()
    assert not path.exists() and (tmp_path / "pid.oldbin").exists()
    file.step_back()
    assert path.exists() and not (tmp_path / "pid.oldbin").exists()
    file.step_aside()
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_somebody_elses_file_is_neither_moved_nor_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("1\n")
    file = PidFile(str(path))
    file.step_aside()
    file.remove()
    assert path.read_text() == "1\n"


def test_a_new_masters_file_is_not_overwritten_by_the_old_one_stepping_back(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    file = PidFile(str(path))
    file.write()
    file.step_aside()
    path.write_text("1\n")
    file.remove()
    assert path.read_text() == "1\n" and not (tmp_path / "pid.oldbin").exists()


def test_nothing_is_written_through_a_link_that_lies_in_wait(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    victim.chmod(0o600)
    (tmp_path / f"pid.{os.getpid()}").symlink_to(victim)
    (tmp_path / "pid").symlink_to(victim)
    PidFile(str(tmp_path / "pid")).write()
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("precious", 0o600)
    assert not (tmp_path / "pid").is_symlink() and (tmp_path / "pid").read_text() == f"{os.getpid()}\n"


def test_a_pipe_in_its_place_is_replaced_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    PidFile(str(tmp_path / "pid")).write()
    assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    file = PidFile(str(tmp_path / "none" / "pid"))
    for attempt in (file.check, file.write):
        with pytest.raises(BadSetting, match="cannot be written: No such file or directory"):
            attempt()


def test_a_check_leaves_nothing_and_refuses_a_live_masters_file(tmp_path: Path) -> None:
    file = PidFile(str(tmp_path / "pid"))
    file.check()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "pid").write_text("1\n")
    with pytest.raises(BadSetting, match="process 1 is running already"):
        file.check()
    assert [entry.name for entry in tmp_path.iterdir()] == ["pid"]
