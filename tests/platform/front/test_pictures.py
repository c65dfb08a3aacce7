"""The pictures of a front: what is drawn where, what is told, and that nothing gets out of its text."""

import itertools
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from recallfront.platform.errors import UsageError
from recallfront.platform.front.front import Front, build_front
from recallfront.platform.front.history import hypervolume_history
from recallfront.platform.front.next_steps import next_commands
from recallfront.platform.front.pictures.appearance import (
    MARKS,
    axes_of,
    short_label,
    short_number,
    staircase,
)
from recallfront.platform.front.pictures.figures import (
    front_figure,
    front_html,
    history_figure,
    write_front,
    write_plot,
)
from recallfront.platform.front.pictures.note import paragraph, sweep_note
from recallfront.platform.front.pictures.png import draw_front, picture
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.writer import MAX_TAG, shorten

MakeRecord = Callable[..., SweepRecord]


@pytest.fixture
def front(record: SweepRecord) -> Front:
    return build_front(record)


def traces(front: Front) -> dict[str, Any]:
    return {trace["name"]: trace for trace in json.loads(front_figure(front).to_json())["data"]}


def test_every_architecture_has_its_own_colour_and_symbol() -> None:
    assert len({mark.colour for mark in MARKS.values()}) == len(MARKS)
    assert len({mark.symbol for mark in MARKS.values()}) == len(MARKS)
    # the strokes of a formula would be thinner than the white edge of a mark on the front
    assert not any(str(mark.marker).startswith("$") for mark in MARKS.values())
    assert len({mark.marker for mark in MARKS.values()}) == len(MARKS)


