"""What the buttons of a page do, in Chromium: pick, run again and cancel, and nothing where that is not allowed."""

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from recallfront.platform.results.cancellation import BEAT, CancelRequest
from recallfront.platform.results.records import TAG
from recallfront.platform.tracking.client import open_client
from tests.dashboards.browser import Looked, expect
from tests.dashboards.played import Played, beating, played
from tests.dashboards.served import Served
from tests.platform.sweeps import workplace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("quick_collections"),
    # SQLAlchemy 2.1 finds fault with MLflow's models as they are imported
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]
RERUN_MS = 240_000  # a process that imports torch, trains and writes to MLflow


@pytest.fixture(scope="module")
def trained(served: Served) -> Iterator[tuple[Played, str]]:
    """A sweep that runs, with one trial that was really trained, and that trial's run."""
    uri = f"sqlite:///{served.home / 'mlflow.db'}"
    with played(served.home, uri, "buttons") as sweep, beating(uri, sweep):
        yield sweep, sweep.train("a", workplace(sweep.conductor.spec, served.home))


@contextmanager
def opened(browser: Any, served: Served, sweep: Played) -> Iterator[Looked]:
    """The sweep's page, of which the browser has nothing to complain."""
    looked = Looked(browser, served)
    looked.open(f"/recallfront/sweeps/{sweep.run_id}")
    looked.page.wait_for_selector("#configurations tbody tr")
    yield looked
    looked.context.close()
    assert looked.complaints == []


def answer(page: Any, how: str) -> list[str]:
    """Answer the next question of the page with `accept` or `dismiss`; the list gets it."""
    asked: list[str] = []

    def hear(dialog: Any) -> None:
        asked.append(dialog.message)
        getattr(dialog, how)()

    page.once("dialog", hear)
    return asked


def test_a_choice_is_registered(browser: Any, served: Served, trained: tuple[Played, str]) -> None:
    sweep, run = trained
    with opened(browser, served, sweep) as looked:
        decide = looked.page.locator("#decide")
        decide.locator("form button").click()
        expect(decide.locator(".outcome")).to_be_visible()
        shown = decide.locator(".reason").inner_text()
        # written and not chosen
        decide.locator("[name=where]").fill("state_bytes >= 1")
        decide.locator("[data-pick]").click()
        told = "registered buttons version 1 as models:/buttons@"
        expect(decide.locator(".done")).to_contain_text(told)
        expect(decide.locator(".picked tbody tr")).to_have_count(1)
    version = open_client(served.uri).get_model_version("buttons", "1")
    assert version.run_id == run and version.description == shown
    assert "state_bytes >= 1" not in f"{version.description} {version.tags}"


def test_a_constraint_without_an_answer_is_told_at_its_field(
    browser: Any, served: Served, trained: tuple[Played, str]
) -> None:
    sweep, _ = trained
    with opened(browser, served, sweep) as looked:
        decide = looked.page.locator("#decide")
        field, error, outcome = map(decide.locator, ("[name=where]", "#choice-error", ".outcome"))
        for constraint, told in (
            ("recall >= 2", "there is no member of the front with recall >= 2"),
            ("recal >= 0.5", "did you mean recall"),
        ):
            field.fill(constraint)
            decide.locator("form button").click()
            expect(error).to_contain_text(told)
            expect(error).to_be_visible()
            expect(field).to_have_attribute("aria-invalid", "true")
            expect(outcome).to_be_hidden()
        field.fill("")
        decide.locator("form button").click()
        expect(outcome).to_be_visible()
        expect(error).to_be_hidden()
        expect(field).to_have_attribute("aria-invalid", "false")


