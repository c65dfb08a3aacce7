"""Rows of a benchmark: one candidate at one shape, with what it reached of the machine."""

import hashlib
import importlib.metadata
import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from recallfront.benchmarks.kernels.cases import Case
from recallfront.benchmarks.kernels.timing import Ceilings, Timing


@dataclass(frozen=True)
class ResultRow:
    """One line of the results. rate: TB/s or TFLOP/s (`unit`); share: of the ceiling measured in the same run."""

    operator: str
    candidate: str
    shape: str
    dtype: str
    mode: str
    p20: float
    p50: float
    p80: float
    rate: float
    unit: str
    share: float
    copy_ceiling: float
    product_ceiling: float
    gpu: str
    torch: str
    triton: str
    cuda: str
    commit: str
    sources: str  # of the kernels, a digest

    @property
    def name(self) -> str:
        """What was timed, by whatever means."""
        return f"{self.operator} {self.mode} {self.shape} {self.dtype}"

    def line(self) -> str:
        """For people."""
        reached = f"{self.rate:8.3f} {self.unit:<7} {self.share:6.1%}"
        return f"{self.name:<72} {self.candidate:<28} {self.p50:9.4f} ms {reached}"


def rows_of(
    case: Case, timings: Mapping[str, Timing], ceilings: Ceilings, device: torch.device
) -> list[ResultRow]:
    """A row for each candidate of a case."""
    machine: dict[str, Any] = _machine(device)
    found = []
    for name, timing in timings.items():
        seconds = timing.p50 / 1e3
        by_bytes = case.moved > 0
        rate = (case.moved if by_bytes else case.operations) / seconds
        found.append(
            ResultRow(
                operator=case.operator,
                candidate=name,
                shape=case.shape,
                dtype=case.dtype,
                mode=case.mode,
                **asdict(timing),
                rate=rate / 1e12,
                unit="TB/s" if by_bytes else "TFLOP/s",
                share=rate / (ceilings.copy if by_bytes else ceilings.product),
                copy_ceiling=ceilings.copy / 1e12,
                product_ceiling=ceilings.product / 1e12,
                **machine,
            )
        )
    return found


def append(rows: list[ResultRow], path: Path) -> None:
    """Rows as JSON lines behind those of the file: what is measured is kept whatever comes after."""
    with path.open("a") as file:
        file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)


@lru_cache
def _machine(device: torch.device) -> dict[str, str]:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "none"
    return {
        "gpu": gpu,
        "torch": torch.__version__,
        "triton": triton,
        "cuda": str(torch.version.cuda),
        "commit": _commit(),
        "sources": _sources(),
    }


def _sources() -> str:
    """Which kernels these are, where no commit says it: a digest of their sources."""
    digest = hashlib.sha256()
    for path in sorted((Path(__file__).parents[2] / "kernels").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _commit() -> str:
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() or "unknown"
