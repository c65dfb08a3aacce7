"""A sweep's page in a real headless Chromium: clicked, typed into and read as a person does."""

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dashboards.browser import SCREENS, Looked, expect, rows
from tests.dashboards.served import Served

pytestmark = [
    pytest.mark.slow,
    # SQLAlchemy 2.1 finds fault with MLflow's models as they are imported
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]


SHOWN = "document.querySelector('#plot-front').data.flatMap((trace) => trace.meta?.rows ?? []).length"
# its legend, the room beside its panel and the time of a filter are a wide screen's
WIDE_ALONE = pytest.mark.parametrize("finished", ["wide"], indirect=True)


@pytest.fixture(scope="module", params=list(SCREENS))
def finished(request: pytest.FixtureRequest, browser: Any, served: Served) -> Iterator[Looked]:
    """The page of a finished sweep, opened once on each screen."""
    found = Looked(browser, served, **SCREENS[request.param])
    found.sweep("finished")
    yield found
    found.context.close()


@pytest.fixture
def looked(finished: Looked) -> Iterator[Looked]:
    """The same as it was when it was opened; what it complains about fails the test."""
    finished.page.keyboard.press("Escape")
    finished.page.click("#reset")
    expect(finished.page.locator("#found")).to_have_text("12 of 12 configurations")
    assert finished.asked() == {}
    assert comes(finished.page, f"{SHOWN} === 12")  # the picture follows filters when they have settled
    yield finished
    assert finished.complaints == []


def test_the_filters_and_the_axes_are_in_the_address(looked: Looked) -> None:
    page = looked.page
    assert len(rows(page)) == 12
    page.select_option("[name=x]", "state_bytes")
    page.select_option("[name=ys]", "errors")
    page.select_option("[name=colour]", "decode_tokens_per_second")
    page.uncheck("#architectures >> [value=based]")
    assert len(rows(page)) == 8
    page.fill("[name=where]", "recall >= 0.7 and architecture != hawk")
    expect(page.locator("#found")).to_have_text("6 of 12 configurations")
    page.click("[data-sort=decode_tokens_per_second]")
    first = rows(page)
    assert first[0].startswith("griffin · window_size 8")
    asked = looked.asked()
    assert asked["x"] == ["state_bytes"] and asked["without"] == ["based"] and asked["ys"] == ["errors"]

    again = Looked(looked.context.browser, looked.served)
    again.open(page.url.removeprefix(looked.served.uri))
    expect(again.page.locator("#found")).to_have_text("6 of 12 configurations")
    assert rows(again.page) == first and again.page.input_value("[name=x]") == "state_bytes"
    assert "1 − recall" in again.page.locator("#plot-front").text_content()
    again.context.close()


def test_what_is_wrong_with_a_condition_is_said_at_its_field(looked: Looked) -> None:
    page = looked.page
    page.fill("[name=where]", "recal >= 0.7")
    expect(page.locator("#where-error")).to_contain_text("did you mean recall?")
    assert page.get_attribute("[name=where]", "aria-invalid") == "true"
    page.fill("[name=where]", "recall >= 0.9")
    expect(page.locator("#found")).to_have_text("4 of 12 configurations")
    expect(page.locator("#where-error")).to_be_hidden()


def test_knobs_filter(looked: Looked) -> None:
    page = looked.page
    page.click("#knobs summary")
    page.fill("[data-knob=window_size][data-end='0']", "16")
    assert sorted(rows(page)) == ["griffin · window_size 16", "window · window_size 16"]
    assert looked.asked()["knob"] == ["window_size|16|"]


@WIDE_ALONE
def test_the_legend_hides_an_architecture_and_brings_it_back(looked: Looked) -> None:
    page, found = looked.page, looked.page.locator("#found")
    entry = page.locator("#plot-front .legend .traces", has_text="based").locator(".legendtoggle")
    entry.click()
    expect(found).to_have_text("8 of 12 configurations")
    assert looked.asked() == {"without": ["based"]}
    entry.click()
    expect(found).to_have_text("12 of 12 configurations")
    assert looked.asked() == {} and len(rows(page)) == 12


