"""Deciding on a sweep's page: the choice that a constraint leads to with its reason, and what was picked before.

MLflow is imported where it is first used, so that reading this file costs little.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recallfront.dashboards.views import SweepView
from recallfront.platform.errors import UsageError, root_cause
from recallfront.platform.front.pick import Picked, pick
from recallfront.platform.front.registry import picks_of
from recallfront.platform.results.records import TAG
from recallfront.platform.tracking.client import fail_fast, open_client

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

KEY_DIGITS = 12  # of a trial's key, that name its configuration
_MOST_VERSIONS = 100
_MOST_LETTERS = 2000
_REQUEST_SECONDS = 60


@dataclass(frozen=True)
class Constraint:
    """What is asked of a choice, as `recallfront pick` takes it."""

    where: str = ""
    by: str = ""  # "max NAME", "min NAME", "knee"; empty: the knee, or the best where there is none
    anywhere: bool = False  # among all configurations, not only the front

    @classmethod
    def read(cls, given: Mapping[str, str]) -> "Constraint":
        """Off a request's parameters."""
        where, by = given.get("where", "").strip(), given.get("by", "").strip()
        if max(len(where), len(by)) > _MOST_LETTERS:
            raise UsageError(f"a condition has at most {_MOST_LETTERS} characters")
        return cls(where, by, given.get("anywhere", "") == "yes")

    def choose(self, view: SweepView) -> Picked:
        """The configuration that is chosen.

        Raises:
            UsageError: a condition cannot be read, or nothing matches.
        """
        kind, _, name = self.by.partition(" ")
        return pick(
            view.record,
            where=self.where or (),
            maximise=name if kind == "max" else None,
            minimise=name if kind == "min" else None,
            knee=kind == "knee",
            members_only=not self.anywhere,
        )

    def command(self, view: SweepView, tracking_uri: str) -> str:
        """The command that makes the same choice and registers it."""
        kind, _, name = self.by.partition(" ")
        parts = ["recallfront", "pick", view.sweep_name]
        parts += ["--where", self.where] if self.where else []
        parts += {"max": ["--max", name], "min": ["--min", name], "knee": ["--knee"]}.get(kind, [])
        parts += ["--any"] if self.anywhere else []
        return shlex.join([*parts, "--tracking-uri", tracking_uri])


def choice(view: SweepView, asked: Constraint, tracking_uri: str) -> dict[str, Any]:
    """The choice as the page shows it; raises UsageError as `Constraint.choose` does."""
    picked = asked.choose(view)
    return {
        "reason": picked.reason,
        "key": picked.candidate.trial_keys[0][:KEY_DIGITS],
        "command": asked.command(view, tracking_uri),
    }


def picked_before(tracking_uri: str, sweep_run_id: str) -> list[dict[str, Any]]:
    """The versions that were registered from a sweep, the newest first: of which model, by whom, when and why.

    Raises:
        UsageError: this is no run's id, or the registry cannot be read.
    """
    from mlflow.exceptions import MlflowException

    if not re.fullmatch("[0-9a-f]{32}", sweep_run_id):
        raise UsageError(f"{sweep_run_id[:40]!r} is not the id of a run")

    try:
        with fail_fast(_REQUEST_SECONDS):
            found = open_client(tracking_uri).search_model_versions(
                f"tags.`{TAG}sweep_run_id` = '{sweep_run_id}'",
                max_results=_MOST_VERSIONS,
                order_by=["creation_timestamp DESC"],
            )
    except (MlflowException, OSError) as error:
        raise UsageError(f"the registry cannot be read: {root_cause(error)}") from error
    picks = [pick for version in found for pick in _told(version)]
    return sorted(picks, key=lambda pick: -pick["at"])


def _told(version: "ModelVersion") -> list[dict[str, Any]]:
    """A line for each time that a version was picked."""
    what = {
        "name": version.name,
        "version": str(version.version),
        "aliases": ", ".join(version.aliases),
        "configuration": version.tags.get(TAG + "configuration", ""),
    }
    return [what | pick for pick in picks_of(version)]
