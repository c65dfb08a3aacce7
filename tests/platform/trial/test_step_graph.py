"""Training steps beside the engine: the same losses and weights, captured where there is a GPU."""

from typing import Any

import pytest
import torch

from recallfront.models import build
from recallfront.platform.trial.batches import Order, training_batches
from recallfront.platform.trial.engine import make_engine, prepare_process
from recallfront.platform.trial.evaluating import answered
from recallfront.platform.trial.step_graph import StepGraph
from recallfront.sweeps.tasks.base import TaskData
from tests.platform.specs import SEGMENT, tiny_spec

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]
STEPS = 12
# a rounding in float32 at each step, of losses near ln(32); both paths round differently in the clipping alone
CLOSE = 20 * STEPS * torch.finfo(torch.float32).eps
GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"))


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_steps_beside_the_engine_find_its_losses_its_schedule_and_its_counts(device: str) -> None:
    prepare_process(threads=1, use_gpu=device == "cuda")
    # rows of two lengths: each has a graph of its own
    segments = [SEGMENT | {"examples": 128}, SEGMENT | {"input_seq_len": 24, "examples": 128}]
    spec = tiny_spec(
        task={"train": segments}, training={"steps": STEPS, "warmup_steps": 3, "evaluate_every": STEPS}
    )
    block, knobs = next(spec.grid())
    config = spec.trial(block, knobs, 0)
    training = config.training
    data = TaskData("", {"train": list(spec.task.build("train"))})
    engines: list[Any] = [make_engine(build(config.model, 0).to(device), training) for _ in range(2)]
    beside = StepGraph(
        engines[1], data, device, clipping=training.gradient_clipping, batch_size=training.batch_size
    )
    batches = training_batches(data.splits["train"], Order(training.batch_size), seed=0)
    losses = []
    for _, (inputs, labels) in zip(range(STEPS), batches, strict=False):
        found = answered(engines[0], inputs, labels, data, device)
        loss = found.loss / len(found.losses)
        engines[0].backward(loss)
        engines[0].step()
        losses.append((loss.detach(), beside.step(inputs, labels)))
    own, captured = (torch.stack(values) for values in zip(*losses, strict=True))
    assert own[-1] < own[0]
    torch.testing.assert_close(captured, own, rtol=CLOSE, atol=0.0)
    first, second = engines
    for name in ("global_steps", "micro_steps", "global_samples"):
        assert getattr(second, name) == getattr(first, name), name
    assert second.get_lr() == first.get_lr()
    assert second.lr_scheduler.last_epoch == first.lr_scheduler.last_epoch == STEPS
