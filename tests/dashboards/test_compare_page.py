"""The picture of the page that compares sweeps."""

import json
from collections.abc import Callable
from dataclasses import replace

from recallfront.dashboards.compare_page import _figure
from recallfront.dashboards.views import view_of
from recallfront.platform.results.records import SweepRecord, TrialRecord


def copied(trial: TrialRecord, number: int) -> TrialRecord:
    model = trial.config["model"] | {"width": number}
    name = f"{number:06d}{trial.run_id}"
    return replace(trial, run_id=name, trial_key=name, config=trial.config | {"model": model})


def test_a_large_sweep_is_thinned_and_drawn_without_spreads(
    record: SweepRecord, make_record: Callable[..., SweepRecord]
) -> None:
    many = tuple(copied(trial, number) for number in range(300) for trial in record.trials)
    large = replace(record, run_id="large", trials=many)
    _, few, _, lots = json.loads(_figure([view_of(record, "0"), view_of(large, "1")]))["data"]
    assert len(few["hovertext"]) == 12 and few["error_y"]["array"]
    assert 300 < len(lots["hovertext"]) < 3600 and not lots["error_y"].get("array")
