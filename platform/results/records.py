"""What a sweep has found so far, as plain records: read from MLflow (the ledger), used by front, pick and rerun."""

import json
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from recallfront.platform.results.knobs import flat_knobs
from recallfront.platform.results.status import COUNTED, ENDED, Status
from recallfront.sweeps.space import Scalar

TAG = "recallfront."  # prefix of every tag that we set on an MLflow run
RESTS = "rests"  # tag of a trial: from when to when, in seconds since the epoch
EXHAUSTED = "exhausted"  # tag: whether nothing is left to run, for which the search was asked to its end


@dataclass(frozen=True)
class TrialRecord:
    """One trial as its MLflow run tells it."""

    run_id: str
    trial_key: str
    status: Status
    config: dict[str, Any] = field(repr=False)  # the resolved TrialConfig as JSON
    metrics: dict[str, float] = field(repr=False)  # last value of each
    tags: dict[str, str] = field(default_factory=dict, repr=False)  # without the prefix `recallfront.`
    failure: str | None = None
    start_time: float = 0.0  # seconds since the epoch
    end_time: float | None = None

    @property
    def version(self) -> tuple[str | None, str | None]:
        """Of code and data: trials of another version are not comparable."""
        return self.tags.get("code_version"), self.tags.get("data_digest")

    @property
    def steps(self) -> int:
        """Steps that it was trained for; of one that is older than the tag, those it was to have if it finished."""
        told = _number(self.tags.get("steps", ""))
        if told or self.status is not Status.FINISHED:
            return told
        asked = self.config.get("training", {}).get("steps", 0)
        return asked if isinstance(asked, int) else 0

    @property
    def seconds(self) -> float:
        """How long it has run, in all its attempts; of one that is older than the tag, from its start to its end."""
        with suppress(ValueError):
            if 0 <= (told := float(self.tags.get("run_seconds", ""))) < math.inf:
                return told
        return (self.end_time or self.start_time) - self.start_time

    @property
    def rests(self) -> list[tuple[float, float]]:
        """From when to when it has rested, between an end that was early and the moment it went on."""
        found, last = list[tuple[float, float]](), self.start_time
        for text in self.tags.get(RESTS, "").split():
            with suppress(ValueError):
                begun, ended = map(float, text.split("-"))
                if last <= begun < ended <= (self.end_time or math.inf) and ended < math.inf:
                    found.append((begun, ended))
                    last = ended
        return found

    @cached_property
    def configuration(self) -> str:
        """What trials that differ in their seed alone have in common."""
        return json.dumps({k: v for k, v in self.config.items() if k != "seed"}, sort_keys=True)

    @cached_property
    def knobs(self) -> dict[str, Scalar]:
        """Its settings on one level: see `flat_knobs`."""
        return flat_knobs(self.config)


@dataclass(frozen=True)
class SweepRecord:
    """One sweep as its MLflow parent run and that run's children tell it."""

    run_id: str
    sweep_key: str
    name: str  # the study: the experiment's name
    spec: dict[str, Any] = field(repr=False)  # the SweepSpec as JSON
    trials: tuple[TrialRecord, ...] = field(repr=False)
    tags: dict[str, str] = field(default_factory=dict, repr=False)

    def current(self) -> "SweepRecord":
        """The same with the trials of the newest code and data alone: results belong to these, and do not mix."""
        newest = max(self.trials, key=lambda trial: trial.start_time, default=None)
        if newest is None:
            return self
        kept = tuple(trial for trial in self.trials if trial.version == newest.version)
        return replace(self, trials=kept)

    def with_status(self, *statuses: Status) -> tuple[TrialRecord, ...]:
        return tuple(trial for trial in self.trials if trial.status in statuses)


def count(record: SweepRecord, *, driverless: bool = False) -> dict[str, int]:
    """Trials by what they count as: finished, pruned, running, invalid, failed, and unfinished.

    The sweep's next run resumes unfinished ones: those that were lost, and those that a driver that is gone
    (`driverless`) left running.
    """
    found = dict.fromkeys(COUNTED, 0)
    for trial in record.trials:
        left = driverless and trial.status is Status.RUNNING
        found["unfinished" if left else trial.status.counts_as] += 1
    return found


def counts_of(tags: Mapping[str, str], *, driverless: bool = False) -> dict[str, int]:
    """The same as the tags of a sweep tell it."""
    found = {name: _number(tags.get(f"trials_{name}", "")) for name in COUNTED}
    if driverless:
        found |= {"running": 0, "unfinished": found["unfinished"] + found["running"]}
    return found


def planned(tags: Mapping[str, str]) -> int:
    """How many trials a sweep is to have, as its tags tell it; 0 if they do not."""
    return _number(tags.get("trials_planned", ""))


def _number(text: str) -> int:
    # a number of some thousand digits, which Python refuses to read, is none of ours
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def say_counts(counts: Mapping[str, int], total: int | None = None) -> str:
    """The same in words, of a planned number; all but the finished ones are listed if there are any."""
    of = f" of {total}" if total else ""
    told = [f"{number} {name}" for name, number in counts.items() if number and name != "finished"]
    return ", ".join([f"{counts['finished']}{of} finished", *told])


def ended(counts: Mapping[str, int]) -> int:
    """How many trials have ended for good."""
    return sum(counts[name] for name in ENDED)


def expected_end(
    tags: Mapping[str, str], now: float | None = None, shares: Iterable[float] = ()
) -> float | None:
    """When a sweep is to end (seconds since the epoch), if its other trials take as long as those that have ended.

    It ends earlier where its budget does: `shares` are the parts of each limit that it has used.
    None before a trial has ended, or where its tags do not tell.
    """
    done, total, spent = ended(counts_of(tags)), planned(tags), tags.get("elapsed_seconds", "")
    if not 0 < done < total or not spent.isdecimal() or len(spent) > 10:
        return None
    left = [(total - done) / done, *(1 / share - 1 for share in shares if share > 0)]
    return (time.time() if now is None else now) + int(spent) * min(left)
