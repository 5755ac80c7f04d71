"""Pictures of the pages for the documentation, from what the demo shows: ``make screenshots``."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from playwright.sync_api import sync_playwright

from agent.web.pages import PAGES
from tests.browser.conftest import PATIENCE_MS, log_in
from tests.integration.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

FOLDER = Path(__file__).parents[2] / "docs" / "images" / "pages"
# Higher pages are cut: the pictures show what a page is like, not all that is on it.
_HEIGHT = 760


class Picture(NamedTuple):
    """``path`` is that of the page, ``opens`` the text of a link on it that is followed, ``press`` that of a button."""

    name: str
    path: str
    opens: str = ""
    build: str = ""
    press: str = ""
    width: int = 1180
    dark: bool = False


PICTURES = (
    Picture("now", "/"),
    Picture("now-dark", "/", dark=True),
    Picture("now-narrow", "/", width=320),
    Picture("deployments", "/deployments?environment=production&since=30d"),
    Picture("deployment", "/deployments?state=failed&text=platform/legacy-crm", opens="legacy-crm"),
    Picture("failed", "/failed"),
    Picture("confirm", "/failed", press="Replay"),
    Picture("build", "/build", build="demo:platform/shop/deploy#100"),
    Picture("controllers", "/controllers"),
    Picture("rules", "/rules"),
    Picture("dora", "/dora"),
    Picture("about", "/about"),
)


@contextmanager
def demo() -> Iterator[tuple[str, str]]:
    """Address and password of the pages of a demo that stays."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said"
        with said.open("w") as stream:
            process = subprocess.Popen([sys.executable, "-m", "agent", "demo", "--stay"], stdout=stream)
        try:
            wait_until(lambda: "Ctrl-C" in said.read_text() or process.poll() is not None, "the pages are announced")
            found = re.search(r"Pages: +(\S+)\nPassword: +(\S+)", said.read_text())
            assert found is not None, said.read_text()
            yield found[1], found[2]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(120)


def take(page: Page, url: str, picture: Picture) -> None:
    """Open the page and write its picture."""
    page.set_viewport_size({"width": picture.width, "height": _HEIGHT})
    page.emulate_media(color_scheme="dark" if picture.dark else "light")
    page.goto(url + picture.path)
    if picture.opens:
        page.locator("main table").get_by_role("link", name=picture.opens).first.click()
        page.wait_for_load_state()
    if picture.press:
        with page.expect_navigation():
            page.get_by_role("main").get_by_role("button", name=picture.press).first.click()
    if picture.build:
        page.get_by_label("Address of the build").fill(picture.build)
        page.get_by_role("button", name="Explain").click()
        page.get_by_role("heading", name=picture.build).first.wait_for()
    page.screenshot(path=FOLDER / f"{picture.name}.png", animations="disabled")


def _all(browser: Browser, url: str, password: str) -> None:
    there = {page.path for page in PAGES}
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    log_in(page, url, password)
    # Of every day that the demo adds, the pages show the last ones first: wait until all are at Hivel.
    page.wait_for_function(
        "async address => { const now = await (await fetch(address)).json();"
        " return now.counts.delivered > 200 && now.counts.pending === 0; }",
        arg=f"{url}/now.json",
        polling=500,
    )
    for picture in PICTURES:
        if picture.path.partition("?")[0] in there:
            take(page, url, picture)


def main() -> None:
    """All pictures, and what they weigh."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium-headless-shell")
    with demo() as (url, password), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        _all(browser, url, password)
        browser.close()
    for path in sorted(FOLDER.glob("*.png")):
        sys.stdout.write(f"{path.stat().st_size / 1024:6.0f} KB  {path.name}\n")


if __name__ == "__main__":
    main()
