"""A browser, and an agent whose pages have something of every kind to show."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.world import World, world
from tests.web.conftest import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Page

PATIENCE_MS = 120_000
# Names that resolve to this machine although they are not the agent's.
REBOUND = "rebound.test"
# A name of this machine that an agent can be configured with.
NAMED = "ci.test"
_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", event =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


@dataclass
class Tab:
    """A page of the browser, and whatever it complained about."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def open(self, url: str) -> None:
        """Load a page; whatever it complains about is a failure."""
        self.page.goto(url)
        self.expect_quiet()

    def expect_quiet(self) -> None:
        """No error in the console, no exception, nothing that the Content-Security-Policy refused."""
        # Where scripts are off, the console still says what the policy refused.
        violations = self.page.evaluate("window.violations || []")
        assert not violations, violations
        assert not self.complaints, self.complaints


def _watched(context: BrowserContext) -> Tab:
    tab = Tab(context.new_page())
    tab.page.on("console", lambda said: said.type in ("error", "warning") and tab.complaints.append(said.text))
    tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    return tab


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: run `make browser-test`")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium-headless-shell")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium-headless-shell")
    arguments = ["--no-sandbox", f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1, MAP {NAMED} 127.0.0.1"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments, timeout=PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe(browser: Browser) -> str:
    pytest.importorskip("axe_playwright_python", reason="needs axe: run `make browser-test`")
    return files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


@contextmanager
def tab_of(browser: Browser, **options: Any) -> Iterator[Tab]:
    """A browser without a past."""
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script(_WATCH)
    yield _watched(context)
    context.close()


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    with tab_of(browser) as tab:
        yield tab


@pytest.fixture(scope="session")
def played(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One world for all tests that change nothing. It starts only where there is a browser."""
    with world(tmp_path_factory.mktemp("world")) as played:
        yield played


@pytest.fixture
def logged_in(browser: Browser, played: World) -> Iterator[Tab]:
    """A tab of somebody who may act."""
    with tab_of(browser) as tab:
        log_in(tab.page, played.site.url)
        yield tab


def log_in(page: Page, url: str, password: str = PASSWORD, name: str = "Ada") -> None:
    """As a person does, with the keyboard or not."""
    page.goto(f"{url}/login")
    page.get_by_label("Your name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("button", name="Log out").wait_for()
