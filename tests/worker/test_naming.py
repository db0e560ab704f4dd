"""naming.py: what is a name and what is a prefix."""

from __future__ import annotations

import pytest

from channels.errors import BadChannelName
from channels.worker import naming


def test_without_prefixes_a_trailing_star_makes_one_and_with_them_it_does_not() -> None:
    assert naming.sort_out(["a", b"b*", "*"], None) == [("a", False), ("b", True), ("", True)]
    assert naming.sort_out(["a", b"b*", "*"], ()) == [("a", False), ("b*", False), ("*", False)]
    assert naming.sort_out(["a*"], ["b", b"c*"]) == [("a*", False), ("b", True), ("c*", True)]


@pytest.mark.parametrize("prefixes", ["news:", b"news:"])
def test_a_string_for_a_list_of_prefixes_is_refused(prefixes: object) -> None:
    with pytest.raises(TypeError, match=r"prefixes=\(b?'news:',\)"):
        naming.literal_prefixes(prefixes)  # type: ignore[arg-type]


def test_bytes_are_utf8_and_nothing_else_is_a_name() -> None:
    assert naming.text_of("ä".encode()) == "ä"
    with pytest.raises(BadChannelName, match="is not UTF-8"):
        naming.text_of(b"\xff")
    with pytest.raises(TypeError, match="not int"):
        naming.text_of(7)  # type: ignore[arg-type]
