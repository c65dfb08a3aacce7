"""What a sweep has used of its budget, and when it is to end, as its run in the store tells them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from recallfront.platform.metrics import duration
from recallfront.platform.results.records import SweepRecord, expected_end
from recallfront.platform.results.status import Status

_NOT_COUNTED: Final = (Status.RUNNING, Status.INVALID, Status.DOMINATED)  # in a budget's trials


@dataclass(frozen=True)
class BudgetLine:
    """What a sweep has used of one part of its budget."""

    name: str
    share: float  # of 1
    told: str


def budget_of(record: SweepRecord) -> list[BudgetLine]:
    """What was used of each limit of a sweep's budget, in the runs so far."""
    limits = record.spec.get("budget")
    if not isinstance(limits, dict):
        return []
    trials = sum(trial.status not in _NOT_COUNTED for trial in record.trials)
    used = {
        "hours": _told(record.tags, "elapsed_seconds") / 3600,
        "device_hours": _told(record.tags, "device_seconds") / 3600,
        "trials": trials,
        "training_steps": _told(record.tags, "training_steps"),
    }
    return [_line(name, part, limits[name]) for name, part in used.items() if _is_limit(limits.get(name))]


def end_of(record: SweepRecord) -> float | None:
    """When a sweep is to end (seconds since the epoch): by the pace of its trials, or earlier by its budget.

    None if that is not known.
    """
    return expected_end(record.tags, shares=[use.share for use in budget_of(record)])


def _line(name: str, used: float, most: float) -> BudgetLine:
    hours = name.endswith("hours")
    told = [duration(3600 * value) if hours else f"{value:,.0f}" for value in (used, most)]
    return BudgetLine(
        name={"hours": "time"}.get(name, name.replace("_", " ")),
        share=min(used / most, 1.0),
        told=f"{told[0]} of {told[1]} used",
    )


def _is_limit(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _told(tags: Mapping[str, str], name: str) -> int:
    text = tags.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 20 else 0
