"""Every page in a real headless Chromium: hostile names, a phone, the keyboard alone, axe, lists and comparisons."""

import signal
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import pytest

from recallfront.benchmarks.dashboards.copies import copy_sweep
from recallfront.platform.results.records import SweepRecord
from tests.dashboards.browser import IN_EVERY_LIGHT, PHONE, SCREENS, Looked, drawn, expect, rows
from tests.dashboards.explained import CLAIM, FIGURES, write_explained
from tests.dashboards.served import EVIL, Served, write
from tests.platform.stores import ready_store

pytestmark = [
    pytest.mark.slow,
    # SQLAlchemy 2.1 finds fault with MLflow's models as they are imported
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]
on_each_screen = pytest.mark.parametrize("screen", SCREENS)
in_every_light = pytest.mark.parametrize("screen", IN_EVERY_LIGHT)
COPIES = 52


def test_hostile_names_stay_text(browser: Any, served: Served) -> None:
    hostile = Looked(browser, served)
    page = hostile.sweep("running", "?status=finished&status=failed&status=running&status=pruned")
    assert any("<img src=x onerror=alert(1)>" in text for text in rows(page))
    assert page.title().startswith(f"running-study {EVIL}")
    assert page.locator("h1").inner_text() == f"running-study {EVIL}"
    assert page.locator(".description").inner_text() == f"Why {EVIL} was run"
    page.check("#configurations tbody tr:has-text('onerror') input >> nth=0")
    page.check("#configurations tbody tr:has-text('window_size 4 · feature_dim 4') input >> nth=0")
    expect(page.locator("#panel article")).to_have_count(2)
    page.click("#panel details summary")
    expect(page.locator("#panel .log")).to_contain_text("RuntimeError: the end")
    assert page.locator("img").count() == 0
    first, second = served.sweeps["finished"], served.sweeps["running"]
    hostile.open(f"/recallfront/compare?sweep={first}&sweep={second}")
    expect(page.locator("#plot-compare .legend")).to_contain_text(EVIL)
    hostile.open(f"/recallfront/sweeps/{second}/understand")
    drawn(page)
    assert page.locator("h1").inner_text() == f"running-study {EVIL}"
    expect(page.locator("#plot-effects .xaxislayer-above", has_text=EVIL).first).to_be_attached()
    assert page.locator("img").count() == 0
    hostile.open("/recallfront/")
    expect(page.locator(".sweep h2", has_text="running-study")).to_have_text(f"running-study {EVIL}")
    assert page.locator("img").count() == 0
    hostile.context.close()
    assert hostile.complaints == []


def test_a_phone_has_room_for_every_page(browser: Any, served: Served) -> None:
    phone = Looked(browser, served, **PHONE, has_touch=True, is_mobile=True)
    page = phone.sweep("finished")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 27)"
    # the filter tells the marks' colours; a legend beside it would be a column longer than the picture
    expect(page.locator("#explore .main-svg:first-child")).to_have_count(1)
    assert page.locator("#explore .legend .traces").count() == 0
    first, second = served.sweeps["finished"], served.sweeps["running"]
    for path in ("", f"sweeps/{first}/understand", f"compare?sweep={first}&sweep={second}"):
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, page.url
        phone.open(f"/recallfront/{path}")
        drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    phone.context.close()
    assert phone.complaints == []


@pytest.fixture(scope="module")
def explained(served: Served, make_record: Callable[..., SweepRecord]) -> str:
    """The run of a sweep with all that pages explain, in the server's store."""
    return write_explained(make_record, f"sqlite:///{served.home / 'mlflow.db'}")


def show_panel_and_choice(page: Any) -> None:
    page.check("#configurations tbody tr input >> nth=0")
    expect(page.locator("#panel article")).to_have_count(1)
    page.click("#decide form button")
    expect(page.locator("#decide .outcome")).to_be_visible()


