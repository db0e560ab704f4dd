"""Which worker a key belongs to: every worker decides alike, and none serves a key before another has finished with it.

Rendezvous hashing over the numbers 0 to workers - 1.  A worker and its successor have the same number, so that a reload
moves no key; a number that nobody has for a while is passed over until somebody has it again.  Pure.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any, Callable
from urllib.parse import parse_qsl

from channels.errors import BadSetting

ABSENT_AFTER = 3.0  # seconds without a worker, after which a number is passed over

KeyFunction = Callable[[dict[str, Any]], Any]


@dataclasses.dataclass(frozen=True)
class Place:
    """A live worker, as the segment shows it."""

    slot: int
    number: int
    since: int  # older ones have less
    ready: bool
    own: int  # requests it runs for its number's keys
    guest: int  # requests it runs for keys of numbers that nobody had


def ranked(key: bytes, numbers: int) -> list[int]:
    """Numbers in the order in which they are to have the key."""

    def score(number: int) -> bytes:
        return hashlib.blake2b(key, digest_size=8, salt=number.to_bytes(4, "little")).digest()

    return sorted(range(numbers), key=score, reverse=True)


def holder(number: int, places: Iterable[Place]) -> Place | None:
    """Who has this number: the oldest that is ready, else the youngest that drains."""
    mine = [place for place in places if place.number == number]
    ready = [place for place in mine if place.ready]
    if ready:
        return min(ready, key=lambda place: place.since)
    return max(mine, key=lambda place: place.since, default=None)


def may_serve(place: Place, number: int, places: Iterable[Place]) -> bool:
    """Whether nobody else can still be at work on keys of this number."""
    others = [other for other in places if other.slot != place.slot]
    if any(other.own for other in others if other.number == number):
        return False  # whom this one succeeds
    return number != place.number or not any(other.guest for other in others)


class Owners:
    """Follows who is there, for one worker.

    Args:
        numbers: The setting `workers`.
    """

    def __init__(self, numbers: int) -> None:
        self._numbers = numbers
        self._seen = dict.fromkeys(range(numbers), float("inf"))  # when each number was last had

    def owner(self, key: bytes, places: list[Place], now: float) -> tuple[int, Place | None]:
        """(number, who has it), or None as long as it is worth waiting for somebody.

        Args:
            now: Monotonic seconds.
        """
        there = {place.number for place in places}
        for number in self._seen:
            if number in there or self._seen[number] > now:
                self._seen[number] = now
        order = ranked(key, self._numbers)
        for number in order:
            if number in there or now - self._seen[number] < ABSENT_AFTER:
                return number, holder(number, places)
        return order[0], None


def parse(text: str, load: Callable[[str], Any]) -> KeyFunction:
    """The function that the setting `sticky` names.  Raises BadSetting.

    Args:
        load: Gives what MODULE:FUNCTION names.
    """
    kind, _, name = text.partition(":")
    if kind == "path" and name.isdigit():
        place = int(name)
        return lambda environ: _nth(environ["PATH_INFO"].split("/"), place)
    if kind == "header" and name:
        field = "HTTP_" + name.upper().replace("-", "_")
        return lambda environ: environ.get(field)
    if kind == "query" and name:
        return lambda environ: dict(parse_qsl(environ["QUERY_STRING"])).get(name)
    if kind == "cookie" and name:
        return lambda environ: _cookie(environ.get("HTTP_COOKIE", ""), name)
    if not kind or not name or kind in ("path", "header", "query", "cookie"):
        raise BadSetting("sticky", text, "is not path:N, query:NAME, header:NAME, cookie:NAME or MODULE:FUNCTION")
    found = load(text)
    return found  # type: ignore[no-any-return]


def _nth(parts: list[str], place: int) -> str | None:
    return parts[place] or None if 0 < place < len(parts) else None


def _cookie(text: str, name: str) -> str | None:
    try:
        found = SimpleCookie(text).get(name)
    except CookieError:
        return None
    return None if found is None else found.value
