"""Signed leave to subscribe: one view knows its user and signs channels' names, another knows nobody and trusts them.

Runs anywhere.  Needs `itsdangerous`, which Flask brings along.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer

from channels.errors import ChannelsError

SALT = "channels.subscribe"


class BadToken(ChannelsError, PermissionError):
    """A token that was not signed with this key, was changed, or is too old."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"this token gives no leave to subscribe: {self.reason}"


class Leave(NamedTuple):
    """What a token says."""

    channels: list[str]
    prefixes: list[str]
    facts: Any


class Tokens:
    """Makes and checks them with a secret key."""

    def __init__(self, key: str | bytes | list[str]) -> None:
        if not key:
            raise ValueError("signing needs a secret key; set SECRET_KEY")
        self._serializer = URLSafeTimedSerializer(key, salt=SALT)

    def sign(self, *channels: str, prefixes: Iterable[str] = (), facts: Any = None) -> str:
        """A token fit for a URL.

        Args:
            channels: Names, taken literally.
            prefixes: Every channel whose name begins with one of these.
            facts: JSON for whoever checks it; anybody can read it.
        """
        if isinstance(prefixes, str):
            raise TypeError(f"prefixes are given as a tuple, as in prefixes=({prefixes!r},)")
        leave = Leave(list(channels), list(prefixes), facts)
        if not leave.channels and not leave.prefixes:
            raise ValueError("a token needs at least one channel or prefix")
        return str(self._serializer.dumps(leave))

    def check(self, token: str, max_age: float | None = None) -> Leave:
        """What a token at most `max_age` seconds old gives leave for.  Raises BadToken."""
        try:
            channels, prefixes, facts = self._serializer.loads(token, max_age=None if max_age is None else int(max_age))
        except SignatureExpired:
            raise BadToken("it is too old") from None
        except (BadSignature, ValueError, TypeError):
            raise BadToken("it was not signed here") from None
        return Leave(list(channels), list(prefixes), facts)
