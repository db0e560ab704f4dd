"""The web face's examples on a real server, seen by a real browser."""

from __future__ import annotations

import os
import signal

import pytest

from tests.browser import Browser
from tests.server import Server


@pytest.fixture
def browser():
    with Browser() as made:
        yield made


def connected(browser: Browser) -> bool:
    return browser.driver.execute_script(
        "return [...document.querySelectorAll('.badge')].every(badge => badge.dataset.state === 'open')"
    )


def test_what_is_said_through_either_door_comes_out_of_both_in_one_order(browser: Browser) -> None:
    with Server("examples.rooms:app", workers=3) as server:
        windows = [browser.open(server.url + "/lobby") for _ in range(2)]
        for window in windows:
            browser.window(window)
            browser.wait(lambda: connected(browser))
        for number in range(6):
            browser.window(windows[number % 2])
            door = "events" if number % 3 else "socket"
            browser.find(f"#{door} input").send_keys(f"message {number}\n")
            for window in windows:
                browser.window(window)
                for pane in ("events", "socket"):
                    browser.wait(lambda pane=pane, number=number: len(browser.texts(f"#{pane} li")) == number + 1)
        told = set()
        for window in windows:
            browser.window(window)
            for pane in ("events", "socket"):
                told.add(tuple(text.split("\n")[0] for text in browser.texts(f"#{pane} li")))
        assert told == {tuple(f"message {number}" for number in range(6))}
        browser.screenshot("rooms")
        old = set(server.workers.values())
        server.send_signal(signal.SIGHUP)
        server.wait_ready(3, without=old)
        browser.wait(lambda: connected(browser))
        browser.find("#socket input").send_keys("after the reload\n")
        for pane in ("events", "socket"):
            browser.wait(lambda pane=pane: "after the reload" in " ".join(browser.texts(f"#{pane} li")))


def test_a_job_s_progress_is_seen_from_every_window_and_by_those_who_come_later(browser: Browser) -> None:
    with Server("examples.progress:app", workers=3) as server:
        first = browser.open(server.url + "/")
        browser.wait(lambda: connected(browser))
        for _ in range(3):
            browser.find("#start").click()
        browser.wait(lambda: len(browser.texts(".job")) == 3)
        second = browser.open(server.url + "/")
        browser.wait(lambda: connected(browser))
        browser.wait(lambda: len(browser.texts(".job")) == 3)
        browser.screenshot("progress")
        for window in (first, second):
            browser.window(window)
            browser.wait(lambda: browser.texts(".percent") == ["100 %"] * 3)
        browser.open(server.url + "/")
        browser.wait(lambda: browser.texts(".percent") == ["100 %"] * 3)


def test_the_dashboard_shows_the_workers_and_goes_on_when_the_one_that_speaks_dies(browser: Browser) -> None:
    with Server("examples.dashboard:app", workers=3) as server:
        browser.open(server.url + "/")
        browser.wait(lambda: connected(browser))
        browser.wait(lambda: len(browser.texts("#workers tr")) == 3)
        browser.find("#load").click()
        browser.wait(lambda: int(browser.texts("#in strong")[0].replace(",", "")) > 100)
        browser.wait(lambda: browser.texts("#streams strong") != ["0"])
        browser.screenshot("dashboard")
        lowest = min(server.workers)
        dead = server.workers[lowest]
        os.kill(dead, signal.SIGKILL)
        browser.wait(lambda: str(dead) not in " ".join(browser.texts("#workers tr")) and connected(browser))
        browser.wait(lambda: len(browser.texts("#workers tr")) == 3)


def test_cursors_move_in_every_window_and_leave_with_their_owner(browser: Browser) -> None:
    with Server("examples.cursors:app", workers=3) as server:
        windows = [browser.open(server.url + "/") for _ in range(3)]
        move = """
            const box = field.getBoundingClientRect()
            field.dispatchEvent(new PointerEvent('pointermove',
              {clientX: box.left + box.width * arguments[0], clientY: box.top + box.height * arguments[1]}))
        """
        for number, window in enumerate(windows):
            browser.window(window)
            browser.wait(lambda: connected(browser))
            browser.driver.execute_script(move, 0.2 + 0.25 * number, 0.3 + 0.15 * number)
            browser.wait(lambda number=number: len(browser.texts(".cursor")) >= 1)
        for window in windows:
            browser.window(window)
            browser.driver.execute_script(move, 0.2 + 0.25 * windows.index(window), 0.31 + 0.15 * windows.index(window))
        for window in windows:
            browser.window(window)
            browser.wait(lambda: len(browser.texts(".cursor")) == 3)
        browser.screenshot("cursors")
        browser.window(windows[2])
        browser.driver.close()
        browser.window(windows[0])
        browser.wait(lambda: len(browser.texts(".cursor")) == 2)
