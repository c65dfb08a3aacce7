"""The page of a sweep that runs, in Chromium, while its driver writes on."""

from collections.abc import Iterator
from typing import Any

import pytest

from recallfront.benchmarks.platform.trials import ARCHITECTURES, trials_of
from tests.dashboards.browser import Looked, expect
from tests.dashboards.played import STEPS, Played, beating, played, spec_of
from tests.dashboards.served import Served

pytestmark = [
    pytest.mark.slow,
    # SQLAlchemy 2.1 finds fault with MLflow's models as they are imported
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]
# every element is marked, and where one changes is noted: the nearest part that has a name
_MARK = """() => {
  document.querySelectorAll("body *").forEach((node) => { node.seen = true; });
  window.touched = new Set();
  const note = ({ target }) => {
    const named = (target.closest ? target : target.parentElement).closest("[data-key], [id]");
    touched.add(named?.dataset.key ?? named?.id);
  };
  new MutationObserver((changes) => changes.forEach(note))
    .observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
}"""
_NEW = """() => [...document.querySelectorAll("body *")].filter((node) => !node.seen && !node.closest(".plot, .curve"))
  .map((node) => node.closest("[data-key], [id]")).map((node) => node.dataset.key ?? node.id)"""
_FIELD = (
    "() => [document.activeElement.name, document.activeElement.value, document.activeElement.selectionStart]"
)


@pytest.fixture
def sweep(served: Served) -> Iterator[Played]:
    uri = f"sqlite:///{served.home / 'mlflow.db'}"
    with played(served.home, uri, "live") as found, beating(uri, found):
        yield found


def test_a_view_that_was_sent_waits_for_its_figures(browser: Any, served: Served, sweep: Played) -> None:
    looked = Looked(browser, served)
    view = {"y": ["recall"], "ys": ["errors"], "colour": ["validation_recall spread"]}
    asked = "&".join(f"{name}={own[0].replace(' ', '+')}" for name, own in view.items())
    page = looked.open(f"/recallfront/sweeps/{sweep.run_id}?{asked}")
    expect(page.locator("#found")).to_have_text("0 of 0 configurations")
    assert looked.asked() == view and page.input_value("[name=y]") != "recall"
    sweep.begin("a")
    sweep.measured("a", 1000.0)
    sweep.end("a", 0.9)
    expect(page.locator("#found")).to_have_text("1 of 1 configuration")
    expect(page.locator("[name=y]")).to_have_value("recall")
    assert page.input_value("[name=ys]") == "errors" and looked.asked() == view
    looked.context.close()
    assert looked.complaints == []


