"""Throughput of the architectures, as a sweep measures it."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recallfront.benchmarks.platform.trials import ARCHITECTURES, bench_spec, trials_of
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.trial.engine import prepare_process
from recallfront.platform.trial.measure import measured
from recallfront.platform.trial.quiet import Device


@dataclass(frozen=True)
class Throughput:
    """The figures of one architecture, by name: tokens per second with their spread, and state bytes."""

    architecture: str
    figures: dict[str, Any]


def throughputs(home: Path, *, width: int = 256, num_layers: int = 6, context: int = 512) -> list[Throughput]:
    """Measure every architecture of the quickstart study at one size, on a GPU where there is one."""
    name = "cuda:0" if torch.cuda.is_available() else "cpu"
    prepare_process(threads=1, use_gpu=name != "cpu")
    protocol = {
        "deployment": {"width": width, "num_layers": num_layers, "num_heads": 4},
        "context_length": context,
        "max_repeats": 9,
    }
    found = []
    with closing(Device(name)) as device:
        for config in trials_of(bench_spec(*ARCHITECTURES, measurement=protocol)):
            figures = measured(
                config,
                device=device,
                folder=home / "measurements",
                code_version=code_version(),
                fresh=True,
            )
            found.append(Throughput(config.model.architecture, figures))
    return found
