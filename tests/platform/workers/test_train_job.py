"""Trials of two workers: Ray Train, DeepSpeed over gloo, on a local Ray."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray

from recallfront.models import build, load
from recallfront.platform import SweepResult, run_sweep
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.evaluating import evaluated
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.data import load_or_rebuild, prepare
from recallfront.sweeps.trial import ResourceConfig, TrialConfig
from tests.platform.specs import tiny_spec
from tests.platform.stores import ready_home

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

# 64 rows of validation are three batches: of the second round one rank has none
TWO_WORKERS: dict[str, Any] = {
    "resources": {"workers": 2},
    "training": {"gradient_clipping": 0.0, "evaluation_batch_size": 24},
}


def test_two_workers_find_what_one_finds_at_every_zero_stage(tmp_path: Path) -> None:
    window = {"architecture": "window", "window_size": 4}
    spec = tiny_spec(space=[window | {"training.zero_stage": [1, 2, 3]}], **TWO_WORKERS)
    result = run_sweep(spec, home=ready_home(tmp_path))
    trials = stored(result)
    assert [trial.status for trial in trials] == [Status.FINISHED] * 3, [trial.failure for trial in trials]

    config = TrialConfig.model_validate(trials[0].config)
    alone = losses_of_one_worker(config, tmp_path)
    # What a mere change in the order of summation does to this trial, by the same sums in two micro-batches: ranks
    # add up in yet another order. Were half the rows missing, losses would differ in the second digit.
    halves = config.training.model_copy(update={"accumulation": 2})
    in_halves = losses_of_one_worker(config.model_copy(update={"training": halves}), tmp_path)
    noise = max(abs(a - b) for a, b in zip(alone, in_halves, strict=True))
    tolerance = 10 * max(noise, 32 * 2.0**-23 * max(alone))
    for trial in trials:
        found = losses(result, trial)
        assert found == pytest.approx(alone, abs=tolerance, rel=0), f"tolerance {tolerance:.1e}"
        # what the ranks evaluate together is what this process does alone with the weights of the trial
        told = trial.metrics["validation_loss"], trial.metrics["validation_recall"]
        config = TrialConfig.model_validate(trial.config)
        folder = place(spec, tmp_path).folder(config) / "model"
        assert told == pytest.approx(evaluated_alone(config, folder, tmp_path), abs=1e-6), config.training
        weights = load(place(spec, tmp_path).folder(TrialConfig.model_validate(trial.config)) / "model")
        trained = dict(weights.named_parameters())
        for name, start in build(config.model, seed=0).named_parameters():
            assert trained[name].shape == start.shape and not trained[name].equal(start), name
    print(f"reordering noise {noise:.1e}, tolerance {tolerance:.1e}, first loss {alone[0]:.3f}")
    assert_nothing_is_held()


def test_a_trial_whose_worker_is_killed_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    steps = 300
    spec = tiny_spec(
        space=[{"architecture": "window", "window_size": 4}],
        resources={"workers": 2},
        training={"steps": steps, "zero_stage": 1, "gradient_clipping": 0.0},
    )
    trial_folder = place(spec, tmp_path).folder(next(iter(trials_of(spec))))
    shards: list[str] = []

    def kill_a_worker() -> None:
        checkpoint = trial_folder / "checkpoint"
        wait_for(checkpoint.exists)
        shards.extend(path.name for path in checkpoint.rglob("*zero_pp_rank_*"))
        os.kill(workers()[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill_a_worker, daemon=True)
    killer.start()
    result = run_sweep(spec, home=ready_home(tmp_path))
    killer.join()

    (trial,) = stored(result)
    assert trial.status is Status.FINISHED, trial.failure
    assert trial.tags["attempts"] == "2"
    assert len({name.split("_mp_rank")[0] for name in shards}) == 2, f"each rank saves its shard: {shards}"
    history = open_client(result.tracking_uri).get_metric_history(trial.run_id, "loss")
    assert sorted(point.step for point in history) == list(range(1, steps + 1)), "each step once"
    alone = losses_of_one_worker(TrialConfig.model_validate(trial.config), tmp_path)
    assert losses(result, trial)[:20] == pytest.approx(alone[:20], abs=1e-3)
    assert trial.metrics["recall"] > 0.1, "it learned over the break"
    assert_nothing_is_held()


def test_a_trial_that_always_loses_its_workers_is_lost_in_the_end(tmp_path: Path) -> None:
    spec = tiny_spec(
        space=[{"architecture": "window", "window_size": 4}],
        resources={"workers": 2},
        training={"steps": 1_000_000},
        retries=1,
    )
    trial_folder = place(spec, tmp_path).folder(next(iter(trials_of(spec))))

    def kill_workers() -> None:
        for _ in range(2):
            start = time.time()
            wait_for(lambda start=start: saved_at(trial_folder) > start)  # type: ignore[misc]  # it trains
            for pid in workers():
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_workers, daemon=True)
    killer.start()
    result = run_sweep(spec, home=ready_home(tmp_path))
    killer.join()
    (trial,) = stored(result)
    assert trial.status is Status.LOST
    assert "its workers were lost" in (trial.failure or "")
    assert trial.tags["attempts"] == "2"
    assert result.front is None
    assert_nothing_is_held()


def test_trials_that_a_rule_ends_give_their_workers_back(tmp_path: Path) -> None:
    # Two objectives that depend on the configuration alone: a larger window is dominated, and ended before it trains.
    spec = tiny_spec(
        space=[{"architecture": "window", "window_size": [4, 8]}],
        objectives=[
            {"metric": "state_bytes", "direction": "min", "reference": 1e6},
            {"metric": "parameters", "direction": "min", "reference": 1e6},
        ],
        search={"skip_dominated": True},
        resources={"workers": 2},
        concurrent=1,
    )
    result = run_sweep(spec, home=ready_home(tmp_path))
    by_window = {trial.config["model"]["window_size"]: trial for trial in stored(result)}
    statuses = {window: trial.status for window, trial in by_window.items()}
    failures = [trial.failure for trial in by_window.values()]
    assert statuses == {4: Status.FINISHED, 8: Status.DOMINATED}, failures
    assert not losses(result, by_window[8])
    assert_nothing_is_held()


def test_closing_lets_the_workers_leave_at_their_next_report(tmp_path: Path) -> None:
    from recallfront.platform.workers.train_job import run_distributed_trial

    spec = tiny_spec(
        space=[{"architecture": "window", "window_size": 4}],
        resources={"workers": 2},
        training={"steps": 1_000_000},
    )
    config = next(iter(trials_of(spec)))
    reports = run_distributed_trial(config, place(spec, tmp_path))
    while next(reports).step == 0:
        pass
    assert len(workers()) == 2
    start = time.monotonic()
    reports.close()
    assert time.monotonic() - start < 30
    assert_nothing_is_held()
    wait_for(lambda: not workers())


def test_a_failure_of_the_ranks_is_recorded_as_what_it_is(tmp_path: Path) -> None:
    spec = tiny_spec(
        space=[{"architecture": "window", "window_size": 4, "training.learning_rate": 1e6}],
        resources={"workers": 2},
        training={"steps": 200, "gradient_clipping": 0.0},
    )
    result = run_sweep(spec, home=ready_home(tmp_path))
    (trial,) = stored(result)
    assert trial.status is Status.DIVERGED, trial.failure
    assert "at step" in (trial.failure or "")
    assert "attempts" not in trial.tags, "it would diverge again: not retried"
    assert_nothing_is_held()


def trials_of(spec: SweepSpec) -> Iterator[TrialConfig]:
    for block, knobs in spec.grid():
        yield spec.trial(block, knobs, spec.seeds[0])


def place(spec: SweepSpec, home: Path) -> Workplace:
    data, digest = prepare(spec.task, home / "data")
    return Workplace(home=home, data=data, data_digest=digest, code_version=code_version())


def losses_of_one_worker(config: TrialConfig, home: Path) -> list[float]:
    training = config.training.model_copy(update={"zero_stage": 0})
    alone = config.model_copy(update={"resources": ResourceConfig(), "training": training})
    data, digest = prepare(config.task, home / "data")
    here = Workplace(home, data, digest, code_version(), scratch="alone")
    reports = list(run_trial(alone, here))
    assert reports[-1].status is Status.FINISHED, reports[-1].traceback
    return [value for report in reports for name, value, *_ in report.rows if name == "loss"]


def evaluated_alone(config: TrialConfig, weights: Path, home: Path) -> tuple[float, float]:
    """Validation loss and recall of saved weights, by one rank."""
    path, digest = prepare(config.task, home / "data")
    data, _ = load_or_rebuild(config.task, path, digest)
    model = load(weights)
    engine = SimpleNamespace(module=model, eval=model.eval, train=model.train)
    found = evaluated(engine, config, data, "validation", Workplace(home, path, digest, code_version()))
    return found["loss"], found["recall"]


def stored(result: SweepResult) -> tuple[TrialRecord, ...]:
    return read_sweep(result.tracking_uri, result.record.sweep_key).trials


def points(result: SweepResult, trial: TrialRecord) -> list[tuple[int, float]]:
    history = open_client(result.tracking_uri).get_metric_history(trial.run_id, "loss")
    return sorted((point.step, point.value) for point in history)


def losses(result: SweepResult, trial: TrialRecord) -> list[float]:
    return [value for _, value in points(result, trial)]


def workers() -> list[int]:
    """Process ids of the Ray Train workers below this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:  # it has just ended
            continue
    return sorted(found)


def saved_at(trial_folder: Path) -> float:
    """When the trial's last checkpoint was written; 0 where there is none."""
    checkpoint = trial_folder / "checkpoint"
    try:
        return max(path.stat().st_mtime for path in checkpoint.rglob("*"))
    except (FileNotFoundError, ValueError):  # it is just being replaced
        return 0.0


def wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def assert_nothing_is_held() -> None:
    """No placement group is left, and all CPUs are free."""
    from ray.util import placement_group_table

    wait_for(lambda: all(group["state"] == "REMOVED" for group in placement_group_table().values()), 20)
    wait_for(lambda: ray.available_resources().get("CPU") == 2.0, 20)
