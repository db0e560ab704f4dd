"""Whom this process runs as: user and group, and how it becomes them.  Runs in: any process."""

from __future__ import annotations

import grp
import os
import pwd

from channels.errors import BadSetting


def user_id(name: str) -> int | None:
    """Of a name or a number; None for "".  Raises BadSetting."""
    if not name:
        return None
    try:
        return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise BadSetting("user", name, "there is no such user") from None


def group_id(name: str) -> int | None:
    if not name:
        return None
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise BadSetting("group", name, "there is no such group") from None


def owner(user: str, group: str) -> tuple[int, int] | None:
    """Whom files are given to that those without privileges write later: (uid, gid), -1 for "as it is".

    None when the settings name nobody.  Raises BadSetting.
    """
    uid, gid = user_id(user), group_id(group)
    return None if uid is None and gid is None else (-1 if uid is None else uid, -1 if gid is None else gid)


def drop_privileges(user: str, group: str) -> None:
    """For good: group and its list first, the user last.  Raises BadSetting, OSError."""
    uid, gid = user_id(user), group_id(group)
    if uid is not None and gid is None:
        try:
            gid = pwd.getpwuid(uid).pw_gid
        except KeyError:
            gid = None
    if gid is not None and gid != os.getegid():
        os.setgid(gid)
    if uid is not None and uid != os.geteuid():
        if gid is not None:
            try:
                os.initgroups(pwd.getpwuid(uid).pw_name, gid)
            except KeyError:
                os.setgroups([gid])
        os.setuid(uid)