def show_errors(page: Any) -> None:
    for place in ("#controls", "#decide"):
        page.fill(f"{place} [name=where]", "recal >= 2")
    page.click("#decide form button")
    for place in ("#where-error", "#choice-error"):
        expect(page.locator(place)).to_contain_text("did you mean recall")


def barred(page: Any) -> dict[str, list[str]]:
    """What is serious or critical by axe-core's rules of WCAG and of good practice."""
    page.evaluate((resources.files("axe_playwright_python") / "axe.min.js").read_text())
    violations = page.evaluate("async () => (await axe.run()).violations")
    grave = [one for one in violations if one["impact"] in ("serious", "critical")]
    return {one["id"]: [node["html"] for node in one["nodes"]][:3] for one in grave}


@in_every_light
def test_no_page_bars_anyone(browser: Any, served: Served, explained: str, screen: str) -> None:
    reader = Looked(browser, served, **IN_EVERY_LIGHT[screen])
    first, second = served.sweeps["finished"], served.sweeps["running"]
    pages: dict[str, tuple[set[str], Callable[[Any], object]]] = {
        "": (set(), lambda page: None),
        f"sweeps/{first}": ({"history"}, show_panel_and_choice),
        f"sweeps/{second}": ({"history"}, show_errors),
        f"sweeps/{explained}/understand": (FIGURES, lambda page: page.get_by_text("fANOVA").wait_for()),
        f"sweeps/{explained}": ({"history"}, lambda page: page.get_by_text(CLAIM["sentence"]).wait_for()),
        f"compare?sweep={first}&sweep={second}": ({"compare"}, lambda page: None),
        f"compare?sweep={first}": (set(), lambda page: page.get_by_text("Choose two").wait_for()),
    }
    found = {}
    for path, (figures, show) in pages.items():
        page = reader.open(f"/recallfront/{path}")
        assert drawn(page) == figures, path
        assert page.locator(".plot:not([role][aria-label])").count() == 0, path
        show(page)
        found[path] = barred(page)
    assert reader.complaints == []
    page = reader.open("/recallfront/sweeps/0123456789abcdef")  # a message, whose status Chromium logs
    found["message"] = barred(page)
    reader.context.close()
    assert not any(found.values()), found


def test_slices_rungs_and_what_was_stopped_are_drawn(browser: Any, served: Served, explained: str) -> None:
    reader = Looked(browser, served)
    page = reader.open(f"/recallfront/sweeps/{explained}/understand")
    assert drawn(page) == FIGURES
    expect(page.locator("#plot-slices .hm")).to_have_count(1)
    assert page.locator("#plot-learning .annotation").all_text_contents() == ["rung 1", "rung 2", "rung 3"]
    expect(page.locator("#plot-learning .legend")).to_contain_text("stopped")
    expect(page.locator("#plot-contexts .lines path.js-line")).to_have_count(20 + 1)
    told = page.locator("section table tbody tr").all_inner_texts()
    assert {tuple(line.split("\t")[:3]) for line in told} == {
        ("based", objective, knob)
        for objective in ("recall", "decode tokens/s")
        for knob in ("window_size", "feature_dim")
    }
    reader.context.close()
    assert reader.complaints == []


def test_a_trial_that_needs_plug_ins_has_no_button_to_run_it(
    browser: Any, served: Served, explained: str
) -> None:
    reader = Looked(browser, served)
    page = reader.open(f"/recallfront/sweeps/{explained}")
    show_panel_and_choice(page)
    expect(page.locator("#decide [data-pick]")).to_be_visible()
    assert page.locator("[data-rerun]").count() == 0
    commands = page.locator("#panel .command code").all_inner_texts()
    assert [" --plugin mine.py " in text for text in commands if " rerun " in text] == [True]
    reader.context.close()
    assert reader.complaints == []


def tab_to(page: Any, wanted: str) -> Any:
    """Go on by Tab alone until this has the focus -> it."""
    for _ in range(150):
        page.keyboard.press("Tab")
        if page.evaluate("(wanted) => document.activeElement.matches(wanted)", wanted):
            return page.locator(":focus")
    raise AssertionError(f"Tab does not lead to {wanted}")


