from __future__ import annotations

import pytest

from channels.settings import make
from channels.web.uwsgi import state


def test_outside_of_a_server_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_state", None)
    with pytest.raises(OSError, match="channels MODULE:APP"):
        state.state()


def test_a_process_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_state", None)
    first = state.install(make([]))
    assert state.install(make([{"workers": 3}])) is first is state.state()
    assert first.peers() == [] and not first.say("asks reload")
    first.tell()  # nobody to tell yet


def test_texts_bytes_and_numbers_are_taken_as_uwsgi_takes_them() -> None:
    assert state.as_bytes("ä") == state.as_bytes(bytearray("ä".encode())) == "ä".encode()
    assert state.as_text(b"x") == state.as_text("x") == "x"
    assert state.as_number(255, 0, 255, "n") == 255
    for call, error in (
        (lambda: state.as_bytes(7), TypeError),
        (lambda: state.as_text(7), TypeError),
        (lambda: state.as_number("7", 0, 255, "n"), TypeError),
        (lambda: state.as_number(256, 0, 255, "n"), ValueError),
    ):
        with pytest.raises(error):
            call()
