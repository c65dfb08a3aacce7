"""Trials to pick from."""

from typing import Any

from recallfront.platform.results.records import TrialRecord
from recallfront.platform.results.status import Status

SPEC = {
    "objectives": [
        {"metric": "recall", "direction": "max", "reference": 0.0},
        {"metric": "decode_tokens_per_second", "direction": "max", "reference": 0.0},
    ]
}


def trial(
    run_id: str,
    architecture: str,
    recall: float,
    speed: float,
    state: int,
    *,
    status: Status = Status.FINISHED,
    seed: int = 0,
    **knobs: Any,
) -> TrialRecord:
    return TrialRecord(
        run_id=run_id,
        trial_key=f"key-{run_id}",
        status=status,
        config={"model": {"architecture": architecture} | knobs, "seed": seed},
        metrics={
            "recall": recall - 0.05,
            "validation_recall": recall,
            "decode_tokens_per_second": speed,
            "decode_tokens_per_second_spread": speed / 100,
            "state_bytes": state,
        },
        end_time=1.0,
    )
