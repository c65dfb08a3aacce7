"""The ledger: what a sweep has found so far, read back from its MLflow runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recallfront.platform.records import SweepRecord, TrialRecord

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


@dataclass(frozen=True)
class SweepSummary:
    """One line about a sweep: its parent run without the trials."""

    run_id: str
    sweep_key: str
    name: str  # the study
    status: str  # RUNNING, FINISHED, FAILED or KILLED: MLflow's own
    start_time: float  # seconds since the epoch
    end_time: float | None
    tags: dict[str, str]  # without the prefix `recallfront.`


def config_tags(config: Mapping[str, Any]) -> dict[str, str]:
    """The tag that lets the ledger read a trial's config without an artifact; empty if it is too long."""
    raise NotImplementedError


def list_sweeps(tracking_uri: str) -> list[SweepSummary]:
    """Every sweep of the store, the newest first."""
    raise NotImplementedError


def read_sweep(tracking_uri: str, sweep: str) -> SweepRecord:
    """The sweep named by a study (its newest run), a parent run id, or >= 6 digits of a sweep key."""
    raise NotImplementedError


def read_trials(client: "MlflowClient", parent_run_id: str) -> tuple[TrialRecord, ...]:
    """Every trial under one parent run, in the order they were started."""
    raise NotImplementedError


def find_run(tracking_uri: str, run: str) -> TrialRecord:
    """The trial named by a run id, or >= 6 first digits of a run id or trial key."""
    raise NotImplementedError
