"""What a trial is called: the same before there are trials as on the page of a finished sweep."""

from typing import Any

import pytest

from recallfront.platform.results.labels import trial_label, varying_in, varying_knobs
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.results.status import Status
from tests.platform.specs import tiny_spec

SPACES: dict[str, list[dict[str, Any]]] = {
    "two blocks of one architecture": [
        {"architecture": "linear", "feature_map": "relu"},
        {"architecture": "linear"},
    ],
    "a window that never varies": [{"architecture": "window", "window_size": 4}, {"architecture": "hawk"}],
    "windows of two architectures": [
        {"architecture": "window", "window_size": 4},
        {"architecture": "griffin", "window_size": 8},
    ],
    "the training": [{"architecture": "attention", "training.learning_rate": [0.003, 0.001]}],
}


@pytest.mark.parametrize("space", SPACES)
def test_a_trial_has_one_name_from_its_start_to_the_page(space: str) -> None:
    spec = tiny_spec(space=SPACES[space])
    trials = [
        TrialRecord("run", config.key, Status.FINISHED, config.model_dump(mode="json"), {})
        for block, knobs in spec.grid()
        for config in [spec.trial(block, knobs, 0)]
    ]
    running = [trial_label(trial, varying_in(spec)) for trial in trials]
    assert running == [trial_label(trial, varying_knobs(trials)) for trial in trials]
    assert len(set(running)) == len(trials)
