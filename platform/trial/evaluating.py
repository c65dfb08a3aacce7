"""Evaluation of a model under training: the figures of a split, its batches shared between the ranks of a trial."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from recallfront.models.decoding.reading import PIECE, answer_in_pieces
from recallfront.models.parts.answers import Answered
from recallfront.platform.trial.recall import share_sums
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps.tasks.base import IGNORED, Counts, Segment, Split, TaskData
from recallfront.sweeps.trial import TrialConfig

_NOTHING = Counts(0.0, 0.0, 0.0, 0)


class _Counted(NamedTuple):
    """What the labelled positions of one batch come to."""

    whole: Counts
    slices: dict[str, Counts]


def answered(model: Any, inputs: Tensor, labels: Tensor, data: TaskData, device: str) -> Answered:
    """What the labelled positions of rows (B, T) come to; they are found before the device has the rows."""
    at, answers = asked(labels)
    positions = data.positions(inputs)
    found: Answered = model(
        inputs.to(device),
        None if positions is None else positions.to(device),
        at=at.to(device),
        answers=answers.to(device),
    )
    return found


@torch.no_grad()
def evaluated(
    engine: Any, config: TrialConfig, data: TaskData, split: Split, place: Workplace
) -> dict[str, float]:
    """The task's figures on a split: `recall` and `loss` over its labelled positions, and those of its parts.

    Each of several ranks reads every so-manieth batch. What they counted is added up in the order of the batches, so
    that figures are the same bits with any number of ranks.
    """
    engine.eval()
    batches = [(segment, rows) for segment in data.splits[split] for rows in _batches(config, data, segment)]
    counted: dict[int, _Counted] = {}
    for first in range(0, len(batches), place.world):
        mine = first + place.rank
        # under ZeRO-3 a rank without a batch has to take part, as a layer's weights come from all ranks
        if mine < len(batches) or config.training.zero_stage == 3:
            segment, rows = batches[mine if mine < len(batches) else 0]
            found = _count(engine.module, config, data, split, segment, rows, place.device)
            if mine < len(batches):
                counted[mine] = found
    engine.train()
    return _figures(config, data, split, batches, _of_all_ranks(counted, place))


def _batches(config: TrialConfig, data: TaskData, segment: Segment) -> Iterator[slice]:
    """Rows of a segment that are evaluated at once; of long ones that are read whole, as many tokens as of pieces."""
    size = config.training.evaluation_batch_size
    if _whole(config, data):
        size = max(1, size * PIECE // max(PIECE, segment.inputs[:1].shape[1]))
    return (slice(first, first + size) for first in range(0, len(segment.inputs), size))


def _whole(config: TrialConfig, data: TaskData) -> bool:
    """Whether rows are read whole, however long.

    Those of packed documents are, whose positions restart; so are all under ZeRO-3, where a layer has its weights only
    while it runs forward.
    """
    return data.end is not None or config.training.zero_stage == 3


def _of_all_ranks(counted: dict[int, _Counted], place: Workplace) -> dict[int, _Counted]:
    if place.world == 1:
        return counted
    said: list[dict[int, _Counted] | None] = [None] * place.world
    dist.all_gather_object(said, counted)
    return {index: found for own in said for index, found in (own or {}).items()}


def _figures(
    config: TrialConfig,
    data: TaskData,
    split: Split,
    batches: list[tuple[Segment, slice]],
    counted: dict[int, _Counted],
) -> dict[str, float]:
    segments, slices = dict[str, Counts](), dict[str, Counts]()
    for index, (segment, _) in enumerate(batches):
        whole, parts = counted[index]
        segments[segment.name] = segments.get(segment.name, _NOTHING).plus(whole)
        for name, found in parts.items():
            slices[name] = slices.get(name, _NOTHING).plus(found)
    figures = config.task.figures(segments, slices)
    if split in data.bytes_per_token:
        figures["bits_per_byte"] = figures["loss"] / math.log(2) / data.bytes_per_token[split]
    return figures


def _count(
    model: Any,
    config: TrialConfig,
    data: TaskData,
    split: Split,
    segment: Segment,
    rows: slice,
    device: str,
) -> _Counted:
    """What one batch of a segment's rows comes to, and those of its labelled positions that are the task's slices."""
    x, y = segment.inputs[rows], segment.labels[rows]
    answers = _read(model, config, data, x, y, device)
    parts = data.parts.get(split, {}).get(segment.name)
    masks = {**config.task.slices(x, y), **(parts(rows) if parts else {})}

    def counts(mask: Tensor) -> Counts:
        asked = y != IGNORED
        own = mask[asked].to(device)
        predicted, wanted = answers.predicted[own], y[asked].to(device)[own]
        places = asked.nonzero()[:, 0].to(device)[own]
        right, loss = (predicted == wanted).sum(), answers.losses[own].sum()
        counted = share_sums(config.training.recall_over, predicted, wanted, places)
        return Counts(float(right), float(loss), float(own.sum()), y.shape[1], *counted)

    return _Counted(counts(y != IGNORED), {name: counts(mask) for name, mask in masks.items()})


def _read(
    model: Any, config: TrialConfig, data: TaskData, inputs: Tensor, labels: Tensor, device: str
) -> Answered:
    """As `answered`: of long rows a piece at a time if they may be, so that memory does not grow with their length."""
    if _whole(config, data) or inputs.shape[1] <= PIECE:
        return answered(model, inputs, labels, data, device)
    at, answers = asked(labels)
    return answer_in_pieces(model, inputs, at.to(device), answers.to(device))


def asked(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The labelled places of the B * T, and the answers there."""
    at = (labels.flatten() != IGNORED).nonzero()[:, 0]
    return at, labels.flatten()[at]
