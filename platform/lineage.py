"""Lineage: all that is needed to run a trial again, and to say whether a second run is comparable."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict


class Lineage(BaseModel):
    """Code, packages, machine and environment that a trial ran with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recallfront: str  # version
    code_version: str  # 16 hex digits over the sources that a trial runs
    git_commit: str | None = None  # None: not run from a checkout (a wheel)
    git_dirty: bool = False
    python: str
    platform: str
    libraries: dict[str, str | None]
    hardware: dict[str, Any]
    environment: dict[str, str]
    packages_digest: str


class TrialLineage(BaseModel):
    """One trial's lineage: the artifact `lineage/lineage.json` of its run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: Lineage
    trial_key: str
    config: dict[str, Any]
    data_digest: str | None = None
    seeds: dict[str, int] = {}
    sweep_key: str | None = None
    sampler_trial: int | None = None


def code_version() -> str:
    """16 hex digits over the path and content of the sources that a trial runs."""
    raise NotImplementedError


def collect(home: Path | None = None) -> Lineage:
    """This process's lineage."""
    raise NotImplementedError


def diff_text() -> str | None:
    """The uncommitted changes of the checkout, untracked sources included (artifact `lineage/diff.patch`)."""
    raise NotImplementedError


def packages_text() -> str:
    """`name==version` lines of everything installed (artifact `lineage/packages.txt`)."""
    raise NotImplementedError


def compare(a: Lineage, b: Lineage) -> tuple[str, ...]:
    """What differs, in words, worst first."""
    raise NotImplementedError


def read_lineage(tracking_uri: str, run_id: str) -> TrialLineage:
    """The lineage stored with a run. Raises UsageError."""
    raise NotImplementedError