# filters in quick succession, and what each shows before the browser does anything else
_QUICK = """(boxes) => {
  if (window.painted === undefined) {
    const { react } = Plotly;
    Plotly.react = (place, ...rest) => {
      if (place.id === "plot-front") painted += 1;
      return react(place, ...rest);
    };
  }
  window.painted = 0;
  return boxes.map((value) => {
    document.querySelector(`#architectures [value=${value}]`).click();
    const marks = [...document.querySelectorAll("#plot-front .trace:has(.point)")]
      .filter((trace) => trace.__data__[0].trace.meta).flatMap((trace) => [...trace.querySelectorAll(".point")]);
    return [
      document.querySelector("#found").textContent, document.querySelectorAll("#configurations tbody tr").length,
      marks.filter((mark) => getComputedStyle(mark).display !== "none").length,
      new URLSearchParams(location.search).getAll("without").length,
    ];
  });
}"""


@WIDE_ALONE
def test_quick_filters_show_at_once_and_the_picture_is_painted_once(looked: Looked) -> None:
    page = looked.page
    page.wait_for_timeout(500)  # until the picture has settled
    told = page.evaluate(_QUICK, ["based", "griffin", "based", "griffin", "based"])
    left = [(8, 1), (6, 2), (10, 1), (12, 0), (8, 1)]
    assert told == [[f"{n} of 12 configurations", n, n, without] for n, without in left]
    assert comes(page, f"painted === 1 && {SHOWN} === 8")
    page.wait_for_timeout(500)
    assert page.evaluate("painted") == 1 and page.locator(".left-out").count() == 0
    page.check("#architectures >> [value=based]")
    assert comes(page, f"{SHOWN} === 12") and page.locator(".left-out").count() == 0


@WIDE_ALONE
def test_half_of_a_condition_leaves_the_picture_as_it_is(looked: Looked) -> None:
    page = looked.page
    page.wait_for_timeout(500)
    page.evaluate(_QUICK, [])
    page.fill("[name=where]", "architecture ==")
    assert comes(page, "!document.querySelector('#where-error').hidden")
    page.wait_for_timeout(500)
    assert page.evaluate("painted") == 0
    page.fill("[name=where]", "architecture == based")
    assert comes(page, "painted === 1")


def test_a_click_on_a_mark_shows_its_panel_and_its_curves(looked: Looked) -> None:
    page = looked.page
    mark = page.locator("#plot-front .scatterlayer .points path").nth(3)
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    panel = page.locator("#panel")
    expect(panel.locator(".curve .scatterlayer .trace")).to_have_count(4)  # two seeds, loss and recall
    said = panel.inner_text()
    assert "recallfront pick 5eed0000 --where" in said and "recallfront rerun" in said
    assert "seed 0" in said and "seed 1" in said and "recallfront run quickstart.yaml" in said
    assert panel.locator("a[href*='/#/experiments/']").count() == 2
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()


@WIDE_ALONE
def test_the_picture_makes_room_for_the_panel(looked: Looked) -> None:
    page = looked.page
    page.check("#configurations tbody tr input >> nth=0")
    expect(page.locator("#panel article")).to_have_count(1)
    assert right_ends(page, "plot <= place && place < 950")
    page.keyboard.press("Escape")
    assert right_ends(page, "plot === place && place > 1100")


def right_ends(page: Any, holds: str) -> bool:
    """Whether the right ends of the picture and of its place come to lie so, in pixels."""
    asked = "((plot, place) => HOLDS)(...['#plot-front .main-svg', '#plot-front'].map("
    asked += "(part) => Math.round(document.querySelector(part).getBoundingClientRect().right)))"
    return comes(page, asked.replace("HOLDS", holds))


def comes(page: Any, condition: str) -> bool:
    """Whether a condition in JavaScript comes to hold."""
    for _ in range(100):
        if page.evaluate(condition):
            return True
        page.wait_for_timeout(100)
    return False


def test_with_the_keyboard_alone_two_are_compared(looked: Looked) -> None:
    page = looked.page
    page.focus("#configurations tbody input >> nth=0")
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator("#panel h2")).to_have_text("2 configurations")
    assert page.locator("#panel article").count() == 2 and len(looked.asked()["show"]) == 2


