"""A real browser without a window, for the tests of pages."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # in a container it is too small for a page, which then crashes
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
_PATIENCE_SECONDS = 600


class Browser:
    """Chromium, and the questions that tests ask of it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str, *, width: int = 1200, dark: bool = False) -> None:
        """Opens a page in a window of that width, in a light or dark system."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(url)

    def ask(self, expression: str) -> Any:
        """The value of an expression on the page."""
        return self.driver.execute_script(f"return {expression}")

    def wait(self, expression: str) -> None:
        """Waits until an expression holds on the page."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self.ask(expression):
            assert time.monotonic() < deadline, f"never came true: {expression}"
            time.sleep(0.05)

    def complaints(self) -> list[str]:
        """The messages that the page has logged since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    """Starts Chromium; skips the test, with the reason, where it is not installed."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("needs a browser: install chromium and chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=service.Service(chromedriver))
        driver.set_script_timeout(_PATIENCE_SECONDS)
        driver.set_page_load_timeout(_PATIENCE_SECONDS)
        try:
            yield Browser(driver)
        finally:
            driver.quit()
