"""Who owns a key: decided alike everywhere, and moved only when it must."""

from __future__ import annotations

import pytest

from channels.errors import BadSetting
from channels.worker.keys import ABSENT_AFTER, Owners, Place, holder, may_serve, parse, ranked

KEYS = [b"key-%d" % number for number in range(2000)]


def place(slot: int, number: int, since: int = 0, ready: bool = True, own: int = 0, guest: int = 0) -> Place:
    return Place(slot, number, since, ready, own, guest)


def test_keys_are_spread_evenly() -> None:
    counts = [0] * 4
    for key in KEYS:
        counts[ranked(key, 4)[0]] += 1
    assert max(counts) < 1.2 * min(counts)


def test_one_more_number_moves_keys_to_itself_only() -> None:
    for key in KEYS:
        before, after = ranked(key, 4)[0], ranked(key, 5)[0]
        assert after in (before, 4)


def test_the_older_of_two_that_are_ready_keeps_the_number_until_it_drains() -> None:
    old, new = place(1, 0, since=1), place(2, 0, since=2)
    assert holder(0, [new, old]) == old
    draining = place(1, 0, since=1, ready=False)
    assert holder(0, [new, draining]) == new
    assert holder(0, [draining]) == draining
    assert holder(1, [old]) is None


def test_a_successor_waits_until_the_predecessor_has_finished() -> None:
    new = place(2, 0, since=2)
    assert not may_serve(new, 0, [new, place(1, 0, ready=False, own=1)])
    assert may_serve(new, 0, [new, place(1, 0, ready=False, own=0)])
    assert may_serve(new, 0, [new, place(3, 1, own=5)]), "others may work on keys of their own"


def test_who_comes_back_waits_until_its_guests_elsewhere_have_finished() -> None:
    back = place(1, 0)
    assert not may_serve(back, 0, [back, place(2, 1, guest=1)])
    assert may_serve(back, 0, [back, place(2, 1, guest=0)])
    host = place(2, 1, guest=3)
    assert may_serve(host, 0, [host]), "a host goes on with what are its guests"


def test_a_number_that_nobody_has_for_a_moment_is_waited_for_and_then_passed_over() -> None:
    owners = Owners(3)
    everyone = [place(slot + 1, slot) for slot in range(3)]
    key = b"some"
    first, second = ranked(key, 3)[:2]
    assert owners.owner(key, everyone, 0.0) == (first, everyone[first])
    rest = [one for one in everyone if one.number != first]
    assert owners.owner(key, rest, 1.0) == (first, None)
    assert owners.owner(key, rest, 1.0 + ABSENT_AFTER) == (second, everyone[second])
    assert owners.owner(key, everyone, 20.0) == (first, everyone[first]), "and had again at once"


def test_with_nobody_there_it_is_worth_waiting() -> None:
    owners = Owners(2)
    assert owners.owner(b"a", [], 0.0)[1] is None
    assert owners.owner(b"a", [], 100.0)[1] is None


def test_parts_of_a_request_that_can_be_the_key() -> None:
    environ = {
        "PATH_INFO": "/rooms/lobby/send",
        "QUERY_STRING": "a=b&user=me",
        "HTTP_X_USER": "you",
        "HTTP_COOKIE": "sid=abc; other=d",
    }

    def key(text: str) -> object:
        return parse(text, lambda name: None)(environ)

    assert key("path:1") == "rooms" and key("path:2") == "lobby" and key("path:9") is None
    assert key("query:user") == "me" and key("query:none") is None
    assert key("header:X-User") == "you" and key("header:X-None") is None
    assert key("cookie:sid") == "abc" and key("cookie:none") is None


def test_a_function_of_the_application_can_be_the_key() -> None:
    def user(environ: dict[str, object]) -> str:
        return "mine"

    assert parse("module:user", {"module:user": user}.__getitem__)({}) == "mine"


@pytest.mark.parametrize("text", ["path", "path:x", "path:", "header:", "cookie", "nothing", "a:"])
def test_what_names_no_key_is_a_clear_error(text: str) -> None:
    with pytest.raises(BadSetting, match="path:N"):
        parse(text, lambda name: None)


def test_broken_cookies_are_no_key() -> None:
    assert parse("cookie:a", lambda name: None)({"HTTP_COOKIE": '\0;="'}) is None
