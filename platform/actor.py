"""A trial inside Ray Tune: a warm actor runs one-worker trials itself and launches Ray Train for larger ones."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

from ray import tune

from recallfront.platform.reports import Report, Workplace
from recallfront.platform.trial import run_trial
from recallfront.platform.watchdog import Watchdog
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
        trial = TrialConfig.model_validate_json(config["trial"])
        place = read_workplace(json.loads(config["place"]))
        self._reports = _reports(trial, place)

    def _stop(self) -> None:
        self._reports.close()  # lets the body give its engine and its device back


def _reports(trial: TrialConfig, place: Workplace) -> Generator[Report, None, None]:
    if trial.resources.workers == 1:
        return Watchdog(trial, place).guard(run_trial(trial, place))
    from recallfront.platform.distributed import run_distributed_trial

    return run_distributed_trial(trial, place)  # its workers are watched where they run


def workplace_json(place: Workplace) -> dict[str, Any]:
    """A workplace as plain values, for another process."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(place).items()}


def read_workplace(raw: dict[str, Any]) -> Workplace:
    """The workplace that `workplace_json` wrote."""
    return Workplace(**{**raw, "home": Path(raw["home"]), "data": Path(raw["data"])})
