"""Recorded learning curves of a real space, kept as one compressed table."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recallfront.models import Architecture
from recallfront.sweeps.load import load_spec
from recallfront.sweeps.spec import SweepSpec

TABLE: Final = Path(__file__).parent / "curves.npz"
_SPACE: Final = Path(__file__).parent / "space.yaml"
_MISSING: Final = 2**16 - 1  # in place of a curve that was not recorded
_RECALL_UNIT, _LOSS_UNIT = 1e-4, 1e-3  # of the stored whole numbers; the second in nats
# What decode throughput is modelled with: a GPU that reads weights and states once a token.
_BANDWIDTH: Final = 3.35e12  # bytes a second: H100 SXM
_LAYER_SECONDS: Final = 1e-6  # of a layer's kernels when they have nothing to do
_NUMBER_BYTES: Final = 2  # bfloat16


@dataclass(frozen=True)
class RecordedCurves:
    """What was recorded of the C configurations of `space()`, in the order of its grid.

    `recall` and `loss` (nats) are (seeds, C, evaluations), of the validation split, and NaN where a configuration was
    not recorded with a seed; the others are (C,).
    """

    recall: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    decode_tokens_per_second: npt.NDArray[np.float64]
    state_bytes: npt.NDArray[np.float64]
    seconds_per_step: npt.NDArray[np.float64]  # of CPU, on the machine that recorded them
    seeds: tuple[int, ...]

    @property
    def whole(self) -> tuple[int, ...]:
        """The seeds that all configurations were recorded with."""
        own = zip(self.seeds, self.recall, strict=True)
        return tuple(seed for seed, recall in own if not np.isnan(recall).any())

    def of(self, seeds: Sequence[int]) -> "RecordedCurves":
        """The same of these seeds alone, in this order.

        Raises:
            ValueError: a configuration was not recorded with one of them.
        """
        for seed in seeds:
            if seed not in self.whole:
                number, all_ = self._recorded(seed), self.recall.shape[1]
                told = f"{number} of {all_} configurations were recorded with seed {seed}, and all are needed"
                raise ValueError(f"{TABLE.name}: {told}")
        at = [self.seeds.index(seed) for seed in seeds]
        return replace(self, recall=self.recall[at], loss=self.loss[at], seeds=tuple(seeds))

    def _recorded(self, seed: int) -> int:
        """How many configurations were recorded with a seed."""
        if seed not in self.seeds:
            return 0
        return int((~np.isnan(self.recall[self.seeds.index(seed)]).any(axis=1)).sum())


@lru_cache(maxsize=1)
def space() -> SweepSpec:
    """The space that was recorded, as a grid."""
    return load_spec(str(_SPACE))


def pack(lines: Iterable[Mapping[str, Any]], paces: Callable[[], Sequence[float]], path: Path = TABLE) -> int:
    """Add curves to the table, or begin it; returns how many curves it has.

    Args:
        paces: measures the seconds of a training step of every configuration; a table that has them keeps them.

    Raises:
        ValueError: no seed has all configurations.
    """
    spec = space()
    configs = [spec.trial(block, knobs, 0) for block, knobs in spec.grid()]
    models = [config.deployment_model for config in configs]
    measurement = spec.measurement
    before = _read(path) if path.exists() and _is_of(path, spec) else None
    found: dict[int, dict[int, Mapping[str, Any]]] = {}
    for line in [*(_lines(before) if before else ()), *lines]:
        found.setdefault(line["seed"], {})[line["configuration"]] = line
    if all(len(own) < len(configs) for own in found.values()):
        recorded = {seed: len(own) for seed, own in found.items()}
        raise ValueError(f"no seed has all {len(configs)} configurations: recorded are {recorded}")
    seeds = sorted(found)
    evaluations = spec.training.steps // spec.training.evaluate_every

    def stored(name: str, unit: float) -> npt.NDArray[np.uint16]:
        whole = np.full((len(seeds), len(configs), evaluations), _MISSING, dtype=np.uint16)
        for place, seed in enumerate(seeds):
            for at, line in found[seed].items():
                values = np.nan_to_num(np.array(line[name]) / unit, nan=_MISSING)
                whole[place, at] = np.minimum(np.round(values), _MISSING - 1).astype(np.uint16)
        return whole

    context, rows = measurement.context_length, measurement.rows
    np.savez_compressed(
        path,
        sweep_key=np.array(spec.key),
        seeds=np.array(seeds),
        recall=stored("recall", _RECALL_UNIT),
        loss=stored("loss", _LOSS_UNIT),
        decode_tokens_per_second=np.array([modelled_decode(model, context, rows) for model in models]),
        state_bytes=np.array([_NUMBER_BYTES * model.state_elements(context) for model in models]),
        seconds_per_step=before.seconds_per_step if before else np.array(paces()),
    )
    return sum(map(len, found.values()))


def modelled_decode(model: Architecture, context: int, rows: int) -> float:
    """Tokens per second of `rows` sequences that decode together after `context` tokens.

    A step reads all weights once and every sequence's state once, at the bandwidth of an H100, and each layer takes
    a fixed time besides: decoding is bound by memory. The table is modelled, not measured, so that it is the same
    wherever it is recorded.
    """
    numbers = model.parameter_count() + rows * model.state_elements(context)
    seconds = numbers * _NUMBER_BYTES / _BANDWIDTH + model.num_layers * _LAYER_SECONDS
    return rows / seconds


@lru_cache(maxsize=1)
def curves() -> RecordedCurves:
    """The recorded table.

    Raises:
        ValueError: it was recorded of another space.
    """
    if not _is_of(TABLE, space()):
        raise ValueError(f"{TABLE.name}: was recorded of another space than {_SPACE.name}: record it again")
    return _read(TABLE)


def _is_of(path: Path, spec: SweepSpec) -> bool:
    """Whether a table was recorded of this space."""
    with np.load(path, allow_pickle=False) as table:
        return str(table["sweep_key"]) == spec.key


def _read(path: Path) -> RecordedCurves:
    with np.load(path, allow_pickle=False) as table:
        is_missing = table["recall"] == _MISSING
        return RecordedCurves(
            recall=np.where(is_missing, np.nan, table["recall"] * _RECALL_UNIT),
            loss=np.where(is_missing, np.nan, table["loss"] * _LOSS_UNIT),
            decode_tokens_per_second=table["decode_tokens_per_second"],
            state_bytes=table["state_bytes"].astype(np.float64),
            seconds_per_step=table["seconds_per_step"],
            seeds=tuple(table["seeds"].tolist()),
        )


def _lines(table: RecordedCurves) -> Iterator[Mapping[str, Any]]:
    """The curves of a table, as they were recorded."""
    for seed, recalls, losses in zip(table.seeds, table.recall, table.loss, strict=True):
        for at, (recall, loss) in enumerate(zip(recalls, losses, strict=True)):
            if not np.isnan(recall).any():
                yield {"configuration": at, "seed": seed, "recall": recall, "loss": loss}
