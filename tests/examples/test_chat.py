"""The chat on a real server, seen by real browsers."""

from __future__ import annotations

import json
import os
import signal
import time
import types
from urllib.error import HTTPError

import gevent
import pytest

from examples.chat import History
from tests.browser import Browser
from tests.server import DEADLINE, Server

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def server():
    with Server("examples.chat:app", workers=3) as running:
        yield running


class Window:
    """One visitor."""

    def __init__(self, browser: Browser, url: str, name: str) -> None:
        self.browser, self.name = browser, name
        self.handle = browser.open(f"{url}?name={name}")
        self.wait_connected()

    def look(self) -> Browser:
        self.browser.window(self.handle)
        return self.browser

    def wait_connected(self, without: int | None = None) -> int:
        """The process id of the worker that serves this window."""

        def pid() -> int | None:
            words = self.look().texts("#worker b")[0].split()
            return int(words[-1]) if words[0] == "worker" and int(words[-1]) != without else None

        return self.browser.wait(pid)

    def say(self, text: str) -> None:
        self.look().find("#text").send_keys(text + "\n")

    def said(self) -> list[str]:
        """What stands on the page, without what has not come back from the server yet."""
        return self.look().texts(".message:not(.waiting) .text")

    def senders(self) -> list[str]:
        """For each of `said`, the worker that it was sent by."""
        script = "return [...document.querySelectorAll('.message:not(.waiting) .by')].map(by => by.textContent)"
        return [text.split("by ")[1] for text in self.look().driver.execute_script(script)]

    def notes(self) -> list[str]:
        return self.look().texts(".note")

    def wait_said(self, *texts: str) -> None:
        try:
            self.browser.wait(lambda: self.said() == list(texts))
        except AssertionError:
            assert self.said() == list(texts)
            raise


def on_another_worker(browser: Browser, server: Server, name: str, pid: int) -> Window:
    """A window that another worker serves: who accepts a connection is the kernel's choice."""
    for _ in range(20):
        window = Window(browser, server.url + "/rooms/lobby/", name)
        if window.wait_connected() != pid:
            return window
        window.look().driver.close()
    raise AssertionError("one worker accepts everything")


def test_two_windows_on_different_workers_talk_and_a_killed_worker_disturbs_nobody(server):
    with Browser() as browser:
        ada = Window(browser, server.url + "/rooms/lobby/", "Ada")
        ada_pid = ada.wait_connected()
        grace = on_another_worker(browser, server, "Grace", ada_pid)
        grace_pid = grace.wait_connected()
        ada.say("Is this thing on?")
        grace.wait_said("Is this thing on?")
        grace.say("Loud and clear, from another process.")
        ada.wait_said("Is this thing on?", "Loud and clear, from another process.")
        browser.wait(lambda: sorted(ada.look().texts("#people li")) == ["Ada", "Grace"])
        ada.look().screenshot("chat-1-two-workers")

        ada.look().find("#kill").click()
        server.wait_log(rf"pid={ada_pid} died")
        new_pid = ada.wait_connected(without=ada_pid)
        assert new_pid != ada_pid
        grace.say("Are you still there?")
        ada.wait_said("Is this thing on?", "Loud and clear, from another process.", "Are you still there?")
        ada.say("Never been away.")
        grace.wait_said(
            "Is this thing on?", "Loud and clear, from another process.", "Are you still there?", "Never been away."
        )
        assert any("Ada killed worker" in note for note in grace.notes())
        assert any("serves you now" in note for note in ada.notes())
        assert grace.wait_connected() == grace_pid
        assert not any("serves you now" in note for note in grace.notes()), "her worker was not touched"
        ada.look().screenshot("chat-2-after-the-kill")
        grace.look().screenshot("chat-3-the-other-window")


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGHUP])
def test_a_new_master_or_new_workers_come_in_the_middle_and_nobody_misses_a_word(server, number):
    with Browser() as browser:
        ada = Window(browser, server.url + "/rooms/lobby/", "Ada")
        grace = on_another_worker(browser, server, "Grace", ada.wait_connected())
        old = set(server.workers.values())
        said = {"Ada": [], "Grace": []}

        def talk():
            for window in (ada, grace):
                said[window.name].append(f"{window.name} {len(said[window.name])}")
                window.say(said[window.name][-1])

        def moved(window):
            who = window.look().texts("#worker b")[0].split()[-1]
            return who.isdigit() and int(who) not in old

        for _ in range(3):
            talk()
        server.send_signal(number)
        deadline = time.monotonic() + DEADLINE
        while not (moved(ada) and moved(grace)):
            assert time.monotonic() < deadline, server.log
            talk()
        for _ in range(3):
            talk()
        everything = sorted(said["Ada"] + said["Grace"])
        for window in (ada, grace):
            browser.wait(lambda window=window: len(window.said()) >= len(everything))
            seen = window.said()
            assert sorted(seen) == everything
            senders = window.senders()
            for name, texts in said.items():
                for worker in set(senders):  # the sender of a message, to the fabric, is the worker that was asked
                    theirs = [text for text, by in zip(seen, senders) if by == worker and text.startswith(f"{name} ")]
                    assert theirs == sorted(theirs, key=texts.index), f"{window.name} sees {name} by {worker}"
            assert any("serves you now" in note for note in window.notes())


