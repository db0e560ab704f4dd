"""Signed leave to subscribe: a view that knows its user signs channel names, another that knows nobody trusts them.

Runs anywhere.  Needs `itsdangerous`, which Flask brings along.
"""

from __future__ import annotations

from typing import Any

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


class Tokens:
    """Makes and checks them with a secret key."""

    def __init__(self, key: str | bytes | list[str]) -> None:
        if not key:
            raise ValueError("signing needs a secret key; set SECRET_KEY")
        self._serializer = URLSafeTimedSerializer(key, salt=SALT)

    def sign(self, *channels: str, facts: Any = None) -> str:
        """A token for these channels and prefixes, fit for a URL.  `facts`: JSON for whoever checks it."""
        if not channels:
            raise ValueError("a token needs at least one channel")
        return str(self._serializer.dumps([list(channels), facts]))

    def check(self, token: str, max_age: float | None = None) -> tuple[list[str], Any]:
        """(channels, facts) of a token at most `max_age` seconds old.  Raises BadToken."""
        try:
            channels, facts = self._serializer.loads(token, max_age=None if max_age is None else int(max_age))
        except SignatureExpired:
            raise BadToken("it is too old") from None
        except (BadSignature, ValueError, TypeError):
            raise BadToken("it was not signed here") from None
        return list(channels), facts
