"""What a resumed sweep takes from its earlier runs: trials that go on, and proposals that ended or go on."""

import json
from dataclasses import replace
from pathlib import Path

from recallfront.platform.lineage.environment import collect
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.run import _proposals, _set_up, _with_promoted
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.platform.trial.workplace import Workplace
from tests.platform.specs import tiny_spec
from tests.platform.sweep.stage import Stages
from tests.platform.sweeps import workplace

SPACE = {"architecture": "window", "window_size": [4, 8]}
FIGURES = {"validation_recall": 0.5, "recall": 0.4, "decode_tokens_per_second": 9.0}
VERSION = {"code_version": "c", "data_digest": "d"}
PLACE = Workplace(home=Path("."), data=Path("."), data_digest="d", code_version="c")


def ended(number: int, status: Status, seed: int = 0) -> TrialRecord:
    parameters = {"window.window_size": 4}
    proposal = {"number": number, "block": "window", "knobs": {"window_size": 4}, "parameters": parameters}
    tags = VERSION | {"proposal": json.dumps(proposal)}
    key = f"{number}-{seed}"
    return TrialRecord(run_id=key, trial_key=key, status=status, config={}, metrics=FIGURES, tags=tags)


def resumed(
    *trials: TrialRecord, tags: dict[str, str] | None = None, seeds: int = 1
) -> tuple[list[int], list[int], int]:
    spec = tiny_spec(space=[SPACE], search={"method": "tpe", "trials": 9}, seeds=list(range(seeds)))
    record = SweepRecord(run_id="", sweep_key="", name="", spec={}, trials=trials, tags=tags or {})
    told, unfinished, proposed = _proposals(spec, record, PLACE)
    return [raw["number"] for raw, _, _ in told], [p.number for p in unfinished], proposed


def test_a_resumed_sampler_goes_on_with_what_was_running() -> None:
    trials = (
        ended(0, Status.FINISHED),
        ended(1, Status.RUNNING),
        ended(2, Status.LOST),
        ended(3, Status.PRUNED),
    )
    assert resumed(*trials) == ([0, 3], [1, 2], 4)


def test_a_proposal_with_a_seed_to_run_is_unfinished() -> None:
    trials = (ended(0, Status.FINISHED), ended(0, Status.FINISHED, 1), ended(1, Status.FINISHED))
    assert resumed(*trials, seeds=2) == ([0], [1], 2)


def test_answered_proposals_are_counted_for_the_same_code_and_data() -> None:
    same = {"proposed": json.dumps({"number": 7, **VERSION})}
    other = {"proposed": json.dumps({"number": 7, "code_version": "older", "data_digest": "d"})}
    assert resumed(ended(2, Status.FINISHED), tags=same) == ([2], [], 7)
    assert resumed(ended(2, Status.FINISHED), tags=other) == ([2], [], 3)


def test_a_grid_is_asked_again() -> None:
    record = SweepRecord(run_id="", sweep_key="", name="", spec={}, trials=(ended(0, Status.FINISHED),))
    assert _proposals(tiny_spec(), record, PLACE) == ([], [], 0)


def test_a_trial_that_was_promoted_is_to_be_run_whatever_the_store_says() -> None:
    statuses = (Status.PRUNED, Status.PRUNED, Status.FINISHED, Status.RUNNING)
    trials = tuple(ended(number, status) for number, status in enumerate(statuses))
    record = SweepRecord(run_id="", sweep_key="", name="", spec={}, trials=trials)
    going_on = {trial.trial_key for trial in trials[1:]}
    first, promoted, *others = _with_promoted(record, going_on).trials
    assert promoted == replace(trials[1], status=Status.LOST), "it was pruned, and goes on"
    assert (first, *others) == (trials[0], *trials[2:])


def test_a_sweep_that_learns_from_another_of_its_study_can_be_resumed(stage: Stages, tmp_path: Path) -> None:
    """Its own runs have the study's name too, and a third sweep of it may follow."""
    warm = {"method": "front", "trials": 3, "warm_start": "tiny"}
    first = stage(space=[SPACE])
    for name in "ab":
        first.start(name)
        first.end(name)
    assert first.stored().with_status(Status.FINISHED)
    spec = tiny_spec(space=[SPACE], search=warm)
    place = workplace(spec, tmp_path)

    def begun() -> dict[str, str]:
        conductor, _ = _set_up(spec, place, first.writer, first.uri, collect(tmp_path))
        conductor.recorder.open_sweep()
        assert conductor.next("a") is not None
        assert first.writer.flush(30.0)
        return read_sweep(first.uri, spec.key).tags

    assert begun()["warm_start"] == first.spec.key
    third = stage(space=[SPACE], seeds=[5])
    third.start("a")
    third.end("a")
    third.stored()
    assert begun()["warm_start"] == first.spec.key
