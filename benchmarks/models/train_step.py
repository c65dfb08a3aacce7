"""`make gpu`: training steps of small trials on a GPU, captured as CUDA graphs (`training.graph`) beside usual ones.

python -m recallfront.benchmarks.models.train_step
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

import torch
from torch import Tensor

from recallfront.benchmarks.models.costs import in_turns
from recallfront.benchmarks.platform.trials import ARCHITECTURES, bench_spec, trials_of
from recallfront.models.building import build
from recallfront.platform.trial.batches import Order, training_batches
from recallfront.platform.trial.engine import make_engine, prepare_process
from recallfront.platform.trial.evaluating import answered
from recallfront.platform.trial.step_graph import StepGraph
from recallfront.sweeps.spec import SweepSpec
from recallfront.sweeps.tasks.base import TaskData
from recallfront.sweeps.trial import TrialConfig

_Step = Callable[[Tensor, Tensor], Tensor]
_STEPS: Final = 10  # of a turn; the first turn compiles and captures
_TURNS: Final = 20


@dataclass(frozen=True)
class TrainStep:
    """A training step of an architecture, in milliseconds of wall time: medians of turns."""

    architecture: str
    usual: float
    captured: float
    apart: float  # relative, the largest difference between two losses of the first turn

    def line(self) -> str:
        """For people."""
        times = self.usual / self.captured
        return (
            f"training step of {self.architecture:<10} {self.usual:7.3f} ms, captured {self.captured:7.3f} ms: "
            f"{times:.2f} times faster, losses within {self.apart:.0e}"
        )


def main() -> int:
    """Print a line for each architecture; returns 0, 1 if one gave no figure, or 2 if there is no GPU."""
    if not torch.cuda.is_available():
        print("training steps: they need a GPU and PyTorch sees none here; nothing was timed")
        return 2
    if importlib.util.find_spec("deepspeed") is None:
        print("training steps: they need DeepSpeed, which is not installed here; nothing was timed")
        return 0
    failed, spec = False, small_trials(_TURNS)
    data = rows_of(spec)
    for config in trials_of(spec):
        try:
            print(train_step(config, data, "cuda:0", turns=_TURNS).line(), flush=True)
        except Exception as error:  # one architecture must not end the benchmark
            failed = True
            print(
                f"training step of {config.model.architecture}: {type(error).__name__}: {error}", flush=True
            )
    return int(failed)


def small_trials(turns: int) -> SweepSpec:
    """Trials of the size of those of `quickstart`, long enough for so many turns."""
    return bench_spec(*ARCHITECTURES, width=64, length=32, steps=_STEPS * (turns + 2))


def rows_of(spec: SweepSpec) -> TaskData:
    """The rows that its trials are trained on."""
    return TaskData("", {"train": list(spec.task.build("train"))})


def train_step(config: TrialConfig, data: TaskData, device: str, *, turns: int) -> TrainStep:
    """Train two engines of one trial in turns, one by usual steps and one by captured ones.

    On a CPU nothing is captured: there it is for trying the benchmark.
    """
    prepare_process(threads=1, use_gpu=device != "cpu")
    batches = training_batches(data.splits["train"], Order(config.training.batch_size), seed=0)
    rows = list(islice(batches, _STEPS))
    steps = _steps(config, data, device)
    first, second = (torch.stack([step(*batch) for batch in rows]) for step in steps)
    apart = float(((second - first).abs() / first).max())
    usual, captured = in_turns([partial(_turn, step, rows, device) for step in steps], turns)
    architecture = config.model.architecture
    return TrainStep(architecture, 1e3 * usual / _STEPS, 1e3 * captured / _STEPS, apart)


def _steps(config: TrialConfig, data: TaskData, device: str) -> tuple[_Step, _Step]:
    """A trial's usual step, and its captured one; each trains an engine of its own."""
    training = config.training
    engines: list[Any] = [make_engine(build(config.model, 0).to(device), training) for _ in range(2)]
    graph = StepGraph(
        engines[1], data, device, clipping=training.gradient_clipping, batch_size=training.batch_size
    )

    def usual(inputs: Tensor, labels: Tensor) -> Tensor:
        found = answered(engines[0], inputs, labels, data, device)
        loss = found.loss / len(found.losses)
        engines[0].backward(loss)
        engines[0].step()
        return loss.detach()

    return usual, graph.step


def _turn(step: _Step, rows: Sequence[tuple[Tensor, Tensor]], device: str) -> None:
    for batch in rows:
        step(*batch)
    if device != "cpu":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
