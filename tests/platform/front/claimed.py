"""Sweeps to judge: their trials' values are given, and so is the claim."""

from collections.abc import Sequence
from typing import Any

from recallfront.platform.front.claims import Judgement, judge
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status

OBJECTIVES = [{"metric": "recall"}, {"metric": "decode_tokens_per_second"}]
Row = tuple[str, int, Sequence[float]]  # architecture, state in bytes, recall on test of each seed
ROWS: list[Row] = [
    ("based", 1000, (0.70, 0.72, 0.74)),
    ("based", 4000, (0.90, 0.91, 0.92)),
    ("window", 1000, (0.30, 0.31, 0.32)),
    ("window", 4000, (0.50, 0.54, 0.55)),
    ("window", 9000, (0.97, 0.98, 0.99)),
    ("hawk", 100, (0.80,)),
]


def trial(row: Row, seed: int, **metrics: float) -> TrialRecord:
    architecture, state, recalls = row
    recall = recalls[seed]
    name = f"{architecture}-{state}-{seed}"
    known = {"recall": recall, "validation_recall": recall + 0.01, "state_bytes": float(state)}
    config = {"model": {"architecture": architecture, "width": state}, "seed": seed}
    return TrialRecord(name, name, Status.FINISHED, config, known | metrics)


def sweep(measures: dict[str, str], condition: str, rows: Sequence[Row] = ROWS, **claim: Any) -> SweepRecord:
    trials = tuple(trial(row, seed) for row in rows for seed in range(len(row[2])))
    asked = {"id": "asked", "sentence": "It holds.", "measures": measures, "condition": condition} | claim
    spec = {"objectives": OBJECTIVES, "claims": [asked]}
    return SweepRecord("run", "key", "study", spec, trials, {"trials_planned": str(len(trials))})


def verdict(measures: dict[str, str], condition: str, rows: Sequence[Row] = ROWS, **claim: Any) -> Judgement:
    (judgement,) = judge(sweep(measures, condition, rows, **claim))
    return judgement


BASED = {"based": "best test_recall where architecture == based"}
