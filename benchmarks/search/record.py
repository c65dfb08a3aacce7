"""Records the learning curves of `recallfront bench search`: real trainings of its space, one thread, in this process.

    python -m recallfront.benchmarks.search.record FILE.jsonl [--seeds 0 1 2]
    python -m recallfront.benchmarks.search.record FILE.jsonl --pack

The first command trains every configuration that FILE.jsonl lacks and appends a line for each, so that it can be
stopped and started at any time; the second writes the table that the benchmark reads. Models, rows, batches, optimiser
and schedule are those of a trial; only DeepSpeed's wrapper is left out.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recallfront.benchmarks.search.curves import TABLE, pack, space
from recallfront.models import build
from recallfront.platform.trial.batches import Order, training_batches
from recallfront.platform.trial.engine import make_optimizer
from recallfront.sweeps.tasks.base import IGNORED, Segment
from recallfront.sweeps.trial import TrialConfig


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
    model = build(config.model, config.seed)
    optimizer, schedule = make_optimizer(model, training)
    batches = training_batches(data["train"], Order(training.batch_size), seed=config.seed)
    (validation,) = data["validation"]
    recall: list[float] = []
    loss: list[float] = []
    for step in range(1, training.steps + 1):
        found = answer(model, *next(batches))
        (found.loss / len(found.losses)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clipping)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % training.evaluate_every == 0:
            with torch.no_grad():
                found = answer(model, validation.inputs[:], validation.labels[:])
            right = found.predicted == validation.labels[:][validation.labels[:] != IGNORED]
            recall.append(round(float(right.float().mean()), 4))
            loss.append(round(float(found.losses.mean()), 4))
    return recall, loss


def answer(model: Any, inputs: Tensor, labels: Tensor) -> Any:
    """What the labelled positions of rows come to."""
    at = (labels.flatten() != IGNORED).nonzero()[:, 0]
    return model(inputs, None, at=at, answers=labels.flatten()[at])


def main() -> None:
    parser = argparse.ArgumentParser(description="Record the learning curves of `recallfront bench search`.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pack", action="store_true", help=f"write {TABLE.name} instead of recording")
    arguments = parser.parse_args()
    if arguments.pack:
        pack(read(arguments.file))
        return
    torch.set_num_threads(1)
    record(arguments.file, arguments.seeds)


if __name__ == "__main__":
    main()
