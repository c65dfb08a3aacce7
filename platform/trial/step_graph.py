"""Training steps as CUDA graphs: a small model's GPU waits for launches, of which a step has hundreds."""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from recallfront.platform.trial.evaluating import asked
from recallfront.sweeps.tasks.base import TaskData

_BEFORE: Final = 3  # steps of a shape that run as usual: they compile kernels and make the optimizer's state
_MOST: Final = 8  # shapes that are captured; rows of any further one train as usual

Given = tuple[Tensor, Tensor | None, Tensor, Tensor]  # tokens, positions, labelled places, answers


@dataclass
class _Shape:
    """Rows of one shape."""

    given: Given | None = None  # on the device, where a captured step reads them
    graph: Any = None
    loss: Tensor | None = None  # where it leaves the loss
    done: int = 0


class StepGraph:
    """Whole optimizer steps beside a DeepSpeed engine, on its weights and with its optimizer and schedule.

    One rank, ZeRO 0 and float32: then the engine adds nothing to forward, backward, clipping and AdamW but its
    counters, which are kept, so that its checkpoints are those of any trial. On a CPU the same steps run uncaptured.
    """

    def __init__(self, engine: Any, data: TaskData, device: str, *, clipping: float, batch_size: int) -> None:
        self._engine, self._data, self._device = engine, data, torch.device(device)
        self._clipping, self._batch_size = clipping, batch_size
        self._optimizer = engine.optimizer
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        # a captured step reads the learning rate where it finds it, not what it once was
        self._rate = torch.zeros((), device=self._device)
        self._shapes: dict[tuple[Any, ...], _Shape] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._device.type == "cuda" else None

    def step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """One optimizer step on rows (B, T); returns the mean loss, not yet read."""
        at, answers = asked(labels)
        given = (inputs, self._data.positions(inputs), at, answers)
        name = tuple(None if part is None else tuple(part.shape) for part in given)
        shape = self._shapes.setdefault(name, _Shape())
        self._rate.fill_(self._optimizer.param_groups[0]["lr"])
        if shape.graph is None and shape.done >= _BEFORE and self._captured() < _MOST:
            self._capture(shape, given)
        if shape.graph is None:
            loss = self._step(_on(self._device, given))
        else:
            _fill(shape.given, given)
            shape.graph.replay()
            assert shape.loss is not None
            loss = shape.loss.clone()
        shape.done += 1
        self._count()
        return loss

    def _captured(self) -> int:
        """How many shapes are captured; on a CPU as many as there may be."""
        if self._pool is None:
            return _MOST
        return sum(shape.graph is not None for shape in self._shapes.values())

    def _capture(self, shape: _Shape, given: Given) -> None:
        """Record what a step launches; nothing is computed yet."""
        shape.given, graph = _on(self._device, given), torch.cuda.CUDAGraph()
        self._optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize(self._device)
        usual = torch.cuda.current_stream(self._device)
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=torch.cuda.Stream(self._device)):
                shape.loss = self._step(shape.given)
        finally:
            torch.cuda.set_stream(usual)  # a capture that fails leaves its own
        shape.graph = graph

    def _step(self, given: Given) -> Tensor:
        tokens, positions, at, answers = given
        self._optimizer.zero_grad(set_to_none=True)
        found = self._engine.module(tokens, positions, at=at, answers=answers)
        loss = found.loss / len(found.losses)
        loss.backward()
        if self._clipping:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._clipping)
        rates = [group["lr"] for group in self._optimizer.param_groups]
        for group in self._optimizer.param_groups:
            group["lr"], group["capturable"] = self._rate, self._pool is not None
        self._optimizer.step()
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        detached: Tensor = loss.detach()
        return detached

    def _count(self) -> None:
        """What the engine counts in a step of its own."""
        self._engine.lr_scheduler.step()
        self._engine.global_steps += 1
        self._engine.micro_steps += 1
        self._engine.global_samples += self._batch_size


def _on(device: torch.device, given: Given) -> Given:
    tokens, positions, at, answers = given
    placed = None if positions is None else positions.to(device)
    return tokens.to(device), placed, at.to(device), answers.to(device)


def _fill(held: Given | None, given: Given) -> None:
    assert held is not None
    for own, new in zip(held, given, strict=True):
        if own is not None and new is not None:
            own.copy_(new, non_blocking=True)
