"""Trials of two workers: Ray Train, DeepSpeed over gloo, on a local Ray."""

import contextlib
import os
import signal
import threading
import time
from functools import partial
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
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.evaluating import evaluated
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.data import load_or_rebuild, prepare
from recallfront.sweeps.trial import ResourceConfig, TrialConfig
from tests.platform.specs import tiny_spec
from tests.platform.stores import ready_home
from tests.platform.sweeps import history, stored, trials_of, wait_for, workplace

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

# 64 rows of validation are three batches: of the second round one rank has none
TWO_WORKERS: dict[str, Any] = {
    "resources": {"workers": 2},
    "training": {"gradient_clipping": 0.0, "evaluation_batch_size": 24},
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """A trial at each of ZeRO's stages, and one that diverges."""
    window = {"architecture": "window", "window_size": 4}
    space = [window | {"training.zero_stage": [1, 2, 3]}, window | {"training.learning_rate": 1e6}]
    spec = tiny_spec(space=space, concurrent=1, **TWO_WORKERS)
    return run_sweep(spec, home=ready_home(tmp_path_factory.mktemp("home")))


def test_two_workers_find_what_one_finds_at_every_zero_stage(swept: SweepResult) -> None:
    trials = [trial for trial in stored(swept) if trial.config["training"]["learning_rate"] < 1]
    assert [trial.status for trial in trials] == [Status.FINISHED] * 3, [trial.failure for trial in trials]
    assert sorted(trial.config["training"]["zero_stage"] for trial in trials) == [1, 2, 3]

    home = swept.home
    place = workplace(SweepSpec.model_validate(swept.record.spec), home)
    config = TrialConfig.model_validate(trials[0].config)
    alone = losses_of_one_worker(config, home)
    # What a mere change in the order of summation does to this trial, by the same sums in two micro-batches: ranks
    # add up in yet another order. Were half the rows missing, losses would differ in the second digit.
    halves = config.training.model_copy(update={"accumulation": 2})
    in_halves = losses_of_one_worker(config.model_copy(update={"training": halves}), home)
    noise = max(abs(a - b) for a, b in zip(alone, in_halves, strict=True))
    tolerance = 10 * max(noise, 32 * 2.0**-23 * max(alone))
    for trial in trials:
        found = losses(swept, trial)
        assert found == pytest.approx(alone, abs=tolerance, rel=0), f"tolerance {tolerance:.1e}"
        # what the ranks evaluate together is what this process does alone with the weights of the trial
        told = trial.metrics["validation_loss"], trial.metrics["validation_recall"]
        config = TrialConfig.model_validate(trial.config)
        folder = place.folder(config) / "model"
        assert told == pytest.approx(evaluated_alone(config, folder, home), abs=1e-6), config.training
        trained = dict(load(folder).named_parameters())
        for name, start in build(config.model, seed=0).named_parameters():
            assert trained[name].shape == start.shape and not trained[name].equal(start), name
    print(f"reordering noise {noise:.1e}, tolerance {tolerance:.1e}, first loss {alone[0]:.3f}")
    assert_nothing_is_held()


def test_a_failure_of_the_ranks_is_recorded_as_what_it_is(swept: SweepResult) -> None:
    (trial,) = (trial for trial in stored(swept) if trial.config["training"]["learning_rate"] > 1)
    assert trial.status is Status.DIVERGED, trial.failure
    assert "at step" in (trial.failure or "")
    assert "attempts" not in trial.tags, "it would diverge again: not retried"


def test_a_trial_whose_workers_are_killed_goes_on_from_its_checkpoint_or_is_lost_in_the_end(
    tmp_path: Path,
) -> None:
    """The first trial loses a worker once, the second loses all of them in every attempt."""
    steps, window = 300, {"architecture": "window", "window_size": 4, "training.zero_stage": 1}
    spec = tiny_spec(
        space=[window | {"training.steps": steps}, window | {"training.steps": 1_000_000}],
        resources={"workers": 2},
        training={"gradient_clipping": 0.0},
        retries=1,
        concurrent=1,
    )
    once, always = (workplace(spec, tmp_path).folder(config) for config in trials_of(spec))
    shards: list[str] = []

    def kill_workers() -> None:
        # found before the checkpoint is there: then nothing is left to do but to kill one
        wait_for(lambda: len(workers()) == 2, pause=0.2)
        found, checkpoint = workers(), once / "checkpoint"
        wait_for(checkpoint.exists, pause=0.005)
        shards.extend(path.name for path in checkpoint.rglob("*zero_pp_rank_*"))
        os.kill(found[-1], signal.SIGKILL)
        for _ in range(2):
            wait_for(partial(is_saved_since, always, time.time()))  # it trains
            for pid in workers():
                with contextlib.suppress(ProcessLookupError):  # of the attempt before
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_workers, daemon=True)
    killer.start()
    result = run_sweep(spec, home=ready_home(tmp_path))
    killer.join()

    goes_on, lost = sorted(stored(result), key=lambda trial: trial.config["training"]["steps"])
    assert goes_on.status is Status.FINISHED, goes_on.failure
    assert goes_on.tags["attempts"] == "2"
    assert len({name.split("_mp_rank")[0] for name in shards}) == 2, f"each rank saves its shard: {shards}"
    assert [step for step, _ in history(result, goes_on.run_id, "loss")] == list(range(1, steps + 1))
    alone = losses_of_one_worker(TrialConfig.model_validate(goes_on.config), tmp_path)
    assert losses(result, goes_on)[:20] == pytest.approx(alone[:20], abs=1e-3)
    assert goes_on.metrics["recall"] > 0.1, "it learned over the break"

    assert lost.status is Status.LOST
    assert "its workers were lost" in (lost.failure or "")
    assert lost.tags["attempts"] == "2"
    assert result.front is not None and len(result.front.candidates) == 1, "the lost one is no candidate"
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