def test_it_fits_a_phone(server):
    with Browser(390, 844) as browser:
        window = Window(browser, server.url + "/rooms/lobby/", "Radia")
        driver = window.look().driver
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True},
        )
        window.say("One line.")
        window.say("And a longer one, with aVeryLongWordThatHasNoPlaceToBreakButMustNotMakeThePageWiderThanThePhone.")
        browser.wait(lambda: len(window.said()) == 2)
        assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        window.look().screenshot("chat-4-phone")


def test_what_is_said_is_text_and_never_markup(server):
    with Browser() as browser:
        window = Window(browser, server.url + "/rooms/lobby/", "Mallory")
        window.say("<img src=x onerror=\"document.title='broken'\"><b>bold</b>")
        window.wait_said("<img src=x onerror=\"document.title='broken'\"><b>bold</b>")
        assert window.look().driver.title == "lobby · chat"


def test_a_visitor_who_comes_later_or_to_a_new_worker_sees_what_was_said(server):
    def say(number: int) -> None:
        said = {"id": f"{number:032x}", "name": "Ken", "text": f"line {number}"}
        server.get("/rooms/music/messages", json.dumps(said).encode(), JSON)

    for number in range(3):
        say(number)
    before = set(server.workers.values())
    for pid in sorted(before):  # one after the other: the new ones ask those that are left
        os.kill(pid, signal.SIGKILL)
        server.wait_ready(3, without={pid})
        server.wait(lambda: len(people(server)) == 3)
    assert not before & set(server.workers.values())
    with Browser() as browser:
        window = Window(browser, server.url + "/rooms/music/", "Late")
        window.wait_said("line 0", "line 1", "line 2")


@pytest.mark.parametrize("answers", [[["c"], ["a", "b"]], [["b"], ["a"], ["c"]], [["a", "b", "c"], ["b"]]])
def test_what_workers_remember_is_put_together_in_the_order_of_the_channel(answers):
    """Whichever answers first, and however much each has heard."""
    places = {"a": [1.0, 7], "b": [1.0, 8], "c": [2.0, 1]}
    history = History()
    for answer in answers:
        history.adopt({"music": [[letter * 32, [places[letter], letter]] for letter in answer]})
    history.subscription = types.SimpleNamespace(drain=list)
    assert [body for _, body in history.since("music", "")] == ["a", "b", "c"]


def test_an_answer_has_what_was_said_before_the_question_though_an_alert_overtakes_messages():
    def message(number, room, **said):
        return types.SimpleNamespace(channel=f"chat:{room}", time=1.0, id=f"e-{number}", data=json.dumps(said).encode())

    history = History()
    answer = gevent.spawn(history.answer, b"who?")
    gevent.sleep(0)
    assert not answer.ready()
    history.add(message(1, "music", kind="message", id="a" * 32))
    history.add(message(1, "", kind="question", id="who?"))
    assert [said[0] for said in json.loads(answer.get(timeout=DEADLINE))["music"]] == ["a" * 32]


def people(server: Server) -> dict[str, list[str]]:
    return json.loads(server.get("/rooms/music/people"))


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/rooms/lobby/messages", {"id": "1", "name": "x", "text": "y"}, 400),
        ("/rooms/lobby/messages", {"id": "0" * 32, "name": "x", "text": ""}, 400),
        ("/rooms/lobby/messages", {"id": "0" * 32, "name": "x", "text": "y" * 2001}, 400),
        ("/rooms/lobby/messages", {"id": "0" * 32, "name": 7, "text": "y"}, 400),
        ("/rooms/a%20b/messages", {"id": "0" * 32, "name": "x", "text": "y"}, 404),
        ("/rooms/lobby/kill", {"name": "x", "pid": 1}, 404),
        ("/rooms/lobby/kill", {"name": "x"}, 404),
        ("/rooms/lobby/kill", [], 400),
    ],
)
def test_bad_input_is_refused_in_words(server, path, body, status):
    with pytest.raises(HTTPError) as refused:
        server.get(path, json.dumps(body).encode(), JSON)
    assert refused.value.code == status
    assert b"Traceback" not in refused.value.read()
