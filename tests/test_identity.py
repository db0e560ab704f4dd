"""identity.py: user and group by name or number, and becoming them for good."""

from __future__ import annotations

import os

import pytest

from channels import identity
from channels.errors import BadSetting
from tests.children import in_child

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def test_names_and_numbers_are_understood() -> None:
    assert identity.user_id("root") == 0 and identity.user_id("1234") == 1234 and identity.user_id("") is None
    assert identity.group_id("root") == 0 and identity.group_id("1234") == 1234 and identity.group_id("") is None


@pytest.mark.parametrize("text", ["no-such-body", "-1", "1.5", "99999999999999"])
def test_nobody_is_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="there is no such user"):
        identity.user_id(text)
    with pytest.raises(BadSetting, match="there is no such group"):
        identity.group_id(text)


def test_files_are_given_to_those_who_are_named() -> None:
    assert identity.owner("", "") is None
    assert identity.owner("nobody", "") == (65534, -1) and identity.owner("", "12") == (-1, 12)


def who() -> tuple[tuple[int, ...], tuple[int, ...], list[int]]:
    return os.getresuid(), os.getresgid(), os.getgroups()


@as_root
def test_a_user_brings_its_group_and_leaves_no_way_back() -> None:
    def become() -> object:
        identity.drop_privileges("nobody", "")
        for call in (lambda: os.setuid(0), lambda: os.setgid(0)):
            with pytest.raises(PermissionError):
                call()
        return who()

    uids, gids, groups = in_child(become)
    assert set(uids) == {65534} and set(gids) == {65534} and 0 not in groups


@as_root
def test_a_group_alone_changes_the_group_and_its_list() -> None:
    def become() -> object:
        os.setgroups([0, 4])
        identity.drop_privileges("", "12")
        return who()

    uids, gids, groups = in_child(become)
    assert set(uids) == {0} and set(gids) == {12} and set(groups) <= {12}


@as_root
def test_a_number_without_a_name_keeps_no_groups_of_roots() -> None:
    def become() -> object:
        os.setgroups([0, 4])
        identity.drop_privileges("54321", "")
        return who()

    uids, _, groups = in_child(become)
    assert set(uids) == {54321} and 0 not in groups and 4 not in groups


@as_root
def test_root_with_another_group_keeps_no_groups_either() -> None:
    def become() -> object:
        os.setgroups([0, 4])
        identity.drop_privileges("root", "12")
        return who()

    _, gids, groups = in_child(become)
    assert set(gids) == {12} and 4 not in groups


def test_nothing_to_do_is_nothing_done() -> None:
    before = who()
    identity.drop_privileges("", "")
    identity.drop_privileges(str(os.geteuid()), "")
    assert who() == before


@as_root
def test_who_gave_up_root_cannot_look_into_another_of_the_same_user() -> None:
    def look() -> dict[str, str]:
        identity.drop_privileges("nobody", "")
        other = os.getppid()
        found = {}
        for name in ("fd", "mem", "maps"):
            try:
                os.listdir(f"/proc/{other}/fd") if name == "fd" else os.close(
                    os.open(f"/proc/{other}/{name}", os.O_RDONLY)
                )
                found[name] = "open"
            except OSError as error:
                found[name] = type(error).__name__
        return found

    def drop_and_be_looked_into() -> object:
        identity.drop_privileges("nobody", "")
        return in_child(look)

    with open("/proc/sys/fs/suid_dumpable") as file:
        if file.read().strip() == "1":
            pytest.skip("fs.suid_dumpable is 1 here")
    assert in_child(drop_and_be_looked_into) == dict.fromkeys(("fd", "mem", "maps"), "PermissionError")
