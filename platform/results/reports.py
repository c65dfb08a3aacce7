"""What a trial says while it runs, and where it runs."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from recallfront.platform.results.status import Status

MetricRow = tuple[str, float, int, int]  # metric, value, step, milliseconds since the epoch


@dataclass
class Report:
    """Progress since the report before; the last one of a trial has a status other than running."""

    step: int
    rows: list[MetricRow] = field(default_factory=list)  # new rows, in order
    figures: dict[str, float] = field(default_factory=dict)  # everything known by now, by metric name
    # train, evaluate, measure, wait, since the trial's start
    seconds: dict[str, float] = field(default_factory=dict)
    status: Status = Status.RUNNING
    failure: str | None = None  # what went wrong, in one sentence
    traceback: str | None = None
    details: dict[str, Any] = field(default_factory=dict)  # of the measurement
    environment: dict[str, Any] | None = None  # the process's `Lineage`, in a trial's first report
    # sentences for the user, on damage that was found and mended
    notices: list[str] = field(default_factory=list)
    # what the process has printed since the report before
    output: list[str] = field(default_factory=list)
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
