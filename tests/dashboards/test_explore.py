"""What the explorer of a sweep's page is given."""

import json
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from recallfront.dashboards import explore
from recallfront.dashboards.explore import Explorer
from recallfront.dashboards.views import view_of
from recallfront.platform.errors import UsageError
from recallfront.platform.front.conditions import parse_conditions
from recallfront.platform.front.front import build_front
from recallfront.platform.front.pick import pick
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.status import Status

MakeRecord = Callable[..., SweepRecord]
OTHERS = (Status.DIVERGED, Status.ERROR, Status.PRUNED, Status.RUNNING)


def explorer(record: SweepRecord) -> Explorer:
    return Explorer(view_of(record, "7"))


def test_the_front_comes_first_and_every_configuration_has_a_row(record: SweepRecord) -> None:
    found = explorer(record).to_json()
    rows = found["rows"]
    assert len(rows) == found["total"] == 12
    assert [row["front"] for row in rows] == sorted((row["front"] for row in rows), reverse=True)
    assert rows[0]["label"] == "attention" and rows[0]["mark"] == "●"
    assert rows[0]["shown"] == ["0.993 ±0.000", "0.989 ±0.000", "1,450 ±29", "1.0 MiB"]
    assert sum(row["knee"] for row in rows) == 1 and 0 < sum(row["share"] for row in rows) <= 1
    by_name = {metric["name"]: metric for metric in found["metrics"]}
    assert by_name["validation_recall"]["isShare"] and not by_name["validation_recall"]["isLog"]
    assert by_name["state_bytes"]["isLog"] and by_name["state_bytes"]["values"][0] == 1048576.0
    assert all(len(metric["values"]) == 12 for metric in found["metrics"])
    (window,) = (knob for knob in found["knobs"] if knob["name"] == "window_size")
    assert window["isNumber"] and window["values"].count(None) == 4


def test_what_repeats_the_recall_of_all_rows_is_no_choice(record: SweepRecord) -> None:
    one = {"validation_recall_at_64": 0.5, "recall_at_64": 0.5, "recall_at_512": 0.5}
    trials = tuple(replace(trial, metrics=trial.metrics | one) for trial in record.trials)
    names = {metric["name"] for metric in explorer(replace(record, trials=trials)).to_json()["metrics"]}
    assert names & one.keys() == {"recall_at_64", "recall_at_512"}


def test_what_has_not_finished_has_a_row_as_well(make_record: MakeRecord) -> None:
    view = view_of(make_record(8, OTHERS, tags={"status": "running"}), "7")
    rows = Explorer(view).rows
    assert [row.status for row in rows[8:]] == ["failed", "failed", "pruned", "running"]
    killed = view_of(make_record(8, OTHERS, tags={"status": "running"}), "7", driverless=True)
    assert Explorer(killed).rows[-1].status == "unfinished"


def test_a_configuration_with_a_seed_that_runs_still_has_finished(make_record: MakeRecord) -> None:
    record = make_record(12, (Status.RUNNING,) * 12, tags={"status": "running"})
    rows = explorer(record).to_json()["rows"]
    assert {(row["status"], row["runs"], row["doubts"]) for row in rows} == {
        ("finished", True, "1 of 2 seeds")
    }
    assert any(row["front"] and row["mark"] for row in rows)


def test_conditions_are_those_of_pick(record: SweepRecord) -> None:
    found = explorer(record)
    keys = found.matching("recall >= 0.9 and architecture == grouped")
    assert [found.row(key).candidate.architecture for key in keys] == ["grouped", "grouped"]
    assert len(found.matching("  ")) == 12
    with pytest.raises(UsageError, match="did you mean recall"):
        found.matching("recal >= 0.9")