@in_every_light
def test_a_sweep_is_filtered_read_and_decided_on_by_tab_alone(
    browser: Any, served: Served, screen: str
) -> None:
    reader = Looked(browser, served, **IN_EVERY_LIGHT[screen])
    page = reader.sweep("finished")
    tab_to(page, "#controls [name=where]")
    page.keyboard.type("recall >= 0.9")
    expect(page.locator("#found")).to_have_text("4 of 12 configurations")
    tab_to(page, "#architectures [value=based]")
    page.keyboard.press("Space")
    expect(page.locator("#found")).to_have_text("3 of 12 configurations")
    assert not [name for name in rows(page) if name.startswith("based")]

    row = tab_to(page, "#configurations tbody input")
    name = row.get_attribute("aria-label")
    page.keyboard.press("Enter")
    panel = page.locator("#panel")
    expect(panel).to_be_focused()
    expect(panel.locator("article h3")).to_contain_text(name)
    tab_to(page, "#panel .command code")
    tab_to(page, "#panel [data-copy]")
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(page.locator("#configurations tbody input >> nth=0")).to_be_focused()

    tab_to(page, "#decide [name=where]")
    page.keyboard.type("recall >= 0.9")
    tab_to(page, "#decide form button")
    page.keyboard.press("Enter")
    expect(page.locator("#decide .reason")).to_contain_text("recall >= 0.9")
    tab_to(page, "#decide [data-look]")
    page.keyboard.press("Enter")
    expect(panel).to_be_focused()
    expect(panel.locator("article")).to_have_count(1)
    asked = reader.asked()
    assert asked["where"] == asked["constraint"] == ["recall >= 0.9"] and asked["without"] == ["based"]
    reader.context.close()
    assert reader.complaints == []


@in_every_light
def test_sweeps_are_found_sorted_explained_and_compared_by_tab_alone(
    browser: Any, served: Served, screen: str
) -> None:
    first, second = served.sweeps["finished"], served.sweeps["running"]
    reader = Looked(browser, served, **IN_EVERY_LIGHT[screen])
    page = reader.open("/recallfront/")
    press = page.keyboard.press
    tab_to(page, "[name=search]")
    page.keyboard.type("quickstart")
    press("Enter")
    expect(page.locator(".sweep")).to_have_count(1)
    tab_to(page, ".sweep")
    press("Enter")
    page.wait_for_selector("#configurations tbody tr")

    tab_to(page, "#knobs summary")
    press("Enter")
    tab_to(page, "[data-knob=window_size][data-end='0']")
    page.keyboard.type("16")
    expect(page.locator("#found")).to_have_text("2 of 12 configurations")
    tab_to(page, "[data-sort=decode_tokens_per_second]")
    for fastest, slowest in (("griffin", "window"), ("window", "griffin")):
        press("Enter")
        expected = [f"{name} · window_size 16" for name in (fastest, slowest)]
        assert rows(page) == expected

    tab_to(page, "#live a[href$=understand]")
    press("Enter")
    expect(page).to_have_title("quickstart: understand · recallfront")
    drawn(page)
    tab_to(page, ".wide-plot")
    tab_to(page, "nav a[href$=compare]")
    press("Enter")
    expect(page).to_have_title("Compare · recallfront")
    for run in (first, second):
        tab_to(page, f"[name=sweep][value='{run}']")
        press("Space")
    tab_to(page, "p:not(.pages) > button")
    press("Enter")
    heading = page.locator("section h2").first
    expect(heading).to_contain_text(" against ")
    drawn(page)
    names = heading.inner_text().split(" against ")
    assert set(names) == {"quickstart", f"running-study {EVIL}"}
    tab_to(page, "[name=with]")
    press("ArrowDown")
    tab_to(page, "form button:not([name])")
    press("Enter")
    expect(heading).to_have_text(" against ".join(reversed(names)))
    drawn(page)
    reader.context.close()
    assert reader.complaints == []