def test_only_what_has_changed_is_touched(browser: Any, served: Served, sweep: Played) -> None:
    done = sweep.begin("a")
    sweep.measured("a", 1000.0)
    sweep.end("a", 0.9)
    runs = sweep.begin("b")
    looked = Looked(browser, served)
    page = looked.open(f"/recallfront/sweeps/{sweep.run_id}")
    worker = page.locator(".workers li")
    expect(worker).to_contain_text("starting and measuring")
    assert "1 of 6 used" in page.locator(".budget").inner_text()
    assert "expected end" in page.locator("[data-key=now]").inner_text()

    # what a reader has chosen, opened and typed
    page.check("#configurations tbody input")
    expect(page.locator("#panel article")).to_have_count(1)
    page.click(".settings summary")
    page.fill("#controls [name=where]", "recall >= 0.5")
    expect(page.locator("#found")).to_have_text("1 of 2 configurations")
    page.keyboard.press("ArrowLeft")
    page.evaluate(_MARK)

    def is_as_it_was_left() -> bool:
        assert page.evaluate(_FIELD) == ["where", "recall >= 0.5", len("recall >= 0.5") - 1]
        assert page.is_checked("#configurations tbody tr >> nth=0 >> input") and page.is_visible("#panel")
        return bool(page.locator(".settings").evaluate("(node) => node.open"))

    sweep.measured("b", 2000.0)
    expect(worker).to_contain_text("measured, training")
    sweep.trained("b", STEPS // 2, 0.6)
    expect(worker).to_contain_text("training, step 10 of 20, recall 0.600")
    expect(worker).to_contain_text("on node-1")
    assert worker.locator("progress").get_attribute("value") == "10"
    assert is_as_it_was_left() and page.evaluate(_NEW) == []
    touched = page.evaluate("() => [...touched]")
    first = page.locator("#configurations tbody tr").get_attribute("data-key")
    assert runs in touched
    assert not {done, first, "panel", "settings", "next"} & set(touched)

    # a trial ends: its row is new, and no other
    sweep.end("b", 0.7)
    third = sweep.begin("c")
    expect(page.locator("#configurations tbody tr")).to_have_count(2)
    expect(page.locator("#found")).to_have_text("2 of 3 configurations")
    (second,) = set(
        page.locator("#configurations tbody tr").evaluate_all("(all) => all.map((row) => row.dataset.key)")
    ) - {first}
    assert is_as_it_was_left() and set(page.evaluate(_NEW)) <= {second, third, "hawk"}
    assert not {done, "panel", "settings"} & set(page.evaluate("() => [...touched]"))

    # text that is selected stays so
    page.evaluate("() => document.activeElement.blur()")
    page.locator(f"[data-key='{done}']").evaluate("(row) => getSelection().selectAllChildren(row.cells[1])")
    assert "attention" in page.evaluate("() => getSelection().toString()")
    sweep.conductor.recorder.interrupt_sweep(sweep.conductor.interrupted())
    sweep.tell()
    expect(page.locator("h1 + .pill")).to_have_text("interrupted")
    expect(page.locator("[data-key=now]")).to_have_count(0)
    assert "attention" in page.evaluate("() => getSelection().toString()")
    looked.context.close()
    assert looked.complaints == []


def test_a_page_opened_before_the_first_results_draws_them_as_they_come(browser: Any, served: Served) -> None:
    uri = f"sqlite:///{served.home / 'mlflow.db'}"
    with played(served.home, uri, "early") as sweep, beating(uri, sweep):
        looked = Looked(browser, served)
        page = looked.open(f"/recallfront/sweeps/{sweep.run_id}")
        expect(page.locator("#found")).to_have_text("0 of 0 configurations")
        sweep.begin("a")
        sweep.measured("a", 1000.0)
        sweep.trained("a", STEPS // 2, 0.6)
        expect(page.locator("[name=y]")).to_have_value("validation_recall")
        expect(page.locator("[name=x]")).to_have_value("loss")
        sweep.end("a", 0.9)
        expect(page.locator("#configurations tbody tr")).to_have_count(1)
        page.wait_for_selector("#plot-front .scatterlayer")
        expect(page.locator("[name=x]")).to_have_value("decode_tokens_per_second")
        expect(page.locator("[name=y]")).to_have_value("validation_recall")
        assert looked.asked() == {}
        looked.context.close()
        assert looked.complaints == []


def test_what_is_chosen_stays_so_when_a_further_seed_begins(browser: Any, served: Served) -> None:
    """A configuration is named by the least of its trials' keys, which is then another one."""
    alone = {"space": [ARCHITECTURES[0]]}
    keys = {
        trial.seed: trial.key[:12] for trial in trials_of(spec_of("seeds", seeds=list(range(5)), **alone))
    }
    last, first = sorted(keys, key=keys.__getitem__)[:2]
    uri = f"sqlite:///{served.home / 'mlflow.db'}"
    with played(served.home, uri, "seeds", seeds=[first, last], **alone) as sweep, beating(uri, sweep):
        sweep.begin("a")
        sweep.measured("a", 1000.0)
        sweep.end("a", 0.9)
        looked = Looked(browser, served)
        page = looked.open(f"/recallfront/sweeps/{sweep.run_id}")
        page.check("#configurations tbody input")
        expect(page.locator("#panel .seeds li")).to_have_count(1)
        assert looked.asked()["show"] == [keys[first]]
        sweep.begin("b")
        expect(page.locator("#configurations tbody tr")).to_have_attribute("data-key", keys[last])
        expect(page.locator("#panel .seeds li")).to_have_count(2)
        assert page.is_checked("#configurations tbody input") and looked.asked()["show"] == [keys[last]]
        looked.context.close()
        assert looked.complaints == []
