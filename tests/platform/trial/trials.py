"""Trials that are run in this process, and what they report."""

from pathlib import Path
from typing import Any

import pytest

from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.results.reports import Report
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps import SweepSpec, TrialConfig
from recallfront.sweeps.data import prepare
from tests.platform.specs import tiny_spec

# DeepSpeed's ZeRO uses what torch deprecates.
MARKS = [
    pytest.mark.usefixtures("quick_collections"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]


def setting(home: Path, **changes: Any) -> tuple[TrialConfig, Workplace]:
    spec: SweepSpec = tiny_spec(**{"space": [{"architecture": "window", "window_size": 4}]} | changes)
    block, knobs = next(spec.grid())
    path, digest = prepare(spec.task, home / "data")
    return spec.trial(block, knobs, 0), Workplace(
        home=home, data=path, data_digest=digest, code_version=code_version()
    )


def run(home: Path, **changes: Any) -> list[Report]:
    return list(run_trial(*setting(home, **changes)))


def rows_of(reports: list[Report], metric: str) -> list[tuple[int, float]]:
    return [(step, value) for report in reports for name, value, step, _ in report.rows if name == metric]
