"""A trial inside Ray Tune: a warm actor runs one-worker trials itself and launches Ray Train for larger ones."""

import json
from typing import Any

from ray import tune

from recallfront.platform.plugins import receive
from recallfront.platform.trial.workplace import read_workplace
from recallfront.platform.workers.run import trial_reports
from recallfront.sweeps.trial import TrialConfig


class TrialActor(tune.Trainable):
    """Runs trial after trial in one process: imports, device context, compiled kernels and data stay warm.

    Its configuration is `{"trial": TrialConfig, "place": Workplace}`, each as JSON text; a step is one report of the
    trial's body.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._stop()
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        report = next(self._reports)
        return {"report": json.dumps(report.to_json()), "done": report.status.value != "running"}

    def cleanup(self) -> None:
        self._stop()

    def _start(self, config: dict[str, Any]) -> None:
        place = read_workplace(json.loads(config["place"]))
        receive(place.plugins)  # the trial's configuration may name what they define
        trial = TrialConfig.model_validate_json(config["trial"])
        self._reports = trial_reports(trial, place)

    def _stop(self) -> None:
        self._reports.close()  # lets the body give its engine and its device back
