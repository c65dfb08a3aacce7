"""Recorded learning curves of a real space, kept as one compressed table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
_MISSING: Final = 2**16 - 1
_RECALL_UNIT, _LOSS_UNIT = 1e-4, 1e-3  # of the stored whole numbers; the second in nats
# What decode throughput is modelled with: a GPU that reads weights and states once a token.
_BANDWIDTH: Final = 3.35e12  # bytes a second: H100 SXM
_LAYER_SECONDS: Final = 1e-6  # of a layer's kernels when they have nothing to do
_NUMBER_BYTES: Final = 2  # bfloat16


@dataclass(frozen=True)
class RecordedCurves:
    """What was recorded of the C configurations of `space()`, in the order of its grid.

    `recall` and `loss` (nats) are (seeds, C, evaluations), of the validation split; the others are (C,).
    """

    recall: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    decode_tokens_per_second: npt.NDArray[np.float64]
    state_bytes: npt.NDArray[np.float64]
    seeds: tuple[int, ...]


@lru_cache(maxsize=1)
def space() -> SweepSpec:
    """The space that was recorded, as a grid."""
    return load_spec(str(_SPACE))


def pack(lines: Iterable[Mapping[str, Any]], path: Path = TABLE) -> int:
    """Write the curves of every seed of which all configurations were recorded; returns how many curves there are.

    Raises:
        ValueError: there is no such seed.
    """
    spec = space()
    configs = [spec.trial(block, knobs, 0) for block, knobs in spec.grid()]
    models = [config.deployment_model for config in configs]
    measurement = spec.measurement
    found: dict[int, dict[int, Mapping[str, Any]]] = {}
    for line in lines:
        found.setdefault(line["seed"], {})[line["configuration"]] = line
    seeds = sorted(seed for seed, own in found.items() if len(own) == len(configs))
    if not seeds:
        recorded = {seed: len(own) for seed, own in found.items()}
        raise ValueError(f"no seed has all {len(configs)} configurations: recorded are {recorded}")

    def stored(name: str, unit: float) -> npt.NDArray[np.uint16]:
        values = [[found[seed][at][name] for at in range(len(configs))] for seed in seeds]
        return np.minimum(np.round(np.array(values) / unit), _MISSING).astype(np.uint16)

    context, rows = measurement.context_length, measurement.rows
    np.savez_compressed(
        path,
        sweep_key=np.array(spec.key),
        seeds=np.array(seeds),
        recall=stored("recall", _RECALL_UNIT),
        loss=stored("loss", _LOSS_UNIT),
        decode_tokens_per_second=np.array([modelled_decode(model, context, rows) for model in models]),
        state_bytes=np.array([_NUMBER_BYTES * model.state_elements(context) for model in models]),
    )
    return len(seeds) * len(configs)


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
    with np.load(TABLE, allow_pickle=False) as table:
        if str(table["sweep_key"]) != space().key:
            raise ValueError(
                f"{TABLE.name}: was recorded of another space than {_SPACE.name}: record it again"
            )
        return RecordedCurves(
            recall=table["recall"] * _RECALL_UNIT,
            loss=table["loss"] * _LOSS_UNIT,
            decode_tokens_per_second=table["decode_tokens_per_second"],
            state_bytes=table["state_bytes"].astype(np.float64),
            seeds=tuple(table["seeds"].tolist()),
        )
