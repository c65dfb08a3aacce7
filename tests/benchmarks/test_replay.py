"""Early stopping replayed on recorded curves: what it saves, and what becomes of the claims."""

from typing import Any

import pytest

from recallfront.benchmarks.search.replay import CURVES, RunCurves, curves_of, replay, replay_table
from recallfront.platform.front.claims import ClaimVerdict
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from tests.platform.specs import tiny_spec

STEPS, EVERY = 400, 100
SIZES = (2, 4, 8, 16)
CLAIMS = [
    {
        "id": "some-window-recalls",
        "sentence": "A window recalls.",
        "measures": {"window": "best recall"},
        "condition": "window >= 0.5",
        "seeds": 1,
    },
    {
        "id": "the-smallest-does-not",
        "sentence": "The smallest window recalls little.",
        "measures": {"window": "mean recall where window_size == 2"},
        "condition": "window <= 0.5",
        "seeds": 1,
    },
]


def finished(**changes: Any) -> tuple[SweepRecord, RunCurves]:
    """A sweep of windows that all are as fast and as small, and recall more the longer they are, from the start."""
    spec = tiny_spec(
        space=[{"architecture": "window", "window_size": list(reversed(SIZES))}],
        training={"steps": STEPS, "evaluate_every": EVERY},
        claims=CLAIMS,
        **changes,
    )
    trials, curves = [], {}
    for number, (block, knobs) in enumerate(spec.grid()):
        config = spec.trial(block, knobs, 0)
        final = 0.9 * float(str(knobs["window_size"])) / max(SIZES)
        at = range(EVERY, STEPS + 1, EVERY)
        curves[f"run-{number}"] = {
            CURVES[0]: [(step, final * step / STEPS) for step in at],
            CURVES[1]: [(step, 4 - 3 * final * step / STEPS) for step in at],
        }
        metrics = {
            "validation_recall": final,
            "recall": final,
            "decode_tokens_per_second": 1000.0,
            "state_bytes": 64.0,
            "train_seconds": 4.0,
        }
        tags = {"steps": str(STEPS)}
        trials.append(
            TrialRecord(
                f"run-{number}",
                config.key,
                Status.FINISHED,
                config.model_dump(mode="json"),
                metrics,
                tags,
            )
        )
    record = SweepRecord(
        "parent",
        spec.key,
        spec.name,
        spec.model_dump(mode="json"),
        tuple(trials),
        {"trials_planned": str(len(trials))},
    )
    return record, curves


def test_without_stopping_every_trial_costs_its_steps() -> None:
    found = replay(*finished(), None)
    assert found.steps == found.whole == len(SIZES) * STEPS
    assert found.stopped == found.lost == found.reversed == ()
    assert {judged.verdict for judged in found.verdicts} == {ClaimVerdict.SUPPORTED}


def test_what_is_stopped_saves_steps_and_counts_for_no_claim() -> None:
    record, curves = finished()
    found = replay(record, curves, {"first_rung_steps": EVERY, "reduction": 4}, workers=1)
    # one after the other, the best first: by the curve of the first, none of the others can become as good
    assert len(found.stopped) == 2 and "run-0" not in found.stopped
    saved = sum(STEPS - EVERY for _ in found.stopped)
    assert found.steps == found.whole - saved
    assert found.reversed == () and found.lost == ("the-smallest-does-not",)


def test_a_sweep_is_judged_by_recall_at_a_length_where_that_is_its_objective() -> None:
    rows = [{"input_seq_len": n, "num_kv_pairs": 2, "examples": 64} for n in (8, 16)]
    record, curves = finished(
        task={"validation": rows},
        objectives=[{"metric": "recall_at_8"}, {"metric": "decode_tokens_per_second"}],
    )
    assert curves_of(record) == (*CURVES, "validation_recall_at_8")
    told = {run: {**own, "validation_recall_at_8": own[CURVES[0]]} for run, own in curves.items()}
    assert len(replay(record, told, {"first_rung_steps": EVERY, "reduction": 4}, workers=1).stopped) == 2


@pytest.mark.parametrize("heading", ["first rung", "verdicts lost", "trials stopped"])
def test_the_table_has_a_row_for_each_setting(heading: str) -> None:
    table = replay_table(*finished())
    assert table.row_count == 3 and heading in [column.header for column in table.columns]
