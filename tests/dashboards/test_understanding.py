"""The figures that explain a sweep."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from recallfront.dashboards.curves import contexts_figure, learning_figure
from recallfront.dashboards.timeline import device_seconds, lanes_of, timeline_figure
from recallfront.dashboards.understand_page import effects_of
from recallfront.dashboards.understanding import (
    effects_figure,
    parallel_figure,
    slices_figure,
    state_figure,
)
from recallfront.dashboards.views import view_of
from recallfront.platform.front.effects import effects
from recallfront.platform.front.front import build_front
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.status import Status

MakeRecord = Callable[..., SweepRecord]


def drawn(figure: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(figure.to_json())
    return found


def test_effects_have_a_column_a_knob_and_a_row_an_objective(record: SweepRecord) -> None:
    front = build_front(record)
    found = [e for o in front.objectives for e in effects(front.candidates, o.reading)]
    figure = drawn(effects_figure(found, front))
    knobs = {note["text"] for note in figure["layout"]["annotations"]}
    assert knobs == {"window_size", "feature_dim", "group_size"}
    assert len(figure["data"]) == len(found) == 10
    assert effects_figure([], front) is None


def test_what_is_not_told_apart_is_not_drawn(record: SweepRecord) -> None:
    front = build_front(record)
    named = effects(front.candidates, "validation_recall")
    dropped = [
        replace(effect, levels=(), untold=("4", "8")) for effect in named if effect.knob == "feature_dim"
    ]
    assert effects_figure(dropped, front) is None
    figure = effects_figure([*dropped, *(e for e in named if e.knob == "group_size")], front)
    assert figure is not None and {trace.name for trace in figure.data} == {"grouped"}


def test_the_levels_of_a_knob_stand_in_order_over_all_architectures(record: SweepRecord) -> None:
    front = build_front(record)
    found = effects(front.candidates, "validation_recall")
    windows = [[level.name for level in e.levels] for e in found if e.knob == "window_size"]
    assert sorted(windows) == [["4", "8"], ["8", "16"], ["8", "16"]]
    axes = drawn(effects_figure(found[::-1], front))["layout"]
    orders = {tuple(axes[name]["categoryarray"]) for name in ("xaxis", "xaxis2", "xaxis3")}
    assert orders == {("4", "8", "16"), ("4", "8"), ("8", "16")}


def test_a_sweep_that_has_not_changed_is_not_explained_again(record: SweepRecord) -> None:
    first = effects_of(build_front(record), "validation_recall")
    assert first and effects_of(build_front(record), "validation_recall") is first
    other = replace(record.trials[1], metrics=record.trials[1].metrics | {"validation_recall": 0.123})
    changed = build_front(replace(record, trials=(record.trials[0], other, *record.trials[2:])))
    assert effects_of(changed, "validation_recall") != first


def test_recall_by_slice_needs_slices(record: SweepRecord) -> None:
    assert slices_figure(build_front(record)) is None
    one_length = {"validation_recall_at_64": 0.5, "validation_recall_low": 0.5}
    trials = tuple(replace(t, metrics=t.metrics | one_length) for t in record.trials)
    assert slices_figure(build_front(replace(record, trials=trials))) is None, (
        "the length is that of all rows"
    )
    sliced = {f"validation_recall_at_{length}": 0.5 for length in (64, 256, 1024)}
    trials = tuple(replace(t, metrics=t.metrics | sliced) for t in record.trials)
    heat = drawn(slices_figure(build_front(replace(record, trials=trials))))["data"][0]
    assert heat["x"] == ["at 64", "at 256", "at 1024"] and len(heat["y"]) == 12
    assert heat["y"][0].startswith("1: ") and len(heat["z"]) == 12


def test_state_stands_beside_throughput_and_lines_cross_every_axis(record: SweepRecord) -> None:
    front = build_front(record)
    figure = drawn(state_figure(front))
    assert figure["layout"]["xaxis2"]["type"] == "log" and len(figure["data"]) == 12
    lines = drawn(parallel_figure(front))
    names = lines["layout"]["xaxis"]["ticktext"]
    assert names[3:] == ["recall", "decode tokens/s", "state"] and len(names) == 6
    values = [y for trace in lines["data"] for y in trace["y"] if y is not None]
    assert min(values) == 0 and max(values) == 1


def test_the_timeline_has_as_many_lines_as_ran_at_once(make_record: MakeRecord) -> None:
    record = make_record(10, (Status.DIVERGED, Status.RUNNING), tags={"status": "running"})
    now = record.trials[-1].start_time + 60.0
    lanes = lanes_of(record.trials, now)
    for index, trial in enumerate(record.trials):  # of 15 s each, one every 8 s
        before = zip(record.trials[:index], lanes, strict=False)
        assert lanes[index] not in [lane for t, lane in before if (t.end_time or now) > trial.start_time]
    assert max(lanes) == 1
    view = view_of(record, "7")
    figure = drawn(timeline_figure(view, now))
    assert {trace["name"] for trace in figure["data"]} == {"finished", "failed", "running"}
    legend = figure["layout"]["legend"]
    assert (legend["yref"], legend["yanchor"], legend["y"]) == ("container", "bottom", 0), "on no axis' title"
    assert device_seconds(view) == {"finished": 150.0, "failed": 15.0}
    assert timeline_figure(view_of(make_record(0), "7"), now) is None


def test_the_timeline_tells_waiting_measuring_and_training_apart(make_record: MakeRecord) -> None:
    record = make_record(1)
    known = replace(record.trials[0], tags={"node": "<b>"})
    trial = replace(known, metrics=known.metrics | {"wait_seconds": 2.0, "measure_seconds": 40.0})
    figure = drawn(timeline_figure(view_of(replace(record, trials=(trial,)), "7"), 0.0))
    told = [(trace["hovertext"][0].split(" ")[0], round(60 * trace["x"][0])) for trace in figure["data"]]
    assert sorted(told) == [("measuring", 13), ("waiting", 2)], (
        "no part is longer than what is left of the 15 s"
    )
    assert [trace["showlegend"] for trace in figure["data"]] == [True, False]
    assert "on &lt;b&gt;" in figure["data"][0]["hovertext"][0]


def test_a_trial_is_at_rest_until_it_is_promoted(make_record: MakeRecord) -> None:
    trial = make_record(1).trials[0]
    start = trial.start_time
    told = f"{start + 20}-{start + 80} nan-3 {start + 50}-{start + 60} {start + 95}-{start + 900} <b>"
    trial = replace(
        trial,
        end_time=start + 100.0,
        tags={"rests": told, "run_seconds": "40"},
        metrics=trial.metrics | {"measure_seconds": 5.0},
    )
    assert trial.rests == [(start + 20, start + 80)]
    figure = drawn(timeline_figure(view_of(replace(make_record(1), trials=(trial,)), "7"), 0.0))
    parts = [
        (trace["name"], bar.split(" ")[0], round(60 * base), round(60 * length))
        for trace in figure["data"]
        for bar, base, length in zip(trace["hovertext"], trace["base"], trace["x"], strict=True)
    ]
    assert sorted(parts) == [
        ("at rest", "at", 20, 60),
        ("finished", "measuring", 0, 5),
        ("finished", "training", 5, 15),
        ("finished", "training", 80, 20),
    ]
    assert {trace["name"] for trace in figure["data"] if trace["showlegend"]} == {"at rest", "finished"}


def test_curves_show_the_rungs_and_where_a_trial_was_stopped(make_record: MakeRecord) -> None:
    record = make_record(3, (Status.PRUNED, Status.RUNNING, Status.DIVERGED), tags={"status": "running"})
    spec = record.spec | {"early_stopping": {"first_rung_steps": 60, "reduction": 2}}
    stopped = record.trials[3]
    trials = tuple(replace(t, failure="at step 60 <b>") if t is stopped else t for t in record.trials)
    view = view_of(replace(record, spec=spec, trials=trials), "7")
    curves = {t.run_id: {"validation_recall": [(60, 0.1), (300, 0.5)]} for t in trials}
    curves[stopped.run_id] = {"validation_recall": [(60, 0.05)]}
    figure = drawn(learning_figure(view, curves))
    assert [note["text"] for note in figure["layout"]["annotations"]] == ["rung 1", "rung 2", "rung 3"]
    assert [line["x0"] for line in figure["layout"]["shapes"]] == [60, 120, 240]
    cross = figure["data"][-1]
    assert (cross["name"], cross["x"], cross["y"]) == ("stopped", [60], [0.05])
    assert "at step 60 &lt;b&gt;" in cross["hovertext"][0]
    assert len(figure["data"]) == 6, "four that ran to an end or on, the one that was stopped, and the cross"
    assert learning_figure(view, {}) is None


def test_throughput_over_context_needs_contexts(record: SweepRecord) -> None:
    assert contexts_figure(build_front(record)) is None
    rates = {f"decode_tokens_per_second_at_{context}": 1e6 / context for context in (4096, 64, 512)}
    trials = tuple(replace(t, metrics=t.metrics | rates) for t in record.trials)
    figure = drawn(contexts_figure(build_front(replace(record, trials=trials))))
    assert len(figure["data"]) == 12 and figure["data"][0]["x"] == [64, 512, 4096]
    assert figure["layout"]["xaxis"]["type"] == "log"