@pytest.mark.parametrize("architecture", [*MARKS, "of_a_plug_in"])
def test_every_mark_can_be_drawn(record: SweepRecord, architecture: str, tmp_path: Path) -> None:
    of_one = [
        replace(trial, config={**trial.config, "model": {"architecture": architecture}})
        for trial in record.trials[:2]
    ]
    draw_front(build_front(replace(record, trials=tuple(of_one))), tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 10_000


def test_every_candidate_is_drawn_once_with_its_spreads(front: Front) -> None:
    drawn = traces(front)
    assert set(drawn) == {"front", "knee", "attention", "window", "based", "griffin", "hawk", "grouped"}
    assert sum(len(drawn[name]["customdata"]) for name in drawn if name in MARKS) == len(front.candidates)
    (attention,) = (c for c in front.candidates if c.architecture == "attention")
    trace = drawn["attention"]
    assert trace["marker"]["color"] == MARKS["attention"].colour
    assert trace["marker"]["symbol"] == ["circle"]
    assert trace["y"] == [attention.metrics["validation_recall"]]
    for bars, reading in (("error_y", "validation_recall"), ("error_x", "decode_tokens_per_second")):
        for side in ("array", "arrayminus"):
            assert trace[bars][side] == pytest.approx([attention.spreads[reading]])
    assert trace["customdata"] == [list(attention.run_ids)]
    assert all(symbol.endswith("-open") for symbol in drawn["window"]["marker"]["symbol"])


def test_error_bars_and_axes_stay_within_what_a_figure_can_be(record: SweepRecord) -> None:
    noisy = [
        replace(
            trial,
            metrics=trial.metrics | {"decode_tokens_per_second_spread": 20_000.0, "validation_recall": r},
        )
        for trial, r in zip(record.trials, [0.0, 1.0] * 12, strict=True)
    ]
    front = build_front(replace(record, trials=tuple(noisy[:12]) + tuple(noisy[13:] + noisy[12:13])))
    for name, trace in traces(front).items():
        if name in MARKS:
            for values, bars in (("x", "error_x"), ("y", "error_y")):
                lows = [v - below for v, below in zip(trace[values], trace[bars]["arrayminus"], strict=True)]
                assert min(lows) >= 0
            assert (
                max(y + up for y, up in zip(trace["y"], trace["error_y"]["array"], strict=True)) <= 1 + 1e-12
            )
    for axis in axes_of(front):
        assert -0.03 * (axis.high - axis.low) <= axis.low <= 0
    layout = json.loads(front_figure(front).to_json())["layout"]
    assert layout["xaxis"]["automargin"] and layout["yaxis"]["automargin"]


def test_a_button_draws_errors_on_a_logarithmic_axis(record: SweepRecord) -> None:
    """Recall from 0.98 to 1 is one line otherwise; what makes no error stands above all that do."""
    perfect = [replace(t, metrics=t.metrics | {"validation_recall": 1.0}) for t in record.trials[:1]]
    front = build_front(replace(record, trials=(*perfect, *record.trials[1:12])))
    figure = json.loads(front_figure(front).to_json())
    plain, logs = (button["args"] for button in figure["layout"]["updatemenus"][0]["buttons"])
    assert plain[0]["y"] == [trace["y"] for trace in figure["data"]]
    assert logs[1]["yaxis.type"] == "log" and logs[1]["yaxis.range"][0] > logs[1]["yaxis.range"][1]
    drawn = {trace["name"]: ys for trace, ys in zip(figure["data"], logs[0]["y"], strict=True)}
    least = min(1 - t.metrics["validation_recall"] for t in record.trials[1:12])
    assert drawn["attention"] == [pytest.approx(least / 2)]
    low, high = (10**end for end in logs[1]["yaxis.range"][::-1])
    assert all(low < y for ys in drawn.values() for y in ys) and high > least
    for ys, down in zip(logs[0]["y"], logs[0]["error_y.arrayminus"], strict=True):
        assert all(y - d > 0 for y, d in zip(ys, down or [], strict=False)), "a logarithm has no 0"
    smaller = {"metric": "state_bytes", "direction": "min", "reference": 2e6}
    other = build_front(replace(record, spec={"objectives": [smaller, *record.spec["objectives"][1:]]}))
    assert "updatemenus" not in json.loads(front_figure(other).to_json())["layout"]


def test_hover_tells_knobs_figures_and_runs(front: Front) -> None:
    text = next(
        t for t in traces(front)["based"]["hovertext"] if "feature_dim = 8" in t and "window_size = 8" in t
    )
    assert "<b>based</b>" in text and "on the front" in text and "2 seeds, best run 09" in text
    assert re.search(
        r"recall: 0\.9\d\d ±0\.0\d\d<br>decode tokens/s: 3,700 ±74<br>recall on test: 0\.9", text
    )
    assert "state: 73.0 KiB" in text


def test_the_knee_is_ringed(front: Front) -> None:
    assert front.knee is not None
    ring = traces(front)["knee"]
    assert ring["x"] == [front.knee.metrics["decode_tokens_per_second"]]
    assert ring["marker"]["symbol"] == "circle-open"


def test_the_staircase_runs_along_the_front_from_side_to_side(front: Front) -> None:
    across, up = axes_of(front)
    xs, ys = staircase(front, across, up)
    assert (xs[0], ys[-1]) == (across.low, up.low)
    assert xs == sorted(xs) and ys == sorted(ys, reverse=True)
    corners = set(zip(xs, ys, strict=True))
    for member in front.members:
        assert (member.metrics["decode_tokens_per_second"], member.metrics["validation_recall"]) in corners


def test_the_staircase_of_an_objective_to_minimise_is_turned_round(record: SweepRecord) -> None:
    objectives = [
        record.spec["objectives"][0],
        {"metric": "state_bytes", "direction": "min", "reference": 2e6},
    ]
    front = build_front(replace(record, spec={"objectives": objectives}))
    across, up = axes_of(front)
    xs, ys = staircase(front, across, up)
    assert across.is_log and xs[0] == across.high
    assert xs == sorted(xs, reverse=True) and ys == sorted(ys, reverse=True)
    layout = json.loads(front_figure(front).to_json())["layout"]
    assert layout["xaxis"]["type"] == "log"
    assert layout["xaxis"]["title"]["text"] == "decode state (bytes), log scale"
    assert layout["xaxis"]["range"] == [math.log10(across.low), math.log10(across.high)]
    assert layout["xaxis"]["ticktext"] == ["2k", "5k", "10k", "20k", "50k", "100k", "200k", "500k", "1M"]


def test_three_objectives_have_no_staircase(record: SweepRecord) -> None:
    third = {"metric": "state_bytes", "direction": "min", "reference": 2e6}
    front = build_front(replace(record, spec={"objectives": [*record.spec["objectives"], third]}))
    assert "front" not in traces(front) and len(front.members) > 4


def test_all_four_files_are_written(front: Front, tmp_path: Path) -> None:
    paths = write_front(front, tmp_path / "new" / "folder")
    assert {kind: path.name for kind, path in paths.items()} == {
        kind: f"front.{kind}" for kind in ("html", "png", "csv", "json")
    }
    assert paths["png"].read_bytes().startswith(b"\x89PNG")
    assert json.loads(paths["json"].read_text())["sweep"] == "quickstart"
    assert len(paths["csv"].read_text().splitlines()) == 1 + len(front.candidates)
    page = paths["html"].read_text()
    assert "Plotly.newPlot" in page
    # all that it needs is in it: no script, style or picture is fetched
    assert not re.search(r"<script[^>]+src=|<link[^>]+href=|<img[^>]+src=[\"']?http", page)


def test_one_plot_is_written_by_its_suffix(front: Front, tmp_path: Path) -> None:
    for name, start in (("a.html", b"<!doctype html>"), ("b.png", b"\x89PNG")):
        write_plot(front, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    for name, message in (("c.pdf", "write FILE.html or FILE.png"), ("no/d.png", "No such file")):
        with pytest.raises(UsageError, match=message):
            write_plot(front, tmp_path / name)


def test_the_png_is_the_same_each_time(front: Front, tmp_path: Path) -> None:
    first, second = (write_front(front, tmp_path / name)["png"].read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_small_fronts_are_drawn_too(make_record: MakeRecord, finished: int, tmp_path: Path) -> None:
    front = build_front(make_record(finished, (Status.RUNNING,)))
    assert len(front.members) == finished
    write_front(front, tmp_path)
    texts = [
        note["text"] for note in json.loads(front_figure(front).to_json())["layout"].get("annotations", [])
    ]
    assert texts == ([] if finished else ["no finished trial"])


def test_labels_cover_neither_each_other_nor_the_edge(front: Front) -> None:
    figure = picture(front)
    (axes,) = figure.axes
    notes = [text for text in axes.texts if text.get_text()]
    labels = {note.get_text().removesuffix(" (knee)") for note in notes}
    assert labels == {short_label(candidate) for candidate in front.candidates}  # there is room for all
    boxes = [note.get_window_extent() for note in notes]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    inside = axes.get_window_extent()
    assert all(
        inside.x0 <= b.x0 and b.x1 <= inside.x1 and inside.y0 <= b.y0 and b.y1 <= inside.y1 for b in boxes
    )


def test_names_stay_text(make_record: MakeRecord, tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>$x_1$"
    record = make_record(3, name=evil)
    for trial in record.trials:
        trial.config["model"]["architecture"] = "_" + evil
        trial.config["model"]["window_size"] = f"<b>{trial.run_id}</b>"
    front = build_front(record)
    page = front_html(front)
    assert "<img src=x" not in page and page.count("&lt;/script&gt;") >= 2
    assert "&lt;b&gt;" in traces(front)[next(n for n in traces(front) if n.startswith("_"))]["hovertext"][0]
    write_front(front, tmp_path)  # Matplotlib reads neither mathematics nor a hidden label in it


def test_history_is_told_by_trials_hours_and_device_hours(record: SweepRecord) -> None:
    rows = hypervolume_history(record)
    figure = json.loads(history_figure(rows).to_json())
    assert figure["data"][0]["x"] == list(range(1, 25))
    assert figure["data"][0]["y"] == [row.hypervolume for row in rows]
    by = {button["label"]: button["args"] for button in figure["layout"]["updatemenus"][0]["buttons"]}
    assert by["hours"][0] == {"x": [[row.hours for row in rows]]}
    assert by["device-hours"][0] == {"x": [[row.device_hours for row in rows]]}
    assert by["training steps"][0] == {"x": [[300 * row.trials for row in rows]]}
    assert by["hours"][1] == {"xaxis.title.text": "hours since the first trial started"}
    assert json.loads(history_figure([]).to_json())["data"][0]["y"] == []


def test_labels_are_short(front: Front) -> None:
    labels = {short_label(candidate) for candidate in front.candidates}
    assert {"attention", "window, window 8", "based, window 4, feature 8", "grouped, group 16"} <= labels
    assert [short_number(v) for v in (0.5, 500, 2e4, 1.5e6, 3e9)] == ["0.5", "500", "20k", "1.5M", "3G"]


def test_the_note_leads_to_the_page_and_shows_the_front(
    record: SweepRecord, make_record: Callable[..., SweepRecord]
) -> None:
    front = build_front(record)
    told = "Why\n<b>this</b> | `runs`"
    note = sweep_note("abc", front, description=told, plugins=["mine.py"])
    assert "(/recallfront/sweeps/abc)" in note
    assert "8 of 12 configurations are on the front; hypervolume 5,296." in note
    rows = [line for line in note.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(front.members)
    assert rows[0] == "| configuration | recall | decode tokens/s |"
    assert any("(knee)" in row for row in rows)
    (block,) = re.findall(r"^```\n(.*?)^```$", note, re.DOTALL | re.MULTILINE)
    commands = next_commands(front, "5eed0000", plugins=["mine.py"])
    assert block.splitlines() == [command for _, command in commands]
    assert block.endswith("\nrecallfront report 5eed0000 --out report --plugin mine.py\n")
    shown = [
        "(/recallfront/",
        "\n\nWhy &lt;b&gt;this&lt;/b&gt; &#124; \\`runs\\`\n\n",
        "8 of 12",
        rows[-1],
        block,
    ]
    places = [note.index(part) for part in shown]
    assert places == sorted(places)
    assert "No finished trial" in sweep_note("abc", build_front(make_record(0)))


def test_the_note_takes_names_as_text(make_record: Callable[..., SweepRecord]) -> None:
    record = make_record(1)
    record.trials[0].config["model"]["architecture"] = "<b>|[x](y)`*"
    assert "| &lt;b&gt;&#124;\\[x\\](y)\\`\\* |" in sweep_note("abc", build_front(record))


def test_a_note_that_a_tag_has_no_room_for_tells_how_many_configurations_it_leaves_out(front: Front) -> None:
    def table(note: str) -> list[str]:
        return [line for line in note.splitlines() if line.startswith("| ")][2:]

    many = replace(front, candidates=front.candidates * 40)
    note = sweep_note("abc", many, description="x|" * 5000)
    assert note == shorten(note, MAX_TAG) and len(note) > MAX_TAG - 200
    assert set(table(note)) == set(table(sweep_note("abc", front))), "each row has its own figures"
    left = len(many.members) - len(table(note))
    assert f"|\n\n{left} more are on its page.\n\nNext" in note
    assert note.endswith(" --out report\n```")
    assert note.count("x&#124;") == 500 and "x&#124; ...\n" in note


@pytest.mark.parametrize(
    "text",
    [
        "_why_ and __init__",
        "~~gone~~",
        "# 1",
        "## of all",
        "- a list",
        "+ a list",
        "1. first",
        "2) second",
        "---",
        "===",
        "*a* [b](c) `d` \\e <f> &amp; | g",
    ],
)
def test_markdown_shows_a_description_as_it_stands(text: str) -> None:
    shown = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(paragraph(text))
    assert shown == f"<p>{escape(text, quote=False)}</p>\n"


def test_a_description_without_markup_stays_readable() -> None:
    told = "window_size 1.5 - 0.5 = 1.0, #2 of 3 (at -0.1)."
    assert paragraph(told) == told