def test_the_focus_goes_to_the_panel_and_back(looked: Looked) -> None:
    page = looked.page
    box = page.locator("#configurations tbody input >> nth=1")
    box.press("Enter")
    panel = page.locator("#panel")
    expect(panel).to_be_focused()
    expect(panel.locator("article")).to_have_count(1)
    page.keyboard.press("Tab")
    expect(panel.locator("[data-close]")).to_be_focused()
    page.keyboard.press("Enter")
    expect(panel).to_be_hidden()
    expect(box).to_be_focused()
    page.keyboard.press("Space")
    expect(panel.locator("article")).to_have_count(1)
    expect(box).to_be_focused()


def choose_griffin(page: Any) -> Any:
    """Choose the griffin of the highest recall -> the part of the page that decides."""
    decide = page.locator("#decide")
    decide.locator("[name=where]").fill("architecture == griffin")
    decide.locator("[name=by]").select_option("max recall")
    decide.locator("form button").click()
    expect(decide.locator(".reason")).to_contain_text("griffin · window_size 16 has the highest")
    return decide


@pytest.mark.parametrize("screen", SCREENS)
def test_a_choice_is_explained(browser: Any, served: Served, screen: str) -> None:
    alone = Looked(browser, served, **SCREENS[screen])
    page = alone.sweep("finished")
    decide = page.locator("#decide")
    decide.locator("[name=where]").fill("recall > 2")
    decide.locator("form button").click()
    expect(decide.locator("#choice-error")).to_contain_text("there is no member of the front with recall > 2")
    choose_griffin(page)
    expect(decide.locator("#choice-error")).to_be_hidden()
    command = "recallfront pick 5eed0000 --where 'architecture == griffin' --max recall"
    assert decide.locator(".outcome code").inner_text().startswith(command)
    decide.locator("[data-look]").click()
    expect(page.locator("#panel article h3")).to_contain_text("griffin · window_size 16")
    alone.context.close()
    assert alone.complaints == []


def test_a_choice_is_picked_and_remembered(browser: Any, served: Served) -> None:
    alone = Looked(browser, served)
    decide = choose_griffin(alone.sweep("finished"))
    decide.locator("[data-pick]").click()
    expect(decide.locator(".done")).to_contain_text(
        "registered quickstart version 1 as models:/quickstart@pareto-pick"
    )
    expect(decide.locator(".picked tbody tr")).to_have_count(1)
    assert "griffin · window_size 16" in decide.locator(".picked").inner_text()
    alone.context.close()
    assert alone.complaints == []


def draw_box(page: Any) -> None:
    """Over nearly all of the picture."""
    page.hover("#plot-front")
    page.click("#plot-front .modebar-btn[data-title='Box Select']")
    area = page.locator("#plot-front .nsewdrag").bounding_box()
    page.mouse.move(area["x"] + 2, area["y"] + 2)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] - 2, area["y"] + 0.85 * area["height"], steps=4)
    page.mouse.up()


def test_a_box_on_the_picture_is_a_constraint(browser: Any, served: Served) -> None:
    alone = Looked(browser, served)
    page = alone.sweep("finished", "?ys=errors&x=state_bytes")
    draw_box(page)
    box = page.locator("#box")
    expect(box).to_contain_text("configurations in the box, of which the first 8 are chosen: state_bytes >= ")
    count = int(box.inner_text().split()[0])
    assert 8 < count < 12 and len(alone.asked()["show"]) == 8
    page.keyboard.press("Escape")
    expect(page.locator("[data-box=decide]")).to_be_visible()
    page.click("[data-box=filter]")
    expect(page.locator("#found")).to_have_text(f"{count} of 12 configurations")
    page.click("[data-box=decide]")
    expect(page.locator("#decide .reason")).to_contain_text("recall >= 0.")
    assert alone.asked()["constraint"] == alone.asked()["where"] and "choose=" in page.url
    page.click("[data-of=history][data-scale='2']")

    again = Looked(browser, served)
    again.open(page.url.removeprefix(served.uri))
    expect(again.page.locator("#decide .reason")).to_have_text(page.locator("#decide .reason").inner_text())
    assert again.page.get_attribute("[data-of=history][data-scale='2']", "aria-pressed") == "true"
    for one in (alone, again):
        one.context.close()
        assert one.complaints == []


def test_a_box_by_the_test_split_decides_nothing(browser: Any, served: Served) -> None:
    alone = Looked(browser, served)
    page = alone.sweep("finished", "?y=recall&x=state_bytes")
    draw_box(page)
    expect(page.locator("[data-box=filter]")).to_be_visible()
    expect(page.locator("[data-box=decide]")).to_be_hidden()
    alone.context.close()
    assert alone.complaints == []


