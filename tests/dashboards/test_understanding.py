"""The figures that explain a sweep."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from recallfront.dashboards.understanding import (
    device_seconds,
    effects_figure,
    lanes_of,
    parallel_figure,
    slices_figure,
    state_figure,
    timeline_figure,
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


def test_recall_by_slice_needs_slices(record: SweepRecord) -> None:
    assert slices_figure(build_front(record)) is None
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
    assert device_seconds(view) == {"finished": 150.0, "failed": 15.0}
    assert timeline_figure(view_of(make_record(0), "7"), now) is None
