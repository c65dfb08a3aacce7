"""A trial inside Ray Tune: a warm actor runs one-worker trials itself and launches Ray Train for larger ones."""

import json
import os
from collections.abc import Generator
from typing import Any

import ray
from ray import tune

from recallfront.platform.plugins import receive
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.trial.leaving import LEFT, Leaving
from recallfront.platform.trial.workplace import read_workplace
from recallfront.platform.workers.notices import told_to_leave
from recallfront.platform.workers.run import trial_reports
from recallfront.sweeps.trial import TrialConfig

NODE, PROCESS = "ray_node_id", "process_id"  # keys of a result: where the trial's actor is


class TrialActor(tune.Trainable):
    """Runs trial after trial in one process: imports, device context, compiled kernels and data stay warm.

    Its configuration is `{"trial": TrialConfig, "place": Workplace}`, each as JSON text; a step is one report of the
    trial's body. A notice makes the actor leave once its trial is checkpointed: it says so in a result of its own, and
    fails in the step after that.
    """

    _reports: Generator[Report, None, None]
    _left: str | None = None  # that the trial has left, in one sentence

    def setup(self, config: dict[str, Any]) -> None:
        self._told_to_leave = told_to_leave()
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._stop()
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self._left is not None:
            raise Leaving(self._left)  # the trial goes on elsewhere: Tune gives it another actor
        report = next(self._reports)
        if LEFT in report.details:
            self._left = report.failure
        return {
            "report": json.dumps(report.to_json()),
            "done": report.status is not Status.RUNNING and self._left is None,
            NODE: ray.get_runtime_context().get_node_id(),
            PROCESS: os.getpid(),
        }

    def cleanup(self) -> None:
        self._stop()

    def _start(self, config: dict[str, Any]) -> None:
        place = read_workplace(json.loads(config["place"]))
        receive(place.plugins, place.home)  # the trial's configuration may name what they define
        self._left = None
        trial = TrialConfig.model_validate_json(config["trial"])
        self._reports = trial_reports(trial, place, self._told_to_leave)

    def _stop(self) -> None:
        self._reports.close()  # lets the body give its engine and its device back
