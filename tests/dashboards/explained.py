"""A sweep with all that pages explain: slices, contexts, rungs, claims, fANOVA and a file of a plug-in."""

from collections.abc import Callable
from dataclasses import replace

from recallfront.platform.lineage.environment import LINEAGE_FILE, TrialLineage, collect
from recallfront.platform.plugins import Plugin
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.client import open_client
from tests.dashboards.served import write

FIGURES = {"effects", "state", "contexts", "learning", "slices", "parallel", "timeline"}
CLAIM = {
    "id": "learns",
    "sentence": "It learns.",
    "measures": {"most": "best recall"},
    "condition": "most > 0.5",
}
_FOR_FANOVA = 20  # configurations of one architecture
_RUNGS = (60, 120, 240)


def write_explained(make_record: Callable[..., SweepRecord], uri: str) -> str:
    """Write the sweep into a store -> the id of its run."""
    record = make_record(23, (Status.PRUNED,), name="explained", sweep_key="e4".ljust(64, "0"))
    spec = record.spec | {
        "early_stopping": {"first_rung_steps": _RUNGS[0], "reduction": 2},
        "claims": [CLAIM],
    }
    trials = tuple(_measured(trial, number) for number, trial in enumerate(record.trials))
    run = write(replace(record, spec=spec, trials=trials), uri, "finished")
    _add_curves(uri, run)
    return run


def _measured(trial: TrialRecord, number: int) -> TrialRecord:
    """A trial with figures by slice and context; the first ones are configurations of one architecture."""
    figures = {f"decode_tokens_per_second_at_{context}": 1e6 / context for context in (64, 512, 4096)}
    if trial.status is Status.FINISHED:
        figures |= {f"validation_recall_at_{length}": 32 / length for length in (64, 256, 1024)}
    model = trial.config["model"]
    if number < _FOR_FANOVA:
        knobs = {"window_size": 2 << number % 5, "feature_dim": 2 << number // 5}
        model = {"architecture": "based", "width": 64} | knobs
    return replace(trial, config=trial.config | {"model": model}, metrics=trial.metrics | figures)


def _add_curves(uri: str, sweep: str) -> None:
    """Write what every trial recalled at the rungs, and its lineage with a file of a plug-in."""
    from mlflow.entities import Metric

    client = open_client(uri)
    experiment = client.get_run(sweep).info.experiment_id
    used = collect().model_copy(update={"plugins": (Plugin(name="mine", digest="0" * 16),)})
    lineage = TrialLineage(environment=used, trial_key="", config={}).model_dump_json()
    for run in client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{sweep}'"):
        last = run.data.metrics.get("validation_recall")
        steps, most = (_RUNGS[:1], 0.1) if last is None else ((*_RUNGS, 300), last)
        client.log_batch(
            run.info.run_id, [Metric("validation_recall", most * step / steps[-1], 0, step) for step in steps]
        )
        client.log_text(run.info.run_id, lineage, LINEAGE_FILE)
