"""What a person explores of a sweep: its configurations as rows, what they are drawn, filtered and sorted by, and the
panel of one of them. Plain values, bounded in number and length: no markup.
"""

import json
import math
import shlex
from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from recallfront.dashboards.computed import Computed, results_of
from recallfront.dashboards.views import SweepView
from recallfront.platform.errors import UsageError
from recallfront.platform.front.candidates import Candidate, by_configuration, gather
from recallfront.platform.front.conditions import knobs_with_none, parse_conditions, validation_twin
from recallfront.platform.front.history import hypervolume_history
from recallfront.platform.front.next_steps import configuration_commands
from recallfront.platform.front.pictures.appearance import MARKS, mark_of
from recallfront.platform.front.pictures.figures import history_figure
from recallfront.platform.front.tables import PLACE_MARKS
from recallfront.platform.metrics import (
    compared,
    details_of,
    metric,
    name_for_condition,
    show,
    title_of,
    without_repeats,
)
from recallfront.platform.results.labels import show_knob
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.curves import Curve
from recallfront.sweeps.conditions import is_number

MOST_ROWS = 5000
MOST_COLUMNS = 80
MOST_TEXT = 300  # characters of a name or a value
MOST_EXPLORED = 400  # of one curve
_KEY = 12  # digits of a trial key that name a configuration
_STATUSES = ("running", "finished", "failed", "invalid", "pruned", "unfinished")  # the first that a trial has
_LOG_FROM = 5.0  # an axis whose ends differ by more than this factor is logarithmic, recall's excepted


_histories = Computed[dict[str, Any]](64)


@dataclass(frozen=True)
class ConfigurationRow:
    """One configuration, finished or not."""

    key: str  # first digits of the least of its trials' keys
    status: str  # finished if one of its seeds has, else what its trials count as
    candidate: Candidate
    trials: tuple[TrialRecord, ...]  # one a seed


