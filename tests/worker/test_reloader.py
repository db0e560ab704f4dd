"""reloader.py: which places are watched, and what is told."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest

from tests.children import in_child


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (["/a", "/a/b", "/a/b/c"], ["/a"]),
        (["/a/b", "/a"], ["/a"]),
        (["/a", "/ab", "/b"], ["/a", "/ab", "/b"]),
        (["/", "/a"], ["/"]),
        ([], []),
    ],
)
def test_a_place_inside_of_another_is_watched_with_it(found: list[str], kept: list[str]) -> None:
    def outermost() -> list[str]:
        from channels.worker import reloader

        return reloader.outermost(found)

    assert in_child(outermost) == kept


def test_the_interpreters_own_places_are_not_watched_and_the_applications_are(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()

    def places() -> list[str]:
        from channels.worker import reloader

        module = types.ModuleType("somewhere")
        module.__file__ = str(tmp_path / "lib" / "somewhere.py")
        sys.modules["somewhere"] = module
        return reloader.places()

    found = in_child(places)
    assert str(tmp_path / "lib") in found
    assert not [place for place in found if place.startswith(os.path.dirname(pytest.__file__))]


def test_a_change_is_told_once_with_its_file(tmp_path: Path) -> None:
    def told() -> list[str]:
        import gevent
        from gevent.event import AsyncResult

        from channels.worker import reloader

        os.chdir(tmp_path)
        sys.modules.pop("tests", None)
        outcome: AsyncResult[str] = AsyncResult()
        reloader.places = lambda: [str(tmp_path)]  # type: ignore[assignment]
        reloader.start(outcome.set)
        writer = gevent.spawn(write_until, outcome)
        path = outcome.get(timeout=30)
        writer.kill()
        return [path]

    def write_until(outcome: object) -> None:
        import gevent

        count = 0
        while True:  # the watching begins some time after start()
            count += 1
            (tmp_path / "module.py").write_text(f"n = {count}\n")
            (tmp_path / "notes.txt").write_text("not a source")
            gevent.sleep(0.2)

    assert in_child(told) == [str(tmp_path / "module.py")]
