"""What a person waits for on a sweep's page, in headless Chromium: first paint, the picture, a filter; and the bytes.

The trials are not trained: they report what a trial reports. Each is a configuration of its own, the most rows that so
many trials can make.

Playwright is imported where it is first used: no other benchmark needs it.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from recallfront.benchmarks.dashboards.copies import fill_with_copies
from recallfront.benchmarks.platform.reading import served
from recallfront.benchmarks.platform.trials import ARCHITECTURES, bench_spec
from recallfront.platform.errors import UsageError
from recallfront.sweeps.spec import SweepSpec

SIZES: Final = (15, 300, 2000)
_STALE_SECONDS: Final = 2.5  # after which a server reads a sweep again
_SETTLED_SECONDS: Final = 3.0  # after which a picture that filters have changed is painted again
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
# a click on a box of the filters, until what follows from it is painted
_FILTERS: Final = """async () => {
  const taken = [];
  for (const value of ["griffin", "griffin"]) {
    const box = document.querySelector(`#architectures [value=${value}]`), start = performance.now();
    box.click();
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    taken.push(performance.now() - start);
  }
  return Math.max(...taken);
}"""
# a condition is in its field, until the server has read it and what follows is painted
_CONDITION: Final = """async () => {
  const field = document.querySelector("#controls [name=where]"), found = document.querySelector("#found");
  const before = found.textContent, start = performance.now();
  const changed = new Promise((done) => new MutationObserver(done).observe(found, { childList: true }));
  field.value = "recall >= 0.5 and architecture != griffin";
  field.dispatchEvent(new Event("input", { bubbles: true }));
  while (found.textContent === before) await changed;
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - start;
}"""
_SENT: Final = """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
  .filter((one) => !one.name.endsWith("/plotly.js")).reduce((sum, one) => sum + one.transferSize, 0)"""
_FIRST_PAINT: Final = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"


@dataclass(frozen=True)
class Look:
    """One look at a sweep's page, with nothing in the browser's cache or the server's; in milliseconds."""

    first_paint: float  # since the page was asked for
    drawn: float  # since then: the front is in the picture
    filtered: float  # the slower of two clicks on a filter
    condition: float  # a condition that the server reads, from the key's press on
    sent: int  # bytes beyond Plotly, compressed as they come


def looks(home: Path, sizes: tuple[int, ...] = SIZES, times: int = 5) -> dict[int, list[Look]]:
    """Fill a store with sweeps of so many trials, and look at the page of each so many times.

    Raises:
        UsageError: there is no browser, or playwright, which drives it, is not installed.
    """
    with _browser() as browser:
        runs = {size: fill_with_copies(home, pages_spec(size), size) for size in sizes}
        with served(home) as address:
            return {
                size: [_look(browser, f"{address}/recallfront/sweeps/{run}") for _ in range(times)]
                for size, run in runs.items()
            }


def pages_spec(trials: int) -> SweepSpec:
    """A grid of at least so many configurations of every architecture."""
    rates = [0.001 + 1e-6 * number for number in range(-(-trials // len(ARCHITECTURES)))]
    blocks = [block | {"training.learning_rate": rates} for block in ARCHITECTURES]
    return bench_spec(*blocks, name=f"pages-{trials}")


@contextmanager
def _browser() -> Iterator[Any]:
    program = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        raise UsageError(f"benchmark pages: no browser is installed; it looks for {', '.join(_BROWSERS)}")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise UsageError("benchmark pages: `pip install playwright`, which drives the browser") from None
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def _look(browser: Any, address: str) -> Look:
    time.sleep(_STALE_SECONDS)
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    try:
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(address)
        page.wait_for_selector("#plot-front .scatterlayer .points path")
        drawn, first_paint, sent = map(page.evaluate, ("performance.now()", _FIRST_PAINT, _SENT))
        time.sleep(_SETTLED_SECONDS)
        filtered = page.evaluate(_FILTERS)
        time.sleep(_SETTLED_SECONDS)
        return Look(first_paint, drawn, filtered, page.evaluate(_CONDITION), sent)
    finally:
        context.close()
