"""A whole sweep beside plain Ray Tune and zoology's launcher: the same eight small configurations, two at once.

Each launcher is a command of its own, timed from its start to its end, in turn with the others. Only recallfront
measures throughput, which counts against it. Plain Ray Tune is a function that trains with a loop of PyTorch and
reports to Tune's MLflow callback. Zoology's code is not part of this package: a checkout of it is named by its path;
its launcher asks Ray for a GPU a trial, and gets a core.

Ray and its parts are imported where they are used: not every command needs them.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
import yaml

from recallfront.benchmarks.platform.trials import small_ray, trials_of
from recallfront.benchmarks.platform.zoology import (
    BATCH,
    LENGTH,
    PAIRS,
    WIDTH,
    imported,
    mqar_task,
    their_model_config,
    why_not,
)
from recallfront.models import build
from recallfront.platform.errors import UsageError
from recallfront.sweeps import SweepSpec, load_spec
from recallfront.sweeps.data import load, prepare
from recallfront.sweeps.tasks.base import IGNORED
from recallfront.sweeps.trial import TrialConfig

_VOCABULARY: Final = 256
_EXAMPLES: Final = 512  # of the split that each trial is evaluated on
_AT_ONCE: Final = 2
_RATES: Final = [0.001, 0.003]


@dataclass(frozen=True)
class Launched:
    """Seconds of whole sweeps by launcher, a value a round."""

    seconds: dict[str, list[float]]

    def ratio(self, launcher: str) -> float:
        """How many times as long a launcher takes as recallfront, the median of the rounds."""
        pairs = zip(self.seconds[launcher], self.seconds["recallfront"], strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)


def launchers(folder: Path, zoology: Path | None = None, *, steps: int = 200, rounds: int = 3) -> Launched:
    """Run the sweep by each launcher, `rounds` times in turn.

    Raises:
        UsageError: the code at `zoology` cannot be run.
        RuntimeError: a launcher failed.
    """
    if zoology is not None and (reason := why_not(zoology)):
        raise UsageError(reason)
    seconds: dict[str, list[float]] = {}
    for number in range(rounds):
        place = folder / f"round-{number}"
        place.mkdir(parents=True)
        file = place / "sweep.yaml"
        file.write_text(yaml.safe_dump(plain_spec(steps)))
        own = [sys.executable, "-m", "recallfront", "run", str(file), "--home", str(place / "home")]
        commands = {"recallfront": own, "plain Ray Tune": _command("tune", file, place / "tune")}
        if zoology is not None:
            commands["zoology's launcher"] = _command("zoology", file, zoology.resolve())
        for name, command in commands.items():
            seconds.setdefault(name, []).append(_timed(name, command))
    return Launched(seconds)


def plain_spec(steps: int) -> dict[str, Any]:
    """The specification of the eight configurations, by zoology's protocol."""
    rates = {"training.learning_rate": _RATES}
    return {
        "name": "launchers",
        "protocol": "zoology",
        "task": mqar_task(_VOCABULARY, BATCH * steps, _EXAMPLES),
        "model": {"width": WIDTH},
        "space": [
            {"architecture": "attention"} | rates,
            {"architecture": "window", "window_size": 17} | rates,
            {"architecture": "based", "feature_dim": [8, 16]} | rates,
        ],
        "training": {"steps": steps, "batch_size": BATCH, "evaluate_every": steps},
        "concurrent": _AT_ONCE,
    }


def _command(launcher: str, file: Path, place: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "recallfront.benchmarks.platform.launchers",
        launcher,
        str(file),
        str(place),
    ]


def _timed(name: str, command: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    return time.perf_counter() - start


def _with_tune(spec: SweepSpec, place: Path) -> None:
    """Every trial is a Tune function, its results written by Tune's MLflow callback."""
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    place.mkdir()
    data, digest = prepare(spec.task, place / "data")
    trials = [trial.model_dump_json() for trial in trials_of(spec)]
    callback = MLflowLoggerCallback(
        tracking_uri=f"sqlite:///{place / 'mlflow.db'}", experiment_name=spec.name
    )
    with small_ray():
        results = tune.Tuner(
            tune.with_resources(_tune_function, {"CPU": 1}),
            param_space={"trial": tune.grid_search(trials), "data": str(data), "digest": digest},
            tune_config=tune.TuneConfig(max_concurrent_trials=_AT_ONCE),
            run_config=tune.RunConfig(
                name=spec.name, storage_path=str(place), callbacks=[callback], verbose=0
            ),
        ).fit()
    if results.errors:
        raise RuntimeError(str(results.errors[0]))


def _tune_function(settings: Mapping[str, Any]) -> None:
    """A training as one writes it by hand."""
    from ray import tune

    config = TrialConfig.model_validate_json(settings["trial"])
    training = config.training
    (train,), (validation,), _ = load(Path(settings["data"]), settings["digest"]).splits.values()
    torch.manual_seed(config.seed)
    model = build(config.model, config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps)
    inputs, labels = train.inputs[:], train.labels[:]
    for own in torch.randperm(len(inputs))[: training.steps * BATCH].split(BATCH):
        loss = F.cross_entropy(model(inputs[own]).flatten(0, 1), labels[own].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    inputs, labels = validation.inputs[:], validation.labels[:]
    with torch.no_grad():
        right = torch.cat([model(rows).argmax(-1) for rows in inputs.split(BATCH)]) == labels
    recall = float(right[labels != IGNORED].float().mean())
    tune.report({"loss": float(loss), "recall": recall})


def _with_zoology(spec: SweepSpec, checkout: Path) -> None:
    """What zoology's launcher does with a file of configurations."""
    import ray

    with small_ray():
        remote = ray.remote(num_cpus=1)(_zoology_trial)
        trials = [trial.model_dump_json() for trial in trials_of(spec)]
        for error in ray.get([remote.remote(checkout, trial) for trial in trials]):
            if error is not None:
                raise RuntimeError(error)


def _zoology_trial(checkout: Path, trial: str) -> str | None:
    """Train one configuration as zoology does, its data with it; the error if it fails."""
    config = TrialConfig.model_validate_json(trial)
    knobs = config.model.model_dump()
    changes = {"feature_dim": knobs["feature_dim"]} if config.model.architecture == "based" else {}
    with imported(checkout):
        launch, settings = import_module("zoology.launch"), import_module("zoology.config")
        rows = import_module("zoology.data.multiquery_ar").MQARConfig
        shape = {"vocab_size": _VOCABULARY, "input_seq_len": LENGTH, "num_kv_pairs": PAIRS}
        data = settings.DataConfig(
            train_configs=[rows(**shape, num_examples=BATCH * config.training.steps)],
            test_configs=[rows(**shape, num_examples=_EXAMPLES)],
            batch_size=BATCH,
        )
        model = their_model_config(config.model.architecture, vocabulary=_VOCABULARY, **changes)
        rate = config.training.learning_rate
        asked = settings.TrainConfig(data=data, model=model, max_epochs=1, learning_rate=rate)
        _, error = launch.execute_config(asked)
    return None if error is None else repr(error)


def main() -> None:
    """One launcher's sweep: its name, the file of the sweep, and a folder or the checkout."""
    launcher, file, place = sys.argv[1:]
    os.environ["OMP_NUM_THREADS"] = "1"
    run = {"tune": _with_tune, "zoology": _with_zoology}[launcher]
    run(load_spec(file), Path(place))


if __name__ == "__main__":
    main()