@pytest.mark.parametrize("placement", ["PACK", "SPREAD"])
def test_closing_lets_the_workers_leave_at_their_next_report(placement: str, tmp_path: Path) -> None:
    from ray.util import placement_group_table

    from recallfront.platform.workers import train_job

    spec = tiny_spec(
        space=[{"architecture": "window", "window_size": 4}],
        resources={"workers": 2, "placement": placement},
        training={"steps": 1_000_000},
    )
    config = next(iter(trials_of(spec)))
    reports = train_job.run_distributed_trial(config, workplace(spec, tmp_path))
    while next(reports).step == 0:
        pass
    assert len(workers()) == 2
    groups = [group for group in placement_group_table().values() if group["state"] == "CREATED"]
    assert [group["strategy"] for group in groups] == [placement], "the workers are placed as asked"
    start = time.monotonic()
    reports.close()
    assert time.monotonic() - start < train_job._STOP_SECONDS, "they were not waited for in vain"
    assert_nothing_is_held()
    wait_for(lambda: not workers())


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


def losses(result: SweepResult, trial: TrialRecord) -> list[float]:
    return [value for _, value in history(result, trial.run_id, "loss")]


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


def is_saved_since(trial_folder: Path, moment: float) -> bool:
    """Whether a file of the trial's last checkpoint was written after this moment."""
    checkpoint = trial_folder / "checkpoint"
    try:
        return max(path.stat().st_mtime for path in checkpoint.rglob("*")) > moment
    except (FileNotFoundError, ValueError):  # it is just being replaced, or there is none
        return False


def assert_nothing_is_held() -> None:
    """No placement group is left, and all CPUs are free."""
    from ray.util import placement_group_table

    wait_for(lambda: all(group["state"] == "REMOVED" for group in placement_group_table().values()))
    wait_for(lambda: ray.available_resources().get("CPU") == 2.0)