def test_colours_tell_spreads_and_logarithms(browser: Any, served: Served) -> None:
    alone = Looked(browser, served)
    page = alone.sweep("finished")
    colours = "document.querySelector('#plot-front').data"
    colours += ".flatMap((trace) => trace.meta?.rows ? trace.marker.color : [])"
    page.select_option("[name=colour]", "state_bytes")
    assert max(page.evaluate(colours)) == pytest.approx(math.log10(1_048_576))
    assert page.locator("#plot-front .cbaxis text").all_text_contents() == ["10,000", "100,000", "1,000,000"]
    page.select_option("[name=colour]", "decode_tokens_per_second spread")
    assert max(page.evaluate(colours)) == pytest.approx(0.02 * 6020)
    # an architecture with one configuration makes no room around it
    ends = page.evaluate(
        "(({ cmin, cmax }) => [cmin, cmax])(document.querySelector('#plot-front').layout.coloraxis)"
    )
    assert ends == [pytest.approx(end) for end in (min(page.evaluate(colours)), max(page.evaluate(colours)))]
    named = "document.querySelector('#plot-front').data.flatMap((trace) => trace.meta && trace.showlegend !== false"
    named += " ? [[trace.meta.architecture, trace.marker.color]] : [])"
    legend = page.evaluate(named)
    assert len(dict(legend)) == len(legend) > 2 and {colour for _, colour in legend} == {"#7b8794"}
    page.select_option("[name=size]", "validation_recall spread")
    assert alone.asked()["size"] == ["validation_recall spread"]
    assert "decode tokens/s, spread" in page.locator("#configurations thead").inner_text()
    alone.context.close()
    assert alone.complaints == []


def test_a_server_that_fails_is_said_where_it_was_asked(browser: Any, served: Served) -> None:
    alone = Looked(browser, served)
    page = alone.sweep("finished")
    page.route(re.compile("/choice"), lambda route: route.fulfill(status=500, body="<h1>no</h1>"))
    page.route(re.compile("/configurations/"), lambda route: route.abort())
    page.click("#decide form button")
    expect(page.locator("#choice-error")).to_have_text("the server fails with status 500")
    page.check("#configurations tbody input >> nth=0")
    expect(page.locator("#panel .failure")).to_have_text("the server does not answer")
    page.unroute_all()
    page.keyboard.press("Escape")
    page.check("#configurations tbody input >> nth=0")
    expect(page.locator("#panel article")).to_have_count(1)
    alone.context.close()
    assert [text for text in alone.complaints if not text.startswith("Failed to load resource")] == []


def test_mlflow_s_own_pages_open_an_experiment_on_its_runs(browser: Any, served: Served) -> None:
    """From its home and its list, for who has seen ours; what a reader has chosen there stays."""
    looked = Looked(browser, served)
    page = looked.open("/recallfront/")
    expect(page.locator("main a[href*='sweeps']").first).to_be_visible()
    for start in ("/#/", "/#/experiments"):
        looked.open(start)
        where = page.locator("a[href*='experiments/']", has_text="new-study").first.get_attribute("href")
        page.goto("about:blank")  # else the page would not be loaded, but for its fragment
        looked.open(f"/{where}")
        expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
    page.evaluate("localStorage.setItem('mlflow.workflowType_v1', JSON.stringify('genai'))")
    looked.open("/recallfront/")
    assert page.evaluate("localStorage.getItem('mlflow.workflowType_v1')") == '"genai"'
    looked.context.close()


def test_a_condition_that_cannot_be_read_leaves_the_address_of_what_is_shown(
    browser: Any, served: Served
) -> None:
    looked = Looked(browser, served)
    page = looked.sweep("finished")
    page.fill("#controls [name=where]", "architecture != griffin")
    expect(page.locator("#found")).to_have_text("10 of 12 configurations")
    page.fill("#controls [name=where]", "foo(")
    expect(page.locator("#where-error")).to_be_visible()
    assert looked.asked()["where"] == ["architecture != griffin"]
    page.reload()
    expect(page.locator("#found")).to_have_text("10 of 12 configurations")
    looked.context.close()
