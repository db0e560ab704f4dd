"""Signed leave to subscribe: only what was signed, with this key, and not for ever."""

from __future__ import annotations

import pytest
from itsdangerous import URLSafeTimedSerializer

from channels.web.tokens import BadToken, Tokens


def test_channels_and_facts_come_back() -> None:
    tokens = Tokens("secret")
    token = tokens.sign("room:1", "news:*", prefixes=["user:7:"], facts={"user": 7})
    leave = tokens.check(token, 60)
    assert leave == (["room:1", "news:*"], ["user:7:"], {"user": 7})
    assert (leave.channels, leave.prefixes, leave.facts) == leave
    assert all(character.isalnum() or character in "-_." for character in token)


@pytest.mark.parametrize(
    "spoil", [lambda text: text[:-1], lambda text: "x" + text, lambda text: "", lambda text: "a.b.c"]
)
def test_a_changed_token_gives_no_leave(spoil: object) -> None:
    tokens = Tokens("secret")
    with pytest.raises(BadToken, match="not signed here"):
        tokens.check(spoil(tokens.sign("room:1")))  # type: ignore[operator]


def test_another_key_gives_no_leave_and_an_old_one_still_does() -> None:
    token = Tokens("old").sign("room:1")
    with pytest.raises(BadToken):
        Tokens("new").check(token)
    assert Tokens(["old", "new"]).check(token)[0] == ["room:1"]


def test_a_token_of_the_same_key_for_something_else_gives_no_leave() -> None:
    for salt in ("cookie-session", "itsdangerous", "itsdangerous.Signer"):
        other = URLSafeTimedSerializer("secret", salt=salt).dumps([["room:1"], [], None])
        with pytest.raises(BadToken, match="not signed here"):
            Tokens("secret").check(other)


def test_a_prefix_for_a_list_of_prefixes_is_refused() -> None:
    with pytest.raises(TypeError, match=r"prefixes=\('news:',\)"):
        Tokens("secret").sign(prefixes="news:")


def test_an_old_token_gives_no_leave() -> None:
    tokens = Tokens("secret")
    with pytest.raises(BadToken, match="too old"):
        tokens.check(tokens.sign("room:1"), -1)


def test_no_key_and_no_channel_are_refused() -> None:
    with pytest.raises(ValueError, match="SECRET_KEY"):
        Tokens("")
    with pytest.raises(ValueError, match="at least one"):
        Tokens("secret").sign()
