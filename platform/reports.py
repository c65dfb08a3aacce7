"""What a trial says while it runs, and where it runs."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recallfront.platform.records import Status
from recallfront.sweeps.trial import TrialConfig

Row = tuple[str, float, int, int]  # metric, value, step, milliseconds since the epoch


@dataclass(frozen=True)
class Workplace:
    """Where one process runs a trial: its folders, its device and its place among the trial's ranks."""

    home: Path  # of all outputs; shared by the nodes of a cluster
    data: Path
    data_digest: str
    code_version: str
    device: str = "cpu"
    rank: int = 0
    local_rank: int = 0
    world: int = 1
    remeasure: bool = False  # throughput anew, whatever the cache holds
    scratch: str = "trials"  # folder of the home that trials keep checkpoints, weights and results in

    def folder(self, config: TrialConfig) -> Path:
        """The trial's own folder: results belong to (key, code version, data digest)."""
        return self.home / self.scratch / f"{config.key[:16]}-{self.code_version}-{self.data_digest[:8]}"

    @property
    def measurements(self) -> Path:
        return self.home / "measurements"


@dataclass
class Report:
    """Progress since the report before; the last one of a trial has a status other than running."""

    step: int
    rows: list[Row] = field(default_factory=list)  # new rows, in order
    figures: dict[str, float] = field(default_factory=dict)  # everything known by now, by metric name
    seconds: dict[str, float] = field(
        default_factory=dict
    )  # train, evaluate, measure, wait, since the trial's start
    status: Status = Status.RUNNING
    failure: str | None = None  # what went wrong, in one sentence
    traceback: str | None = None
    details: dict[str, Any] = field(default_factory=dict)  # of the measurement
    environment: dict[str, Any] | None = None  # the process's `Lineage`, in a trial's first report
    weights: str | None = None  # folder with recallfront.json and model.safetensors

    def to_json(self) -> dict[str, Any]:
        """Plain values, for another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Report":
        """The report that `to_json` gave."""
        rows = [(str(k), float(v), int(s), int(t)) for k, v, s, t in raw["rows"]]
        return cls(**{**raw, "status": Status(raw["status"]), "rows": rows})


def now_ms() -> int:
    """Milliseconds since the epoch, as MLflow stamps metrics."""
    return int(time.time() * 1000)
