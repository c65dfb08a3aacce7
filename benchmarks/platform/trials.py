"""Small real trials for the benchmarks: the field's synthetic models, on the CPU.

Ray is imported once its environment is set.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recallfront.platform.cluster.connection import set_environment
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.trial.workplace import Workplace, workplace_json
from recallfront.sweeps.data import prepare
from recallfront.sweeps.spec import SweepSpec
from recallfront.sweeps.trial import TrialConfig

ARCHITECTURES: tuple[dict[str, Any], ...] = (
    {"architecture": "attention", "pattern": "CA"},
    {"architecture": "window", "pattern": "CW", "window_size": 8},
    {"architecture": "hawk", "pattern": "CR"},
    {"architecture": "griffin", "pattern": "CRW", "window_size": 8},
    {"architecture": "based", "pattern": "CLW", "feature_dim": 4, "window_size": 8},
    {"architecture": "grouped", "pattern": "CG", "group_size": 8},
)


def bench_spec(
    *blocks: dict[str, Any], width: int = 16, length: int = 16, steps: int = 20, **changes: Any
) -> SweepSpec:
    """A sweep over MQAR with these blocks of its space (by default one window model); `changes` replace keys."""
    segment = {"input_seq_len": length, "num_kv_pairs": 2}
    spec: dict[str, Any] = {
        "name": "bench",
        "task": {
            "name": "mqar",
            "vocab_size": 64,
            "train": [segment | {"examples": 2048}],
            "validation": [segment | {"examples": 64}],
            "test": [segment | {"examples": 64}],
            "random_non_queries": False,
        },
        "model": {"width": width, "num_heads": 2},
        "space": list(blocks) or [ARCHITECTURES[1]],
        "training": {"steps": steps, "batch_size": 32, "evaluate_every": steps},
        "measurement": {
            "batch_size": 2,
            "context_length": 32,
            "train_length": length,
            "decode_tokens": 8,
            "repeats": 3,
            "max_repeats": 3,
        },
    }
    return SweepSpec.model_validate(spec | changes)


def trials_of(spec: SweepSpec) -> Iterator[TrialConfig]:
    """Every trial of a grid."""
    for block, knobs in spec.grid():
        for seed in spec.seeds:
            yield spec.trial(block, knobs, seed)


def workplace(spec: SweepSpec, home: Path, scratch: str = "trials") -> Workplace:
    """Where the trials of a sweep run, its data built; trials of another scratch folder know nothing of these."""
    data, digest = prepare(spec.task, home / "data")
    return Workplace(home=home, data=data, data_digest=digest, code_version=code_version(), scratch=scratch)


@contextmanager
def small_ray() -> Iterator[None]:
    """The Ray that is connected, or one of two CPUs on this machine for as long as needed."""
    set_environment()
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        _start_ray()
    except Exception:  # Ray gives its processes 30 s, which a busy machine may not be done in
        ray.shutdown()
        _start_ray()
    try:
        yield
    finally:
        ray.shutdown()


def _start_ray() -> None:
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def actor_config(config: TrialConfig, place: Workplace) -> dict[str, str]:
    """The configuration of a `TrialActor`."""
    return {"trial": config.model_dump_json(), "place": json.dumps(workplace_json(place))}


def reports_of(actor: Any) -> Iterator[Report]:
    """The reports of a `TrialActor` until its trial has finished.

    Raises:
        RuntimeError: the trial ends otherwise.
    """
    import ray

    while True:
        report = Report.from_json(json.loads(ray.get(actor.train.remote())["report"]))
        yield report
        if report.status is Status.FINISHED:
            return
        if report.status is not Status.RUNNING:
            raise RuntimeError(f"a benchmark's trial ended as {report.status}: {report.failure}")
