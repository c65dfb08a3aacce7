"""Training and evaluation of one trial on one rank: the loop around a DeepSpeed engine."""

import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Event
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from recallfront.platform.errors import one_line
from recallfront.platform.home import check_folder
from recallfront.platform.home.upload import Upload
from recallfront.platform.home.vault import fetch_folder, is_remote
from recallfront.platform.results.reports import MetricRow, Report, now_ms
from recallfront.platform.results.status import Status, TrialFailure
from recallfront.platform.trial.batches import Order, training_batches
from recallfront.platform.trial.checkpoints import CHECKPOINT, CHECKPOINTS, checkpoints, remove_here
from recallfront.platform.trial.engine import (
    learning_rate_ratio,
    load_checkpoint,
    make_engine,
    save_checkpoint,
)
from recallfront.platform.trial.evaluating import answered, evaluated
from recallfront.platform.trial.holding import in_turn, is_own
from recallfront.platform.trial.leaving import Leaving
from recallfront.platform.trial.nodes import Nodes, barrier, on_every_rank
from recallfront.platform.trial.quiet import Device, aside
from recallfront.platform.trial.speculation import sparing, speculated, trained_heads
from recallfront.platform.trial.step_graph import StepGraph
from recallfront.platform.trial.workplace import TRIALS, Workplace
from recallfront.sweeps.tasks.base import Split, TaskData
from recallfront.sweeps.trial import PlateauConfig, TrialConfig

_STEP = "step"  # file of a checkpoint of a home at an address
_LAST_UPLOAD_SECONDS = 30.0  # for the newest checkpoint, when the trial ends before its last step
_MOST_STEPS_UNREAD = 50  # losses are read from the device in such chunks: reading each would stall a GPU


class Diverged(TrialFailure):
    """The loss became NaN or infinite."""

    status = Status.DIVERGED


class OutOfTime(TrialFailure):
    """The trial ran over its time limit."""

    status = Status.TIMEOUT


