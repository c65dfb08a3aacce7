"""Measurements that tests make: of a tiny configuration, in a folder of the test."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from recallfront.platform.trial import figures, reference
from recallfront.platform.trial.measure import measured
from recallfront.platform.trial.quiet import Device
from recallfront.sweeps import TrialConfig
from tests.platform.specs import tiny_spec


def be_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no other process and look for full speed in one round: figures do not matter."""
    torch.set_num_threads(1)
    monkeypatch.setattr(figures, "_wait_for_idle_neighbours", lambda threads, patience: 0.0)
    monkeypatch.setattr(reference, "_SCALE_SECONDS", 0.0)


def config_of(architecture: str = "window", **changes: Any) -> TrialConfig:
    spec = tiny_spec(**{"space": [{"architecture": architecture}]} | changes)
    return spec.trial(spec.blocks[0], {k: d[0] for k, d in spec.blocks[0].domains.items()}, spec.seeds[0])  # type: ignore[index]


def figures_of(config: TrialConfig, folder: Path, **more: Any) -> dict[str, Any]:
    with closing(Device("cpu", folder / "locks")) as device:
        return measured(config, device=device, folder=folder / "measurements", code_version="c", **more)


def results(folder: Path) -> list[Path]:
    return [p for p in (folder / "measurements").glob("*.json") if not p.name.startswith("reference")]
