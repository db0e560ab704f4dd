"""A headless Chromium for tests; where there is none, they are skipped and say why."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

import pytest

DEADLINE = 30.0
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
)


class Browser:
    """One browser process with as many windows as are opened; a context manager."""

    def __init__(self, width: int = 1000, height: int = 720) -> None:
        webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        driver = shutil.which("chromedriver")
        if chromium is None or driver is None:
            pytest.skip("there is no chromium with its chromedriver")
        self._profile = tempfile.TemporaryDirectory(prefix="channels-browser-", ignore_cleanup_errors=True)
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for argument in (*QUIET, f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}"):
            options.add_argument(argument)
        service = webdriver.ChromeService(executable_path=driver)
        self.driver: Any = webdriver.Chrome(options=options, service=service)
        self.driver.set_page_load_timeout(DEADLINE)

    def open(self, url: str) -> str:
        """A new window there; its handle."""
        self.driver.switch_to.window(self.driver.window_handles[0])  # the last one looked at may be closed
        self.driver.switch_to.new_window("window")
        self.driver.get(url)
        return str(self.driver.current_window_handle)

    def window(self, handle: str) -> Any:
        """The driver, looking at that window."""
        self.driver.switch_to.window(handle)
        return self.driver

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        """What every element that matches says, in the order of the page."""
        script = "return [...document.querySelectorAll(arguments[0])].map(element => element.innerText)"
        return list(self.driver.execute_script(script, selector))

    def wait(self, condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
        """Until it is true; its value."""
        deadline = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            assert time.monotonic() < deadline, f"it never came true; the page said:\n{self.find('body').text}"
            time.sleep(0.02)

    def screenshot(self, name: str) -> None:
        """Kept where the environment's CHANNELS_SCREENSHOTS says, if it says so."""
        directory = os.environ.get("CHANNELS_SCREENSHOTS")
        if directory:
            Path(directory).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(directory, f"{name}.png")))

    def close(self) -> None:
        self.driver.quit()
        self._profile.cleanup()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