@pytest.fixture(scope="module")
def crowded(
    tmp_path_factory: pytest.TempPathFactory, make_record: Callable[..., SweepRecord]
) -> Iterator[Served]:
    """A server of more sweeps than a page of the list holds."""
    home = tmp_path_factory.mktemp("crowded")
    uri = ready_store(home)
    sweeps = {
        "first": write(make_record(2, name="crowd"), uri, "finished"),
        "best": write(make_record(6, name="best-study", sweep_key="be57".ljust(64, "0")), uri, "finished"),
        "other": write(make_record(1, name="other-study", sweep_key="beef".ljust(64, "0")), uri, "running"),
    }
    copy_sweep(home, sweeps["first"], COPIES)
    found = Served(home, sweeps)
    yield found
    assert found.stop(signal.SIGINT) == 0


@on_each_screen
def test_the_list_of_sweeps_is_paged_searched_sorted_and_filtered(
    browser: Any, crowded: Served, screen: str
) -> None:
    reader = Looked(browser, crowded, **SCREENS[screen])
    page = reader.open("/recallfront/")
    cards, names = page.locator(".sweep"), page.locator(".sweep h2")
    expect(cards).to_have_count(50)
    expect(page.locator(".spark polyline").first).to_be_attached()
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="2", exact=True).click()
    expect(cards).to_have_count(COPIES + 3 - 50)
    expect(page.locator(".pages [aria-current=page]")).to_have_text("2")

    page.fill("[name=search]", "other STUDY")
    page.keyboard.press("Enter")
    expect(names).to_have_text(["other-study"])
    assert reader.asked()["search"] == ["other STUDY"] and page.input_value("[name=search]") == "other STUDY"
    page.fill("[name=search]", "")
    page.select_option("[name=sort]", "hypervolume")
    page.get_by_role("button", name="Show").click()
    expect(names.first).to_have_text("best-study")
    volumes = [float(text.replace(",", "")) for text in page.locator(".spark-row b").all_inner_texts()]
    assert len(volumes) == 50 and volumes == sorted(volumes, reverse=True)
    page.select_option("[name=state]", "running")
    page.get_by_role("button", name="Show").click()
    expect(names).to_have_text(["other-study"])
    assert page.locator(".sweep .pill").all_inner_texts() == ["running"]
    cards.click()
    expect(page.locator("h1")).to_have_text("other-study")
    reader.context.close()
    assert reader.complaints == []


@on_each_screen
def test_sweeps_are_chosen_and_compared_with_either(browser: Any, served: Served, screen: str) -> None:
    first, second = served.sweeps["finished"], served.sweeps["running"]
    reader = Looked(browser, served, **SCREENS[screen])
    page = reader.open("/recallfront/")
    page.get_by_role("link", name="Compare", exact=True).click()
    page.check(f"[name=sweep][value='{first}']")
    page.fill("[name=search]", "running-study")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".choose input")).to_have_count(2)
    assert page.is_checked(f"[name=sweep][value='{first}']"), "what is chosen stays so"
    page.check(f"[name=sweep][value='{second}']")
    compare = page.get_by_role("button", name="Compare", exact=True)
    compare.click()
    heading = page.locator("section h2").first
    expect(heading).to_have_text(f"running-study {EVIL} against quickstart")
    drawn(page)
    assert reader.asked()["sweep"] == [first, second]

    page.check(f"[name=with][value='{second}']")
    compare.click()
    expect(heading).to_have_text(f"quickstart against running-study {EVIL}")
    drawn(page)
    assert page.is_checked(f"[name=with][value='{second}']") and reader.asked()["with"] == [second]
    page.get_by_role("button", name="Choose others").click()
    expect(page.locator(".choose input:checked")).to_have_count(2)
    reader.context.close()
    assert reader.complaints == []
