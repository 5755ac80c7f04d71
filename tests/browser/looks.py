"""How a page looks in every colour and width: what axe says, and whether it is wider than its window."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.places import Place

WIDTHS = (320, 1440)
# What Playwright calls each of them.
COLOURS = {
    "light": {"color_scheme": "light", "forced_colors": "none"},
    "dark": {"color_scheme": "dark", "forced_colors": "none"},
    "forced": {"color_scheme": "dark", "forced_colors": "active"},
}
# WCAG 2.2 AA, and what axe calls best practice.
_AXE = """
() => axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  resultTypes: ["violations"], preload: false}).then(
  result => result.violations.flatMap(v => v.nodes.map(n => `${v.id}: ${n.target} ${n.failureSummary}`)))
"""
# A page that is wider than its window scrolls sideways; what a box of its own scrolls is fine.
_WIDER = """
() => {
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= wide) return [];
  return [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > wide + 1)
    .slice(0, 5).map(e => e.outerHTML.slice(0, 200));
}
"""
# A laptop shows every table whole: its boxes need not be scrolled. Charts may be wider.
LAPTOP = 1180
_SCROLLED = """
() => [...document.querySelectorAll(".scroll:has(> table)")].filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => `${e.ariaLabel}: ${e.scrollWidth} px in ${e.clientWidth} px`)
"""


def scrolled(page: Page) -> list[str]:
    """The tables that are wider than their boxes, and what makes the page wider than its window, on a laptop."""
    page.set_viewport_size({"width": LAPTOP, "height": 800})
    return page.evaluate(_SCROLLED) + page.evaluate(_WIDER)


def looks(page: Page, axe: str, place: Place, colours: str) -> list[str]:
    """What is wrong with how the page looks, in every width."""
    wrong = []
    page.evaluate(axe)
    page.emulate_media(**COLOURS[colours])
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        here = f"{place} {colours} {width} px"
        wrong += [f"{here}: {violation}" for violation in page.evaluate(_AXE)]
        wrong += [f"{here}: wider than its window: {element}" for element in page.evaluate(_WIDER)]
    return wrong
