"""Sweeps in a notebook: a front that shows itself, and a sweep's results as pandas frames.

pandas and Plotly are imported where they are first used, so that the command starts fast.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recallfront.platform.errors import UsageError
from recallfront.platform.front.front import Front, build_front
from recallfront.platform.front.pictures.appearance import summary
from recallfront.platform.front.pictures.figures import CONFIG, front_figure
from recallfront.platform.front.tables import PLACE_MARKS
from recallfront.platform.home import home_folder
from recallfront.platform.metrics import columns_of
from recallfront.platform.results.labels import architecture_of, trial_label, varying_knobs
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.tracking.curves import read_curves
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.platform.tracking.records import read_record
from recallfront.platform.tracking.store import find_store

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class ShownFront(Front):
    """A front that a notebook shows as its interactive picture with a table below."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self._repr_html_(), "text/plain": f"front of {self.sweep}: {summary(self)}"}

    def _repr_html_(self) -> str:
        """The picture needs nothing else: Plotly's script, 5 MB, is part of it."""
        plot = front_figure(self).to_html(full_html=False, include_plotlyjs=True, config=CONFIG)
        return f"{plot}<p>{escape(summary(self))}</p>{self._table()}"

    def _table(self) -> str:
        columns = columns_of(self.objectives)
        heads = "".join(
            f"<th>{escape(name)}</th>" for name in ("", "configuration", *columns.values(), "seeds")
        )
        rows = []
        for candidate in sorted(self.candidates, key=lambda c: not c.on_front):
            mark = PLACE_MARKS[candidate.on_front, candidate.certain]
            name = candidate.label + (" (knee)" if candidate is self.knee else "")
            cells = [mark, name, *map(candidate.describe, columns), str(candidate.n_seeds)]
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


@dataclass(frozen=True)
class Sweep:
    """A sweep's results as pandas frames; a notebook shows it as its front."""

    record: SweepRecord  # of the newest code and data alone
    tracking_uri: str

    @cached_property
    def front(self) -> ShownFront:
        """What the sweep has found so far."""
        return _shown(build_front(self.record))

    def trials(self) -> "DataFrame":
        """One row a trial, in the order they started: status, settings, figures, and how it ended."""
        from pandas import DataFrame

        varying = varying_knobs(self.record.trials)
        rows = []
        for trial in self.record.trials:
            knobs = trial.knobs
            row: dict[str, Any] = {"run_id": trial.run_id, "status": trial.status.value}
            row |= {"architecture": architecture_of(trial), "seed": trial.config.get("seed")}
            row |= {name: knobs[name] for name in varying if name in knobs} | trial.metrics
            row["seconds"] = None if trial.end_time is None else trial.seconds
            rows.append(row | {"failure": trial.failure})
        return DataFrame(rows)

    def configurations(self) -> "DataFrame":
        """One row a finished configuration, as on the front: its place, knobs, means and spreads over seeds."""
        from pandas import DataFrame

        rows = []
        for c in self.front.candidates:
            row: dict[str, Any] = {"configuration": c.label, "on_front": c.on_front, "certain": c.certain}
            row |= {
                "knee": c is self.front.knee,
                "contribution": c.contribution,
                "architecture": c.architecture,
            }
            row |= c.knobs | c.metrics | {f"{name}_spread": value for name, value in c.spreads.items()}
            rows.append(row | {"n_seeds": c.n_seeds, "run_id": c.run_ids[0]})
        return DataFrame(rows)

    def curves(self, metric: str = "loss") -> "DataFrame":
        """A metric step by step of every trial: one row a step, with its trial's run, label and seed.

        Raises:
            UsageError: no trial has reported the metric.
        """
        from pandas import DataFrame

        varying = varying_knobs(self.record.trials)
        found = read_curves(self.tracking_uri, [t.run_id for t in self.record.trials if t.run_id], [metric])
        rows = [
            {
                "run_id": trial.run_id,
                "trial": trial_label(trial, varying),
                "seed": trial.config.get("seed"),
                "step": step,
                metric: value,
            }
            for trial in self.record.trials
            for step, value in found.get(trial.run_id, {}).get(metric, [])
        ]
        if not rows:
            known = sorted({name for trial in self.record.trials for name in trial.metrics})
            raise UsageError(f"no trial of {self.record.name} has {metric!r}; known are {', '.join(known)}")
        return DataFrame(rows)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return self.front._repr_mimebundle_()


def sweep(name: str, *, home: Path | str | None = None, tracking_uri: str | None = None) -> Sweep:
    """A sweep to look at in a notebook.

    Args:
        name: its study, the id of its run, or the first digits of its key.
        home: the folder of all outputs; only read if `tracking_uri` is not given.
        tracking_uri: the MLflow store that holds the sweep.

    Raises:
        UsageError: there is no such sweep, or the store does not answer.
    """
    uri = find_store(tracking_uri, home_folder(home))
    return Sweep(read_sweep(uri, name).current(), uri)


def front(
    sweep: str | SweepRecord, *, home: Path | str | None = None, tracking_uri: str | None = None
) -> ShownFront:
    """The front of a sweep; a notebook shows its picture and its table.

    Args:
        sweep: its name, the id of its run, or its record.
        home: the folder of all outputs; only read if `tracking_uri` is not given.
        tracking_uri: the MLflow store that holds the sweep.

    Raises:
        UsageError: there is no such sweep, or the store does not answer.
    """
    return _shown(build_front(read_record(sweep, home=home, tracking_uri=tracking_uri)))


def _shown(found: Front) -> ShownFront:
    return ShownFront(**{field.name: getattr(found, field.name) for field in fields(Front)})
