"""Records the learning curves of `recallfront bench search`: real trainings of its space, one thread, in this process.

    python -m recallfront.benchmarks.search.record FILE.jsonl [--seeds 0 1 2]
    python -m recallfront.benchmarks.search.record FILE.jsonl --pack

The first command trains every configuration that FILE.jsonl lacks and appends a line for each, so that it can be
stopped and started at any time. The second adds them to the table that the benchmark reads, also those of a seed that
not all configurations have yet, and measures the seconds of a step if the table has none. Models, rows, batches,
optimiser and schedule are those of a trial; only DeepSpeed's wrapper is left out.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from recallfront.benchmarks.search.curves import TABLE, pack, space
from recallfront.models import build
from recallfront.platform.search.configurations import shape
from recallfront.platform.trial.batches import Order, training_batches
from recallfront.platform.trial.engine import make_optimizer
from recallfront.sweeps.tasks.base import IGNORED, Segment
from recallfront.sweeps.trial import TrialConfig

_WARM_UP: Final = 3  # steps
_TIMED: Final = 15


def record(path: Path, seeds: list[int]) -> None:
    """Append the curve of every configuration that `path` lacks: all of one seed, then of the next.

    The order is shuffled, so that a recording that is stopped early has some of every architecture.
    """
    spec = space()
    known = {(line["configuration"], line["seed"]) for line in read(path)}
    data: dict[str, list[Segment]] = {
        split: list(spec.task.build(split)) for split in ("train", "validation")
    }
    for seed in seeds:
        grid = list(enumerate(spec.grid()))
        for at in np.random.default_rng(0).permutation(len(grid)).tolist():
            number, (block, knobs) = grid[at]
            if (number, seed) in known:
                continue
            recall, loss = learning_curve(spec.trial(block, knobs, seed), data)
            line = {"configuration": number, "seed": seed, "recall": recall, "loss": loss}
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The curves recorded so far."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def learning_curve(config: TrialConfig, data: dict[str, list[Segment]]) -> tuple[list[float], list[float]]:
    """Validation recall and validation loss in nats, one of each an evaluation, over a whole training."""
    training = config.training
    own = _Training(config, data)
    (validation,) = data["validation"]
    recall: list[float] = []
    loss: list[float] = []
    for step in range(1, training.steps + 1):
        own.step()
        if step % training.evaluate_every == 0:
            with torch.no_grad():
                found = answer(own.model, validation.inputs[:], validation.labels[:])
            right = found.predicted == validation.labels[:][validation.labels[:] != IGNORED]
            recall.append(round(float(right.float().mean()), 4))
            loss.append(round(float(found.losses.mean()), 4))
    return recall, loss


def paces() -> Sequence[float]:
    """Seconds of CPU that a training step of each configuration takes; those of one shape share them."""
    spec = space()
    data = {"train": list(spec.task.build("train"))}
    by_shape: dict[str, float] = {}
    for block, knobs in spec.grid():
        if (own := shape(block, knobs)) not in by_shape:
            by_shape[own] = _seconds_per_step(_Training(spec.trial(block, knobs, 0), data))
    return [by_shape[shape(block, knobs)] for block, knobs in spec.grid()]


def _seconds_per_step(training: "_Training") -> float:
    seconds = []
    for _ in range(_WARM_UP + _TIMED):
        start = time.thread_time()
        training.step()
        seconds.append(time.thread_time() - start)
    return median(seconds[_WARM_UP:])


class _Training:
    """A model that is trained step by step."""

    def __init__(self, config: TrialConfig, data: dict[str, list[Segment]]) -> None:
        self.model = build(config.model, config.seed)
        self._clipping = config.training.gradient_clipping
        self._optimizer, self._schedule = make_optimizer(self.model, config.training)
        self._batches = training_batches(data["train"], Order(config.training.batch_size), seed=config.seed)

    def step(self) -> None:
        found = answer(self.model, *next(self._batches))
        (found.loss / len(found.losses)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clipping)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()


def answer(model: Any, inputs: Tensor, labels: Tensor) -> Any:
    """What the labelled positions of rows come to."""
    at = (labels.flatten() != IGNORED).nonzero()[:, 0]
    return model(inputs, None, at=at, answers=labels.flatten()[at])


def main() -> None:
    parser = argparse.ArgumentParser(description="Record the learning curves of `recallfront bench search`.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pack", action="store_true", help=f"add to {TABLE.name} instead of recording")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.pack:
        pack(read(arguments.file), paces)
    else:
        record(arguments.file, arguments.seeds)


if __name__ == "__main__":
    main()
