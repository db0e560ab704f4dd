"""What is asked for by name: channels, and prefixes with which every channel that begins so is meant.

Runs in: worker.
"""

from __future__ import annotations

from collections.abc import Iterable

from channels.errors import BadChannelName


def text_of(name: str | bytes) -> str:
    """A name or prefix as text; what else has to be true of it is checked without its `*`."""
    if isinstance(name, bytes):
        try:
            return name.decode()
        except UnicodeDecodeError:
            raise BadChannelName(name, "is not UTF-8") from None
    if not isinstance(name, str):
        raise TypeError(f"a channel's name is str or UTF-8 bytes, not {type(name).__name__}")
    return name


def sort_out(names: Iterable[str | bytes], prefixes: Iterable[str | bytes] | None) -> list[tuple[str, bool]]:
    """(text, whether it is a prefix) of each: with `prefixes`, even none, a trailing `*` is a name's own."""
    given = [text_of(name) for name in names]
    if prefixes is None:
        return [(name[:-1], True) if name[-1:] == "*" else (name, False) for name in given]
    return [(name, False) for name in given] + [(prefix, True) for prefix in literal_prefixes(prefixes)]


def literal_prefixes(prefixes: Iterable[str | bytes]) -> list[str]:
    """As text.  Raises TypeError for a single string, which would be as many prefixes as it has letters."""
    if isinstance(prefixes, (str, bytes)):
        raise TypeError(f"prefixes are given as a tuple, as in prefixes=({prefixes!r},)")
    return [text_of(prefix) for prefix in prefixes]
