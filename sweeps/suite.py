"""A suite: one sweep a task, with all else in common; a task may have several settings."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from recallfront.models.configs.explain import shown
from recallfront.sweeps.base import SpecError, canonical_json, text_digest
from recallfront.sweeps.claims import Claim
from recallfront.sweeps.spec import SweepSpec

TASKS = "tasks"  # the key that makes a suite of a specification
_TASK_NAME = "[a-zA-Z0-9_-]+"
_OWN = (TASKS, "expected_minutes", "claims")  # of the suite, not of each of its sweeps


@dataclass(frozen=True)
class Part:
    """One sweep of a suite."""

    task: str  # as the suite calls it; several parts may be settings of one
    spec: SweepSpec


@dataclass(frozen=True)
class Suite:
    """Sweeps that differ in their task alone. Running the same suite again resumes those that are not finished.

    A specification becomes a suite by `tasks` in the place of `task`: a name for each task, with a list of its
    settings. A setting is a part of a specification, which has `task` and may have more, such as `training: {steps:
    400}`: what it says comes before what the suite says. Each is an ordinary sweep, called after the suite, the task
    and the setting's number. The suite's `claims` are about all of them: their metrics are called `TASK.METRIC`, such
    as `text.perplexity`, or `copying+recall.perplexity` for the mean over several tasks. A setting may have claims of
    its own sweep.
    """

    name: str
    parts: tuple[Part, ...]
    description: str = ""
    question: str = ""
    expected_minutes: float | None = None  # of all sweeps together
    claims: tuple[Claim, ...] = ()

    @cached_property
    def key(self) -> str:
        """The suite's identity: its name and those of its sweeps."""
        return text_digest(
            canonical_json({"name": self.name, "sweeps": [part.spec.key for part in self.parts]})
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks, in their order."""
        return tuple(dict.fromkeys(part.task for part in self.parts))

    @property
    def means(self) -> tuple[str, ...]:
        """The tasks, joined by +, over which claims name means of a metric, such as `copying+recall`."""
        measures = [measure for claim in self.claims for measure in claim.parsed.values()]
        names = [
            name
            for one in measures
            for name in (one.metric, one.over, *(clause.name for clause in one.clauses))
            if name is not None
        ]
        return tuple(dict.fromkeys(own for name in names if "+" in (own := name.partition(".")[0])))

    @property
    def number_of_trials(self) -> int:
        """How many trials its sweeps plan."""
        return sum(part.spec.number_of_trials for part in self.parts)

    @property
    def number_of_claims(self) -> int:
        """How many claims are asked, of the suite and of each of its sweeps."""
        return len(self.claims) + sum(len(part.spec.claims) for part in self.parts)


def raw_parts(raw: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The specification of each sweep of a suite, as written, with the name of its task.

    Raises:
        SpecError: `tasks` is not what a suite needs; names the key, the value and what is allowed.
    """
    tasks, name = raw[TASKS], raw.get("name")
    if "task" in raw:
        raise SpecError("has both task and tasks: give tasks for a suite of sweeps, or task for one sweep")
    if not isinstance(tasks, Mapping) or not tasks:
        raise SpecError(
            f"tasks={shown(tasks)}: must be a mapping of names to lists of settings, such as "
            "{recall: [{task: {name: mqar, ...}}]}"
        )
    rest = {key: value for key, value in raw.items() if key not in _OWN}
    found = []
    for task, settings in tasks.items():
        where = f"tasks.{task}"
        if not re.fullmatch(_TASK_NAME, str(task)):
            raise SpecError(f"{where}: a task is called by letters, digits, _ and -")
        if not isinstance(settings, list) or not settings:
            raise SpecError(f"{where}={shown(settings)}: must be a list of settings, at least one")
        for number, setting in enumerate(settings, start=1):
            if not isinstance(setting, Mapping) or "task" not in setting:
                raise SpecError(f"{where}[{number - 1}]={shown(setting)}: must be a mapping that has task")
            if "name" in setting:
                raise SpecError(
                    f"{where}[{number - 1}].name={shown(setting['name'])}: sweeps of a suite are named by it"
                )
            called = f"{name}-{task}-{number}" if len(settings) > 1 else f"{name}-{task}"
            found.append((str(task), _over(rest, setting) | {"name": called}))
    return found


def check_claims(claims: Iterable[Claim], tasks: Collection[str]) -> None:
    """Raise SpecError unless each claim's metrics are called after a task, and none rests on one sweep's objective."""
    for claim in claims:
        for name, measure in claim.parsed.items():
            where = f"claims.{claim.id}.measures.{name}={shown(claim.measures[name])}"
            if measure.statistic == "best":
                raise SpecError(
                    f"{where}: best is by a sweep's objective: write highest or lowest in a suite"
                )
            for metric in filter(None, (measure.metric, measure.over)):
                own, dot, _ = metric.partition(".")
                if not dot or not set(own.split("+")) <= set(tasks):
                    raise SpecError(
                        f"{where}: {metric!r} is of no task: write TASK.METRIC, or TASK+TASK.METRIC for the mean over "
                        f"tasks, a task being one of {', '.join(tasks)}"
                    )


def _over(rest: Mapping[str, Any], setting: Mapping[str, Any]) -> dict[str, Any]:
    """What the suite says with what a setting says in its place; of a section key by key."""
    found = dict(rest)
    for key, value in setting.items():
        both = isinstance(value, Mapping) and isinstance(rest.get(key), Mapping)
        found[key] = {**rest[key], **value} if both else value
    return found
