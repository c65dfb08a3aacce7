"""What a trial costs beyond its own work: a warm actor's trials beside the documented nested TorchTrainer pattern.

Ray is imported once its environment is set.
"""

import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recallfront.benchmarks.platform.trials import bench_spec, small_ray, trials_of, workplace
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.sweep.run import run_sweep
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps.trial import TrialConfig

_OWN_WORK = ("train_seconds", "evaluate_seconds", "measure_seconds")


@dataclass
class Overheads:
    """Seconds of each trial beyond training, evaluation and measurement."""

    warm: list[float] = field(default_factory=list)
    nested: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """How many times less a warm trial's overhead is, of medians."""
        return statistics.median(self.nested) / statistics.median(self.warm)


def overheads(home: Path, *, warm: int = 20, nested: int = 3) -> Overheads:
    """Measure both in one Ray session: half of the warm trials, the nested ones, the other half.

    Warm trials are those of a real sweep, written to MLflow, one after the other in one actor; a trial's wall time is
    that from the end of the one before to its own.
    """
    found = Overheads()
    # seeds; the first of each is cold
    halves = (range(warm // 2 + 1), range(100, 100 + warm - warm // 2 + 1))
    with small_ray():
        found.warm += _warm(home, halves[0])
        found.nested += _nested(home, nested)
        found.warm += _warm(home, halves[1])
    return found


def _warm(home: Path, seeds: range) -> list[float]:
    result = run_sweep(bench_spec(seeds=list(seeds), concurrent=1), home=home)
    trials = sorted(result.record.trials, key=lambda trial: trial.end_time or 0.0)
    return [
        _beyond(after, _end(after) - _end(before)) for before, after in zip(trials, trials[1:], strict=False)
    ]


def _end(trial: TrialRecord) -> float:
    assert trial.end_time is not None, "it has ended"
    return trial.end_time


def _beyond(trial: TrialRecord, wall: float) -> float:
    return wall - sum(trial.metrics[name] for name in _OWN_WORK)


def _nested(home: Path, trials: int) -> list[float]:
    """The documented pattern: a Tune function that starts a TorchTrainer of one worker, which runs the same body."""
    from ray import tune

    spec = bench_spec(seeds=list(range(200, 200 + trials)))
    place = workplace(spec, home, scratch="nested")
    ends = _Ends()
    start = time.time()
    tune.Tuner(
        tune.with_resources(_nested_trial, {"CPU": 0.1}),
        param_space={
            "trial": tune.grid_search([config.model_dump_json() for config in trials_of(spec)]),
            "place": place,
        },
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(
            name="nested", storage_path=str(home / "tune"), callbacks=[ends.callback()], verbose=0
        ),
    ).fit()
    walls = [after - before for before, after in zip([start, *ends.times], ends.times, strict=False)]
    return [wall - work for wall, work in zip(walls, ends.work, strict=True)]


class _Ends:
    """When Tune's trials ended, and what their last result says of their own work."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.work: list[float] = []

    def callback(self) -> Any:
        from ray.tune import Callback

        ends = self

        class Listener(Callback):
            def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
                ends.times.append(time.time())
                ends.work.append(sum(trial.last_result[name] for name in _OWN_WORK))

        return Listener()


def _nested_trial(settings: dict[str, Any]) -> None:
    from ray import train, tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    name = tune.get_context().get_trial_id()
    listener: Any = TuneReportCallback()  # Train's own kind, which the stubs of RunConfig do not know
    TorchTrainer(
        _nested_worker,
        train_loop_config=settings,
        scaling_config=train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=train.RunConfig(
            name=f"train-{name}",
            storage_path=str(settings["place"].home / "train"),
            callbacks=[listener],
        ),
    ).fit()


def _nested_worker(settings: dict[str, Any]) -> None:
    from ray import train

    place: Workplace = settings["place"]
    for report in run_trial(TrialConfig.model_validate_json(settings["trial"]), place):
        train.report(dict(report.figures))
