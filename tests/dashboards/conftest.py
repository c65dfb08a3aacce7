"""One server for all tests of the pages, and a browser for those of a file."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from recallfront.platform.results.records import SweepRecord
from tests.dashboards.browser import CHROMIUM
from tests.dashboards.served import EVIL, OTHERS, Served, write
from tests.platform.stores import ready_store


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory, make_record: Callable[..., SweepRecord]
) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    uri = ready_store(home)
    running = make_record(17, OTHERS, name=f"running-study {EVIL}", sweep_key="beef".ljust(64, "0"))
    running = replace(running, spec=running.spec | {"description": f"Why {EVIL} was run"})
    for trial in running.trials[:2]:
        trial.config["model"]["window_size"] = EVIL
    sweeps = {
        "finished": write(make_record(), uri, "finished"),
        "running": write(running, uri, "running"),
        "new": write(make_record(0, name="new-study", spec={}), uri, "running"),
    }
    found = Served(home, sweeps)
    yield found
    assert found.stop(signal.SIGINT) == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()