class Training:
    """One rank's share of a trial's training, from its last checkpoint on."""

    def __init__(
        self,
        config: TrialConfig,
        model: Any,
        data: TaskData,
        place: Workplace,
        device: Device,
        told_to_leave: Event,
    ) -> None:
        self._told_to_leave = told_to_leave
        self.config, self.data, self.place, self.device = config, data, place, device
        self.dtype = getattr(torch, config.training.precision)
        training = config.training
        share = training.accumulation * place.world
        self._order = Order(training.batch_size, training.row_order == "given", share)
        self._epoch = self._order.epoch(data.splits["train"])
        self.engine = make_engine(model.to(place.device), training, self._epoch)
        self._graph = self._make_graph() if training.graph else None
        self.step = 0
        self.seconds = {"train": 0.0, "evaluate": 0.0, "wait": 0.0}
        # every row so far: a checkpoint holds them, so that none is lost with a driver
        self.history: list[MetricRow] = []
        self._validated: list[MetricRow] = []  # those of the validation split alone: steps are many more
        # sentences for the user, on damage that was found and mended
        self.notices: list[str] = []
        self._folder = place.folder(config)
        self._nodes = Nodes(place, self._folder)
        # to the home's address, where it has one
        self.uploads = Upload(self._folder / CHECKPOINT)
        self._is_kept = place.scratch == TRIALS and place.rank == 0
        self._unread: list[Tensor] = []
        self._saved_at = time.monotonic()
        self._is_ended_early = False
        self._resume()

    def run(self, figures: dict[str, float]) -> Iterator[Report]:
        """Train to the last step; one report an evaluation, the last of them with the test split's figures.

        Raises:
            Diverged: the loss is not finite.
            OutOfTime: it has trained and evaluated for longer than the time limit, earlier attempts included.
            Leaving: its process is to leave, and a checkpoint was written.
        """
        if self.history:
            yield self._report(list(self.history), figures)
        train, seed = self.data.splits["train"], self.config.seed
        batches = training_batches(train, self._order, seed=seed, first_step=self.step)
        rows: list[MetricRow] = []
        if self.config.training.steps == 0:  # it is evaluated as it starts
            rows = self._validate(figures)
            self.history += rows
        while not self._is_over():
            rows = self._train_until_evaluation(batches) + self._validate(figures)
            self.history += rows
            if not self._is_over():
                leaves = self._is_to_leave()
                self._save_if_due(now=leaves)
                try:
                    yield self._report(rows, figures)
                except GeneratorExit:  # a rule ends it here, and may let it go on later
                    self._is_ended_early = True
                    self._save_for_promotion()
                    raise
                if leaves:
                    raise self._leaving()
        with self._holding_device("evaluate"):
            found = self.evaluate("test")
        figures |= {"test_loss" if name == "loss" else name: value for name, value in found.items()}
        if self.config.speculation is not None:
            self.engine.eval()
            with sparing(self.notices):
                with aside(), self._holding_device("evaluate"):  # it is not part of the trial's training
                    heads = trained_heads(self.engine.module, self.config, self.data, self.place.device)
                with self.device.alone():
                    figures |= speculated(
                        self.engine.module, heads, self.config, self.data, self.place.device
                    )
        figures |= {f"{phase}_seconds": spent for phase, spent in self.seconds.items()}
        yield self._report(rows, figures)

    def _validate(self, figures: dict[str, float]) -> list[MetricRow]:
        """Evaluate the validation split into `figures`."""
        with self._holding_device("evaluate"):
            self._check_weights()
            found = {f"validation_{name}": value for name, value in self.evaluate("validation").items()}
        figures |= found
        rows = [(name, value, self.step, now_ms()) for name, value in found.items()]
        self._validated += rows
        return rows

    def _is_over(self) -> bool:
        """Whether the last step is done, or the trial is solved or has stopped learning (`stop_at`, `plateau`)."""
        training = self.config.training
        if self.step >= training.steps:
            return True
        if training.stop_at is None and training.plateau is None:
            return False
        recall, loss = (
            [value for name, value, _, _ in self._validated if name == f"validation_{metric}"]
            for metric in ("recall", "loss")
        )
        if training.stop_at is not None and recall and recall[-1] >= training.stop_at.recall:
            return True
        return training.plateau is not None and has_stopped_learning(training.plateau, recall, loss)

    def evaluate(self, split: Split) -> dict[str, float]:
        """The task's figures on a split: `recall` and `loss` over its labelled positions, and those of its parts."""
        figures = evaluated(self.engine, self.config, self.data, split, self.place)
        if not math.isfinite(figures["loss"]):
            raise Diverged(f"loss of the {split} split is {figures['loss']} at step {self.step}")
        return figures

    def close(self) -> None:
        self.uploads.finish(_LAST_UPLOAD_SECONDS)
        self.uploads.close()
        # it may go on anywhere, or never: of that its driver tells only the home's address
        if self._is_ended_early and self.uploads.kept >= 0:
            with suppress(OSError), in_turn(self._folder):  # a full disk
                if is_own(self._folder, self.place.sweep) and self._newest_here() == self.uploads.kept:
                    remove_here(self._folder)
        self.engine.destroy()

    def _train_until_evaluation(self, batches: Iterator[tuple[Tensor, Tensor]]) -> list[MetricRow]:
        training = self.config.training
        rows: list[MetricRow] = []
        stop = min(training.steps, (self.step // training.evaluate_every + 1) * training.evaluate_every)
        while self.step < stop:
            limit = self.config.resources.time_limit_seconds
            if limit is not None and self.seconds["train"] + self.seconds["evaluate"] > limit:
                raise OutOfTime(
                    f"exceeded the time limit of {limit:g} s at step {self.step} of {training.steps}"
                )
            inputs, labels = next(batches)
            with self._holding_device("train"):
                self._unread.append(self._train_step(inputs, labels))
                self.step += 1
                if self.step == stop or len(self._unread) == _MOST_STEPS_UNREAD:
                    rows += self._read_losses()
            if self.step < stop and self._is_to_leave():
                # what this interval has found so far is reported by whoever goes on from here
                self.history += rows + self._read_losses()
                self._save_if_due(now=True)
                raise self._leaving()
        return rows

    def _is_to_leave(self) -> bool:
        """Whether the process is to leave; several ranks leave together, and agree whenever losses were read."""
        told = self._told_to_leave.is_set()
        if self.place.world == 1:
            return told
        return not self._unread and self._any_rank(told)

    def _any_rank(self, own: bool) -> bool:
        """Whether it is so on any rank; every rank asks."""
        if self.place.world == 1:
            return own
        flag = torch.tensor(int(own), device=self.place.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def _leaving(self) -> Leaving:
        steps = self.config.training.steps
        return Leaving(f"its process was asked to end; it is saved at step {self.step} of {steps}")

    def _train_step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """One optimizer step on this rank's share of the rows; returns the mean loss, not yet read."""
        if self._graph is not None:
            return self._graph.step(inputs, labels)
        share = slice(self.place.rank, None, self.place.world)
        parts = self.config.training.accumulation
        losses = []
        with self._drawing():
            for x, y in zip(inputs[share].chunk(parts), labels[share].chunk(parts), strict=True):
                found = answered(self.engine, x, y, self.data, self.place.device)
                loss = found.loss / len(found.losses)
                self.engine.backward(loss)
                self.engine.step()
                losses.append(loss.detach())
        return torch.stack(losses).mean()

    def _make_graph(self) -> StepGraph:
        training = self.config.training
        return StepGraph(
            self.engine,
            self.data,
            self.place.device,
            clipping=training.gradient_clipping,
            batch_size=training.batch_size,
        )

    def _read_losses(self) -> list[MetricRow]:
        if not self._unread:
            return []
        losses = torch.stack(self._unread).float()
        self._unread = []
        if self.place.world > 1:
            dist.all_reduce(losses)
            losses /= self.place.world
        first, at = self.step - len(losses) + 1, now_ms()
        values = losses.tolist()
        for index, value in enumerate(values):
            if not math.isfinite(value):
                raise Diverged(f"loss is {value} at step {first + index} of {self.config.training.steps}")
        training = self.config.training
        rows: list[MetricRow] = []
        for step, value in enumerate(values, start=first):
            rows.append(("loss", value, step, at))
            rate = training.learning_rate * learning_rate_ratio(training, step - 1, self._epoch)
            rows.append(("learning_rate", rate, step, at))
        return rows

    def _check_weights(self) -> None:
        """A step can ruin the weights when no later loss tells, as the last step of a trial does."""
        # of weights that ZeRO-3 spreads over the ranks, this rank's share
        own = [getattr(p, "ds_tensor", p).detach() for p in self.engine.module.parameters()]
        # if a square overflows, a norm of these weights is infinite, and the model computes nothing
        finite = torch.stack([p.float().square().sum().isfinite() for p in own]).all().to(torch.int32)
        if self.place.world > 1:
            dist.all_reduce(finite, dist.ReduceOp.MIN)
        if not finite:
            raise Diverged(f"the weights are not finite at step {self.step} of {self.config.training.steps}")

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """What a step drops follows from trial, step and rank, so that a resumed trial drops the same."""
        if not self.config.model.drops:
            yield
            return
        device = torch.device(self.place.device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(((self.config.seed * 1_000_003 + self.step) * 1009 + self.place.rank) % 2**63)
            yield

    @contextmanager
    def _holding_device(self, phase: str) -> Iterator[None]:
        """Account a phase's seconds; those spent waiting for a running measurement count as waiting.

        Of several ranks one a node holds the device for all, before any of them begins: were each to hold it, one
        could wait for a measurement while that waits for another, which waits for the first in a collective.
        """
        asked = time.perf_counter()
        with self.device.shared() if self.place.local_rank == 0 else nullcontext():
            barrier(self.place)
            start = time.perf_counter()
            self.seconds["wait"] += start - asked
            try:
                yield
            finally:
                self.seconds[phase] += time.perf_counter() - start

    def _report(self, rows: list[MetricRow], figures: dict[str, float]) -> Report:
        return Report(
            step=self.step,
            rows=rows,
            figures=dict(figures),
            seconds=dict(self.seconds),
            notices=[*self.notices, *self.uploads.notices],
        )

    def _save_if_due(self, *, now: bool = False) -> None:
        # ranks agree, as their clocks may not
        due = now or time.monotonic() - self._saved_at >= self.config.training.checkpoint_seconds
        if not self._any_rank(due):
            return
        with aside():
            self._nodes.replace_folder(self._folder / CHECKPOINT, self._write_checkpoint)
            if self._is_kept:
                self.uploads.offer(self.step)
        self._saved_at = time.monotonic()

    def _save_for_promotion(self) -> None:
        """Save where the trial is ended early. Ranks have what they saved last: others may not be there to save."""
        if self.place.world > 1:
            return
        with suppress(OSError), in_turn(self._folder):  # a full disk: it would go on from an earlier step
            if is_own(self._folder, self.place.sweep):
                self._save_if_due(now=True)

    def _write_checkpoint(self, folder: Path) -> None:
        state = {"step": self.step, "seconds": self.seconds, "history": self.history}
        save_checkpoint(self.engine, folder, {"json": json.dumps(state)})
        if self._is_kept and is_remote(folder):
            (folder / _STEP).write_text(str(self.step))

    def _newest_here(self) -> int:
        """The step of the newest checkpoint of this machine; -1 if there is none."""
        return max(map(_step_of, checkpoints(self._folder)), default=-1)

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint; a damaged one is reported and dropped, and the next is tried."""
        chosen = on_every_rank(self._choose_checkpoint, self.place)
        if chosen is None:
            return
        with self._nodes.lent(self._folder / chosen) as folder:
            state = json.loads(load_checkpoint(self.engine, folder)["json"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = [(k, v, s, t) for k, v, s, t in state["history"]]
        self._validated = [row for row in self.history if row[0].startswith("validation_")]

    def _choose_checkpoint(self) -> str | None:
        whole = self._newest_whole()
        if self._is_kept:
            # another node may have trained it further than this one
            self.notices += fetch_folder(self._folder / CHECKPOINT, newer_than=self._newest_here())
            whole = self._newest_whole()
        return whole

    def _newest_whole(self) -> str | None:
        """The name of the newest checkpoint here that is whole; damaged ones are dropped."""
        # one that was fetched may be newer than what an interruption has left under another name
        for folder in sorted(checkpoints(self._folder), key=_step_of, reverse=True):
            try:
                check_folder(folder)
                return folder.name
            except ValueError as error:
                shutil.rmtree(folder)
                if folder.name != CHECKPOINTS[0]:  # an interruption may leave half of a new one
                    self.notices.append(f"a damaged checkpoint was dropped ({one_line(error)})")
        return None


def _step_of(checkpoint: Path) -> int:
    """The step of a checkpoint of a home at an address; -1 of any other."""
    file = checkpoint / _STEP
    told = file.read_text(errors="replace") if file.exists() else ""
    return int(told) if told.isdecimal() else -1


def has_stopped_learning(plateau: PlateauConfig, recall: Sequence[float], loss: Sequence[float]) -> bool:
    """Whether the last evaluations were no gain over the best before them, in recall and in loss (nats)."""
    last = plateau.evaluations
    if len(recall) <= last:
        return False
    risen = max(recall[-last:]) - max(recall[:-last])
    fallen = 1 - min(loss[-last:]) / max(min(loss[:-last]), 1e-12)
    return risen < plateau.min_gain and fallen < plateau.min_gain