@dataclass(frozen=True)
class Explorer:
    """All configurations of a sweep, as its page shows them."""

    view: SweepView
    moment: float = 0.0  # when it was read, in seconds since the epoch
    state: Hashable = None  # of the store that it was read from, if that is known

    def at(self, moment: float) -> "Explorer":
        """The same at a later moment, with all that has been made of it: nothing has changed."""
        again = copy(self)
        object.__setattr__(again, "moment", moment)
        return again

    @cached_property
    def rows(self) -> list[ConfigurationRow]:
        """The front first, each part slowest first; then what has not finished."""
        record = self.view.record
        candidates = {c.run_ids[0]: c for c in self.view.front.candidates}
        done, others = list[ConfigurationRow](), list[ConfigurationRow]()
        for trials in by_configuration(record.trials).values():
            key = min(trial.trial_key for trial in trials)[:_KEY]
            found = next((candidates[t.run_id] for t in trials if t.run_id in candidates), None)
            # what is on the picture has finished, though a seed of it may run on: its doubts tell that
            status = "finished" if found else self._status(trials)
            row = ConfigurationRow(key, status, found or gather(trials, self.view.varying), tuple(trials))
            (done if found else others).append(row)
        place = {c.run_ids[0]: number for number, c in enumerate(self.view.front.candidates)}
        done.sort(key=lambda row: (not row.candidate.on_front, place[row.candidate.run_ids[0]]))
        return (done + others)[:MOST_ROWS]

    def _status(self, trials: Sequence[TrialRecord]) -> str:
        left = not self.view.is_running  # by a driver that is gone
        known = {
            "unfinished" if left and (t.status.counts_as == "running") else t.status.counts_as for t in trials
        }
        return next((status for status in _STATUSES if status in known), "unfinished")

    def row(self, key: str) -> ConfigurationRow:
        """The configuration that a trial's key is of.

        Raises:
            UsageError: there is none.
        """
        for row in self.rows:
            if len(key) >= _KEY and any(trial.trial_key.startswith(key) for trial in row.trials):
                return row
        raise UsageError(f"the sweep has no configuration {key[:40]!r}")

    def matching(self, where: str) -> list[str]:
        """The keys of the configurations that a condition of `pick --where` holds for; all of them for an empty one.

        Raises:
            UsageError: the condition cannot be read, or names what no configuration has.
        """
        if not where.strip():
            return [row.key for row in self.rows]
        conditions = parse_conditions(where, [row.candidate for row in self.rows], self._with_none)
        return [row.key for row in self.rows if all(c.holds(row.candidate) for c in conditions)]

    @cached_property
    def _with_none(self) -> frozenset[str]:
        return knobs_with_none(self.view.record)

    @cached_property
    def history(self) -> dict[str, Any]:
        """How the hypervolume grew, as Plotly draws it."""
        record = self.view.record
        return _histories.of(
            results_of(record), lambda: json.loads(history_figure(hypervolume_history(record)).to_json())
        )

    def to_json(self) -> dict[str, Any]:
        """Everything that the page draws, filters and sorts: columns of values, one a row; made once."""
        return self._columns

    @cached_property
    def _columns(self) -> dict[str, Any]:
        candidates = [row.candidate for row in self.rows]
        front, columns = self.view.front, self.view.columns
        volume = front.hypervolume
        return {
            "total": len(by_configuration(self.view.record.trials)),
            "objectives": [
                {"name": o.reading, "sign": o.sign, "reference": o.reference} for o in front.objectives
            ],
            "rows": [
                {
                    "key": row.key,
                    "keys": [
                        trial.trial_key[:_KEY] for trial in row.trials if trial.trial_key[:_KEY] != row.key
                    ],
                    "label": _bounded(c.label),
                    "architecture": _bounded(c.architecture),
                    "status": row.status,
                    "runs": self.view.is_running and any(t.status is Status.RUNNING for t in row.trials),
                    "front": c.on_front,
                    "knee": c is front.knee,
                    "mark": PLACE_MARKS[c.on_front, c.certain] if row.status == "finished" else "",
                    "share": c.contribution / volume if volume else 0.0,
                    "seeds": c.n_seeds,
                    "doubts": ", ".join(c.doubts),
                    "shown": [c.describe(name) for name in columns],
                }
                for row, c in zip(self.rows, candidates, strict=True)
            ],
            "columns": list(columns),
            "metrics": self._metrics(candidates),
            "knobs": self._knobs(candidates),
            "marks": {
                name: {"colour": mark_of(name).colour, "symbol": mark_of(name).symbol}
                for name in sorted({c.architecture for c in candidates}, key=_order)
            },
        }

    def _metrics(self, candidates: list[Candidate]) -> list[dict[str, Any]]:
        """What can be an axis, a colour or a size: the objectives, then every other figure with a value."""
        first = [objective.reading for objective in self.view.front.objectives]
        others = without_repeats(sorted({n for c in candidates for n in c.metrics}))
        names = dict.fromkeys([*first, *self.view.columns, *others])
        found = []
        for name in list(names)[:MOST_COLUMNS]:
            condition = name_for_condition(name)
            known, values = metric(name), [_plain(c.metrics.get(name)) for c in candidates]
            own = [value for value in values if value is not None]
            if not own:
                continue
            spreads = [_plain(c.spreads.get(name)) for c in candidates]
            found.append(
                {
                    "name": _bounded(name),
                    "condition": _bounded(condition),
                    "isOfTest": validation_twin(condition, names) is not None,
                    "title": _bounded(known.title),
                    "axis": _bounded(known.axis or known.title),
                    "isShare": known.most == 1.0,
                    "isLog": known.log_axis and min(own) > 0 and max(own) / min(own) > _LOG_FROM,
                    "values": values,
                    "spreads": spreads if any(s is not None for s in spreads) else None,
                }
            )
        return found

    def _knobs(self, candidates: list[Candidate]) -> list[dict[str, Any]]:
        """What configurations are filtered by: a numeric knob by its range, any other by its value."""
        names = dict.fromkeys(name for c in candidates for name in c.knobs)
        found = []
        for name in list(names)[:MOST_COLUMNS]:
            own = [c.knobs[name] for c in candidates if c.knobs.get(name) is not None]
            numeric = bool(own) and all(map(is_number, own))
            values: list[Any] = [c.knobs.get(name) for c in candidates]
            found.append(
                {
                    "name": _bounded(name),
                    "isNumber": numeric,
                    "values": [
                        v if v is None else _plain(v) if numeric else _bounded(str(v)) for v in values
                    ],
                }
            )
        return found

    def panel(
        self,
        row: ConfigurationRow,
        curves: dict[str, dict[str, Curve]],
        tracking_uri: str,
        logs: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """What the panel of one configuration shows, with the end of each failed trial's log by its run."""
        candidate = row.candidate
        told = details_of(self.view.front.objectives)
        figures = [
            (title, candidate.describe(name)) for name, title in told.items() if name in candidate.metrics
        ]
        spent = sorted(name for name in candidate.metrics if name.endswith("_seconds"))
        return {
            "row": row,
            "logs": logs or {},
            "knobs": [(name, show_knob(value)) for name, value in candidate.knobs.items()],
            "figures": figures,
            "spent": [(title_of(name), show(name, candidate.metrics[name])) for name in spent],
            "commands": self._commands(row, tracking_uri),
            "curves": [
                {
                    "title": title_of(name),
                    "isShare": metric(name).most == 1.0,
                    "seeds": [
                        {"seed": str(trial.config.get("seed", ""))[:20]}
                        | _thinned(curves[trial.run_id][name])
                        for trial in row.trials
                        if curves.get(trial.run_id, {}).get(name)
                    ],
                }
                for name in compared("curve")
            ],
        }

    def _commands(self, row: ConfigurationRow, tracking_uri: str) -> list[tuple[str, str]]:
        return configuration_commands(
            row.candidate,
            self.view.sweep_name,
            self.view.specification_file,
            only=self._only(row) if row.candidate in self.view.front.candidates else "",
            is_finished=row.status == "finished",
            options=f" --tracking-uri {shlex.quote(tracking_uri)}",
            plugins=self.view.plugin_files,
        )

    def _only(self, row: ConfigurationRow) -> str:
        """A condition that holds for this configuration alone; empty if none can say so."""
        clauses = [_clause("architecture", row.candidate.architecture)]
        clauses += [_clause(name, value) for name, value in row.candidate.knobs.items()]
        where = " and ".join(clauses)
        try:
            conditions = parse_conditions(where, self.view.front.candidates, self._with_none)
        except UsageError:
            return ""
        held = [c for c in self.view.front.candidates if all(one.holds(c) for one in conditions)]
        return where if held == [row.candidate] else ""


def _clause(name: str, value: Any) -> str:
    if value is None or isinstance(value, bool) or is_number(value):
        return f"{name} == {'none' if value is None else str(value).lower()}"
    text = str(value)
    return f"{name} == {text}" if text.isidentifier() else f"{name} == '{text}'"


def _thinned(curve: Curve) -> dict[str, list[Any]]:
    """A curve of at most `MOST_EXPLORED`, its end among them; what is not finite is a gap."""
    step = math.ceil(len(curve) / MOST_EXPLORED)
    kept = curve[:: max(step, 1)]
    if curve and kept[-1] != curve[-1]:
        kept = [*kept, curve[-1]]
    return {"steps": [at for at, _ in kept], "values": [_plain(value) for _, value in kept]}


def _plain(value: float | None) -> float | int | None:
    """Six digits are enough for a fraction in a picture, and JSON knows neither infinity nor NaN."""
    if value is None or not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(f"{value:.6g}")


def _bounded(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


def _order(architecture: str) -> tuple[int, str]:
    known = list(MARKS)
    return (known.index(architecture) if architecture in known else len(known), architecture)