def test_a_trial_is_run_again_and_its_verdict_told(
    browser: Any, served: Served, trained: tuple[Played, str]
) -> None:
    sweep, run = trained
    with opened(browser, served, sweep) as looked:
        page = looked.page
        page.check("#configurations tbody tr input")
        button, told = page.locator("[data-rerun]"), page.locator("[data-rerun] + [role=status]")
        asked = answer(page, "accept")
        button.click()
        expect(told).to_contain_text(f"run {run[:8]} is being run again")
        assert asked == ["Run this trial again? It takes as long as it took, on this machine."]
        page.keyboard.press("Escape")
        expect(button).to_have_count(0)
        verdict = f"run {run[:8]}: verdict: identical: "
        expect(page.locator("#decide .rerun")).to_contain_text(verdict, timeout=RERUN_MS)


def test_a_sweep_is_cancelled_if_that_is_confirmed(
    browser: Any, served: Served, trained: tuple[Played, str]
) -> None:
    sweep, _ = trained
    client = open_client(f"sqlite:///{served.home / 'mlflow.db'}")

    def request() -> CancelRequest | None:
        tags = client.get_run(sweep.run_id).data.tags
        return CancelRequest.read({name.removeprefix("recallfront."): value for name, value in tags.items()})

    with opened(browser, served, sweep) as looked:
        page = looked.page
        asked = answer(page, "dismiss")
        page.click("[data-cancel]")
        assert asked[0].startswith("Cancel this sweep?") and request() is None
        answer(page, "accept")
        page.click("[data-cancel]")
        expect(page.locator("[data-cancel] + [role=status]")).to_contain_text("asked the driver of buttons")
        found = request()
        assert found is not None
        # what its driver does then
        sweep.conductor.cancel(found)
        sweep.conductor.recorder.interrupt_sweep(sweep.conductor.interrupted())
        sweep.tell()
        expect(page.locator("h1 + .pill")).to_have_text("interrupted")
        expect(page.locator("[data-cancel]")).to_have_count(0)


@pytest.mark.parametrize("action", ["pick", "rerun", "cancel"])
def test_nothing_is_done_without_the_pages_token(
    served: Served, trained: tuple[Played, str], action: str
) -> None:
    """As another site would ask: with the reader's browser, but without what only this server's pages know."""
    sweep, run = trained
    client = open_client(f"sqlite:///{served.home / 'mlflow.db'}")

    def stored() -> tuple[dict[str, str], int]:
        tags = client.get_run(sweep.run_id).data.tags
        beats = f"{TAG}{BEAT}"  # goes on meanwhile
        return {key: tag for key, tag in tags.items() if key != beats}, len(client.search_model_versions())

    before = stored()
    address = f"{served.uri}/recallfront/sweeps/{sweep.run_id}/actions/{action}?run={run}"
    for headers in ({}, {"X-Recallfront-Token": "guessed"}):
        request = urllib.request.Request(address, method="POST", headers=headers)
        with pytest.raises(urllib.error.HTTPError, match="422") as caught:
            urllib.request.urlopen(request)
        with caught.value:
            assert (
                json.loads(caught.value.read())["error"] == "this page is of an earlier server: load it again"
            )
    assert stored() == before


def test_a_server_that_allows_no_actions_shows_none(
    browser: Any, served: Served, trained: tuple[Played, str]
) -> None:
    sweep, run = trained
    plain = Served(served.home, {}, allow_actions=False)
    try:
        with opened(browser, plain, sweep) as looked:
            looked.page.check("#configurations tbody tr input")
            expect(looked.page.locator("#panel article")).to_have_count(1)
            looked.page.click("#decide form button")
            expect(looked.page.locator("#decide [data-look]")).to_be_visible()
            assert looked.page.locator("[data-pick], [data-rerun], [data-cancel]").count() == 0
        address = f"{plain.uri}/recallfront/sweeps/{sweep.run_id}/actions/cancel"
        with pytest.raises(urllib.error.HTTPError, match="422") as caught:
            urllib.request.urlopen(urllib.request.Request(address, method="POST"))
        with caught.value:
            assert "recallfront ui --allow-actions" in caught.value.read().decode()
    finally:
        assert plain.stop(signal.SIGTERM) == 0
