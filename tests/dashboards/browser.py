"""A page in headless Chromium, for the tests of the pages."""

import shutil
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.dashboards.served import Served

WIDE: dict[str, Any] = {"viewport": {"width": 1400, "height": 1000}, "color_scheme": "light"}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
SCREENS = {"wide": WIDE, "phone": PHONE}
# colours change what is read, not what follows from a click
IN_EVERY_LIGHT = SCREENS | {
    "wide, dark": WIDE | {"color_scheme": "dark"},
    "phone, light": PHONE | {"color_scheme": "light"},
}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Looked:
    """A page that is being looked at, with all that it complains about or fetches from elsewhere."""

    def __init__(self, browser: Any, served: Served, **kind: Any) -> None:
        self.context = browser.new_context(**WIDE | kind)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.complaints: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._check)
        self.served = served

    def _hear(self, said: Any) -> None:
        if said.type == "error":
            self.complaints.append(said.text)

    def _check(self, request: Any) -> None:
        if not request.url.startswith((self.served.uri, "data:", "blob:")):
            self.complaints.append(f"asked for {request.url}")

    def open(self, path: str) -> Any:
        self.page.goto(self.served.uri + path)
        return self.page

    def sweep(self, name: str, asked: str = "") -> Any:
        """The page of a sweep, once it is drawn."""
        page = self.open(f"/recallfront/sweeps/{self.served.sweeps[name]}{asked}")
        page.wait_for_selector("#configurations tbody tr")
        page.wait_for_selector("#plot-front .scatterlayer")
        return page

    def asked(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.page.url).query)


def drawn(page: Any) -> set[str]:
    """Wait until every picture of a page is drawn, but for that of the explorer -> their names."""
    names = page.locator("[data-figure]").evaluate_all("(places) => places.map((one) => one.dataset.figure)")
    expect(page.locator("[data-figure] .main-svg:first-child")).to_have_count(len(names))
    return set(names)


def expect(locator: Any) -> Any:
    from playwright import sync_api as playwright

    playwright.expect.set_options(timeout=30_000)
    return playwright.expect(locator)


def rows(page: Any) -> list[str]:
    names = page.locator("#configurations tbody .what-ran").all_inner_texts()
    return [str(text).removesuffix(" knee") for text in names]
