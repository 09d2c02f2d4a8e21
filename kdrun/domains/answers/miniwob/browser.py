"""MiniWoB++ pages in headless Chromium, through Selenium. The pages lie in the package miniwob (MIT)."""

from __future__ import annotations

import atexit
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdrun.optional import needed
from kdrun.problems import UserError, closest, listed

WIDTH, HEIGHT = 160, 210
"""Of a page, in pixels."""
BINARIES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT = 20
"""Seconds after which a page, or a script on it, has failed."""
DRIVES = "data=miniwob drives a browser"
SCRIPTS = Path(__file__).with_name("page.js")
READY = "return document.getElementById('click-canvas') !== null;"
"""What pages make in their own load handler, which a driver may be ahead of."""
RESET = "core.endEpisode(0); Math.seedrandom(arguments[0]); core.startEpisodeReal();"


def pages_folder() -> Path:
    """The folder with the pages. UserError where the package is not installed."""
    spec = find_spec("miniwob")
    if spec is None or spec.origin is None:
        raise UserError("data=miniwob needs the pages of the package miniwob: pip install miniwob selenium")
    return Path(spec.origin).parent / "html" / "miniwob"


def binaries() -> tuple[str, str]:
    """(path of the browser, path of its driver): $MINIWOB_CHROME_BINARY and $MINIWOB_CHROMEDRIVER, else those in the path. UserError where
    one is absent."""
    browser = os.environ.get("MINIWOB_CHROME_BINARY") or next(filter(None, map(shutil.which, BINARIES)), None)
    driver = os.environ.get("MINIWOB_CHROMEDRIVER") or shutil.which("chromedriver")
    absent = [
        name for name, path in (("chromium", browser), ("chromedriver", driver)) if not path or not Path(path).exists()
    ]
    if absent or browser is None or driver is None:
        raise UserError(
            f"data=miniwob needs a browser with its driver; not here: {' and '.join(absent)}",
            "Debian: apt install chromium chromium-driver; elsewhere: MINIWOB_CHROME_BINARY and MINIWOB_CHROMEDRIVER say where they are",
            "pages that were prepared elsewhere need none: copy its cache, and data.executed=false",
        )
    return browser, driver


def check_here(executed: bool) -> None:
    """Raises UserError where the pages are not installed, or, executed, what carries out actions on them. Imports nothing."""
    pages_folder()
    if executed:
        binaries()
        if find_spec("selenium") is None:
            raise UserError(f"{DRIVES}: pip install selenium")


def check_tasks(key: str, names: Any) -> None:
    """Raises UserError for a task that the package has no page of."""
    known = {path.stem for path in pages_folder().glob("*.html")}
    for name in names:
        if name not in known:
            raise UserError(
                f"{key}: MiniWoB++ has no page {name!r}{closest(name, known)}", f"as: {listed(sorted(known), 8)}"
            )


class Lost(Exception):
    """The browser did not do what it was told: it has ended, its page failed, or took too long."""


class Browser:
    """One browser with one page at a time, started when it is first asked for, and again in a forked process.

    A page is (task, seed): the same of both is the same page, each time it is opened. What the driver refuses is Lost.
    """

    def __init__(self) -> None:
        self._driver: Any = None
        self._process, self._task = 0, ""

    def open(self, task: str, seed: str) -> str:
        """A fresh copy of a page. Returns its utterance."""
        with self._driven() as driver:
            if task != self._task:
                from selenium.webdriver.support.wait import WebDriverWait

                driver.get(f"file://{pages_folder() / task}.html")
                WebDriverWait(driver, TIMEOUT, 0.02).until(lambda one: one.execute_script(READY))
                self._task = task
            driver.execute_script(RESET, seed)
            return driver.execute_script("return core.getUtterance().utterance || core.getUtterance();")

    def elements(self) -> list[dict[str, Any]]:
        """What can be seen on the page: {"kind", "text", "value", "colour", "box": [left, top, width, height]} of each."""
        with self._driven() as driver:
            return driver.execute_script(SCRIPTS.read_text(encoding="utf-8"))

    def click(self, x: float, y: float) -> None:
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        with self._driven() as driver:
            actions = ActionBuilder(driver, duration=0)
            actions.pointer_action.move_to_location(round(x), round(y)).click()
            actions.perform()

    def enter(self, x: float, y: float, text: str) -> None:
        """Types a text into the field there, in place of what it holds, and presses the page's Submit."""
        self.click(x, y)
        with self._driven() as driver:
            if driver.execute_script(
                "var e = document.activeElement; if ('value' in e) { e.value = ''; return true } return false"
            ):
                driver.switch_to.active_element.send_keys(text)
                driver.execute_script("var e = document.querySelector('#area #subbtn'); if (e) e.click()")

    def reward(self) -> float:
        """What has been earned since the page was opened: above 0 where its task is done, 0 while it is not."""
        with self._driven() as driver:
            return float(driver.execute_script("return WOB_DONE_GLOBAL ? WOB_RAW_REWARD_GLOBAL : 0;"))

    def screenshot(self) -> bytes:
        """The page as PNG, of WIDTH x HEIGHT."""
        from PIL import Image

        with self._driven() as driver:
            taken = driver.get_screenshot_as_png()
        with Image.open(io.BytesIO(taken)) as shown:
            made = io.BytesIO()
            shown.convert("RGB").crop((0, 0, WIDTH, HEIGHT)).save(made, "PNG")
        return made.getvalue()

    def close(self) -> None:
        if self._driver is not None and self._process == os.getpid():
            with suppress(Exception):  # one that has ended by itself
                self._driver.quit()
        self._driver, self._task = None, ""

    @contextmanager
    def _driven(self) -> Iterator[Any]:
        """The driver. Raises Lost for what it raises, with the first line of that."""
        driver = self._started()
        from selenium.common.exceptions import WebDriverException
        from urllib3.exceptions import HTTPError

        try:
            yield driver
        except (WebDriverException, HTTPError, OSError) as error:
            said = str(getattr(error, "msg", None) or error) or type(error).__name__
            raise Lost(said.splitlines()[0]) from error

    def _started(self) -> Any:
        if self._driver is not None and self._process == os.getpid():
            return self._driver
        webdriver = needed("selenium.webdriver", DRIVES, "selenium")
        from selenium.common.exceptions import WebDriverException
        from selenium.webdriver.chrome.service import Service

        browser, driver = binaries()
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        # Without a sandbox: the pages are local files of a package, and a sandbox is refused to root in containers.
        for option in ("headless", "disable-gpu", "no-sandbox", "force-device-scale-factor=1", "window-size=500,400"):
            options.add_argument(option)
        try:
            self._driver = webdriver.Chrome(service=Service(executable_path=driver), options=options)
        except WebDriverException as error:
            raise UserError(
                f"data=miniwob: the browser does not start: {str(error.msg).splitlines()[0]}", f"{browser}, {driver}"
            ) from error
        self._driver.set_page_load_timeout(TIMEOUT)
        self._driver.set_script_timeout(TIMEOUT)
        self._process, self._task = os.getpid(), ""
        atexit.register(self.close)
        return self._driver
