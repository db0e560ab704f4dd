"""log.py: one format, one place, reopened on demand."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from channels import log as logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("channels")
    levels, handlers = (root.level, ours.level), list(root.handlers)
    yield
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
    logs._handler = None


def test_a_line_says_when_who_and_how_bad(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup("info", str(path))
    logs.log.info("worker=%d ready", 3)
    line = rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{{4}} \[{os.getpid()}\] \[INFO\] worker=3 ready\n"
    assert re.fullmatch(line, path.read_text())


def test_the_applications_own_warnings_come_too_and_its_chatter_does_not(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup("info", str(path))
    logging.getLogger("application").warning("careful")
    logging.getLogger("application").debug("chatter")
    assert "careful" in path.read_text() and "chatter" not in path.read_text()


def test_what_is_logged_cannot_pass_for_another_record_nor_move_a_cursor(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup("info", str(path))
    try:
        raise ValueError("x\n2026-01-01 00:00:00 +0000 [1] [ERROR] forged")
    except ValueError:
        logs.log.exception("GET /\x1b[2J\r\x9b1A\u2028 failed\n2026-01-01 00:00:00 +0000 [1] [INFO] forged")
    lines = path.read_text().split("\n")
    assert lines[0].endswith(r"GET /\x1b[2J\r\x9b1A\u2028 failed")
    assert all(line.startswith("  ") for line in lines[1:-1]) and lines[-1] == ""
    assert sum("forged" in line for line in lines) == 3  # the line of source as well


def test_a_rotated_file_is_left_and_a_new_one_begun(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup("info", str(path))
    logs.log.info("one")
    path.rename(tmp_path / "old")
    logs.log.info("two")
    logs.reopen()
    logs.log.info("three")
    assert "two" in (tmp_path / "old").read_text() and "three" in path.read_text() and "two" not in path.read_text()


def test_a_log_that_cannot_be_reopened_goes_on_in_the_old_file(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    logs.setup("info", str(place / "log"))
    place.rename(tmp_path / "moved")
    logs.reopen()
    logs.log.info("still here")
    text = (tmp_path / "moved" / "log").read_text()
    assert "cannot reopen the log" in text and "still here" in text


def test_a_second_setup_takes_the_place_of_the_first_and_closes_its_file(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for name in "abc":
        logs.setup("info", str(tmp_path / name))
    logs.log.info("once")
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert [(tmp_path / name).read_text().count("once") for name in "abc"] == [0, 0, 1]


def test_the_level_can_be_changed_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup("error", str(path))
    logs.log.info("quiet")
    logs.setup("debug", str(path))
    logs.log.debug("loud")
    logs.setup("error", str(path))
    logs.log.warning("quiet again")
    assert "loud" in path.read_text() and "quiet" not in path.read_text()


def test_no_descriptor_of_the_log_reaches_an_executed_program(tmp_path: Path) -> None:
    logs.setup("info", str(tmp_path / "log"))
    assert logs._handler is not None and not os.get_inheritable(logs._handler.stream.fileno())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_file_belongs_to_whom_it_is_given_also_after_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup("info", str(path), (65534, -1))
    assert path.stat().st_uid == 65534 and path.stat().st_gid == 0
    path.unlink()
    logs.reopen()
    assert path.stat().st_uid == 65534


def test_a_place_that_cannot_be_written_is_the_callers_to_tell(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        logs.setup("info", str(tmp_path / "none" / "log"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_root_follows_no_link_of_others_and_gives_away_no_file_of_its_own(tmp_path: Path) -> None:
    owner = (65534, 65534)
    precious = tmp_path / "precious"
    precious.write_text("x")
    link, twin = tmp_path / "link", tmp_path / "twin"
    link.symlink_to(precious)
    os.lchown(link, *owner)
    os.link(precious, twin)
    for path in (link, twin):
        with pytest.raises(PermissionError):
            logs.setup("info", str(path), owner)
    os.lchown(link, 0, 0)
    os.close(logs.open_log(str(link), owner))  # root's own link
    assert precious.stat().st_uid == 0 and precious.read_text() == "x"
    logs.setup("info", str(tmp_path / "log"), owner)
    assert (tmp_path / "log").stat().st_uid == owner[0]
    logs.reopen()
    os.close(logs.open_log("/dev/null", owner))
    assert os.stat("/dev/null").st_uid == 0