def test_a_condition_on_two_thousand_is_read_in_a_moment(record: SweepRecord) -> None:
    (first, *_) = build_front(record).candidates
    figures = {f"validation_recall_{number}": 0.5 for number in range(50)}
    many = [replace(first, metrics=first.metrics | figures) for _ in range(2000)]
    start = time.process_time()
    where = " and ".join(f"recall_{number} >= 0.5" for number in range(4))
    assert all(condition.holds(one) for condition in parse_conditions(where, many, ()) for one in many)
    # of this process alone, whatever runs beside it; a filter is to take 0.2 s
    assert time.process_time() - start < 0.2


def test_a_row_is_found_by_any_of_its_trials(record: SweepRecord) -> None:
    found = explorer(record)
    for trial in record.trials:
        assert trial in found.row(trial.trial_key).trials
    for wrong in ("", "00", "f" * 64, "<b>"):
        with pytest.raises(UsageError, match="no configuration"):
            found.row(wrong)


def test_the_commands_of_a_panel_pick_that_configuration(record: SweepRecord) -> None:
    found = explorer(record)
    for row in found.rows[::5]:
        where = found._only(row)
        assert pick(record, where=where, members_only=False).candidate == row.candidate
    commands = dict(found.panel(found.rows[0], {}, "http://host:1")["commands"])
    assert commands["Continue the sweep"] == "recallfront run quickstart.yaml --tracking-uri http://host:1"


def test_the_commands_of_a_panel_name_the_plug_ins(make_record: MakeRecord) -> None:
    record = make_record(2, (Status.RUNNING,), tags={"status": "running"})
    found = Explorer(view_of(record, "7", plugins_of=lambda run_id: ["mine.py"]))
    told = [dict(found.panel(row, {}, "uri")["commands"]) for row in found.rows]
    assert [row.status for row in found.rows] == ["finished", "finished", "running"]
    assert [list(commands)[-1:] for commands in told] == [["Continue the sweep"]] * 3
    assert told[0]["Run its best seed again"].endswith(" --plugin mine.py --tracking-uri uri")
    assert (
        told[2]["Continue the sweep"] == "recallfront run quickstart.yaml --plugin mine.py --tracking-uri uri"
    )
    assert "--plugin" not in told[0]["Pick it"] and "Run its best seed again" not in told[2]


def test_what_is_sent_is_bounded_and_strict_json(
    record: SweepRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = {"model": {"architecture": "x" * 9000, "knob": "y" * 9000}, "seed": 0}
    odd = replace(record.trials[0], config=long, metrics=record.trials[0].metrics | {"loss": float("inf")})
    infinite = {"model": {"architecture": "x" * 9000, "knob": float("inf")}, "seed": 0}
    other = replace(record.trials[1], config=infinite)
    text = json.dumps(explorer(replace(record, trials=(odd, other))).to_json(), allow_nan=False)
    assert len(text) < 15_000
    monkeypatch.setattr(explore, "MOST_ROWS", 5)
    found = explorer(record).to_json()
    assert len(found["rows"]) == 5 and found["total"] == 12


def test_figures_of_the_test_split_are_marked(record: SweepRecord) -> None:
    """A choice by one of them is refused, so that the page offers none."""
    added = {"perplexity": 9.0, "validation_perplexity": 8.0, "loss": 2.0, "validation_loss": 2.0}
    text = replace(record, trials=tuple(replace(t, metrics=t.metrics | added) for t in record.trials))
    metrics = explorer(text).to_json()["metrics"]
    assert {metric["name"] for metric in metrics if metric["isOfTest"]} == {"recall", "perplexity"}


def test_a_curve_is_thinned_and_keeps_its_end(record: SweepRecord) -> None:
    found = explorer(record)
    trial = found.rows[0].trials[0]
    curve = [(step, float("nan") if step == 0 else 1.0) for step in range(1001)]
    curves = found.panel(found.rows[0], {trial.run_id: {"loss": curve}}, "")["curves"]
    ((seed,),) = (one["seeds"] for one in curves if one["title"] == "training loss")
    assert len(seed["steps"]) <= explore.MOST_EXPLORED + 1 and seed["steps"][-1] == 1000
    assert seed["values"][0] is None
