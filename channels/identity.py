"""Whom this process runs as: user and group, and how it becomes them.  Runs in: any process."""

from __future__ import annotations

import grp
import os
import pwd

from channels.errors import BadSetting

NUMBER_MAX = 2**32 - 2  # (uid_t)-1 means "as it is" to the kernel


def user_id(name: str) -> int | None:
    """Of a name or a number; None for "".  Raises BadSetting."""
    try:
        return _number(name) if name[:1].isdigit() else pwd.getpwnam(name).pw_uid if name else None
    except (KeyError, ValueError):
        raise BadSetting("user", name, "there is no such user") from None


def group_id(name: str) -> int | None:
    try:
        return _number(name) if name[:1].isdigit() else grp.getgrnam(name).gr_gid if name else None
    except (KeyError, ValueError):
        raise BadSetting("group", name, "there is no such group") from None


def _number(text: str) -> int:
    number = int(text)
    if number > NUMBER_MAX:
        raise ValueError
    return number


def owner(user: str, group: str) -> tuple[int, int] | None:
    """Whom files are given to that those without privileges write later: (uid, gid), -1 for "as it is".

    None when the settings name nobody.  Raises BadSetting.
    """
    uid, gid = user_id(user), group_id(group)
    return None if uid is None and gid is None else (-1 if uid is None else uid, -1 if gid is None else gid)


def drop_privileges(user: str, group: str) -> None:
    """For good: the groups first, the user last.  Raises BadSetting, OSError.

    A user without `group` brings its own, one that is a mere number the group of the same number.  Of the groups that
    this process was in none is left.
    """
    uid, gid = user_id(user), group_id(group)
    if (uid in (None, os.geteuid())) and (gid in (None, os.getegid())) and (os.geteuid() != 0 or not (uid or gid)):
        return  # nothing to drop
    entry = None
    if uid is not None:
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            entry = None  # a number of nobody's
    if gid is None:
        gid = uid if entry is None else entry.pw_gid
    assert gid is not None
    os.setgid(gid)
    if entry is not None and uid != 0:
        os.initgroups(entry.pw_name, gid)
    else:
        os.setgroups([gid])
    if uid is not None:
        os.setuid(uid)
