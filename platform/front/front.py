"""The front of a sweep: the configurations that no other dominates."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from recallfront.platform import pareto
from recallfront.platform.front.candidates import (
    Candidate,
    by_configuration,
    doubts_of,
    gather,
    oriented,
    read_objectives,
    split_complete,
)
from recallfront.platform.results.labels import varying_knobs
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.status import Status
from recallfront.sweeps.objectives import Objective


@dataclass(frozen=True)
class Front:
    """What a sweep has found so far: every candidate, and which of them make up the front."""

    sweep: str  # the study's name
    sweep_key: str
    run_id: str
    objectives: tuple[Objective, ...] = field(repr=False)
    # in the order of the second objective, worst first
    candidates: tuple[Candidate, ...] = field(default=(), repr=False)
    hypervolume: float = 0.0
    knee: Candidate | None = None  # None if the front has none: `knee_of`
    # runs that finished without a value for every objective
    left_out: tuple[str, ...] = field(default=(), repr=False)

    @property
    def members(self) -> tuple[Candidate, ...]:
        """The front alone, slowest (or, in general, worst in the second objective) first."""
        return tuple(candidate for candidate in self.candidates if candidate.on_front)

    @property
    def reference(self) -> tuple[float, ...]:
        return tuple(objective.reference for objective in self.objectives)

    @property
    def knob_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for candidate in self.candidates for name in candidate.knobs))

    def knee_of(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The knee of some candidates, None if they have none; only `useful` ones count."""
        useful = self.useful(candidates)
        index = pareto.knee(self.values(useful))
        return None if index is None else useful[index]

    def useful(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Those that beat the reference in every objective."""
        return [
            c
            for c in candidates
            if all(o.sign * (c.metrics[o.reading] - o.reference) > 0 for o in self.objectives)
        ]

    def values(self, candidates: Iterable[Candidate]) -> pareto.FloatArray:
        """The candidates' objectives, oriented to be maximised -> (candidates, objectives)."""
        return oriented([candidate.metrics for candidate in candidates], self.objectives)

    def to_json(self) -> str:
        """Everything, as an indented JSON document."""
        document: dict[str, Any] = {
            "sweep": self.sweep,
            "sweep_key": self.sweep_key,
            "run_id": self.run_id,
            "objectives": [objective.model_dump() for objective in self.objectives],
            "hypervolume": self.hypervolume,
            "knee": self.knee.run_ids[0] if self.knee else None,
            "candidates": [
                vars(candidate) | {"label": candidate.label, "n_seeds": candidate.n_seeds}
                for candidate in self.candidates
            ],
            "left_out": self.left_out,
        }
        return json.dumps(document, indent=2, allow_nan=False)


def hypervolume_of(record: SweepRecord) -> float:
    """The hypervolume of a sweep's front, which is quick where the rest of a front is not."""
    objectives = read_objectives(record.spec)
    complete, _ = split_complete(record.current().with_status(Status.FINISHED), objectives)
    metrics = [gather(trials).metrics for trials in by_configuration(complete).values()]
    return pareto.hypervolume(oriented(metrics, objectives), [o.sign * o.reference for o in objectives])


def build_front(record: SweepRecord) -> Front:
    """Gather a sweep's finished trials (never a stopped or failed one) and find the front among them."""
    record = record.current()
    objectives = read_objectives(record.spec)
    complete, left_out = split_complete(record.with_status(Status.FINISHED), objectives)
    empty = Front(record.name, record.sweep_key, record.run_id, objectives, left_out=left_out)
    if not complete:
        return empty
    varying = varying_knobs(record.trials)
    seeds = len(record.spec.get("seeds", [0]))
    candidates = [
        gather(trials, varying, doubts=doubts_of(trials, objectives, seeds))
        for trials in by_configuration(complete).values()
    ]
    order = [(o.sign, o.reading) for o in (*objectives[1:], objectives[0])]
    candidates.sort(key=lambda c: [sign * c.metrics[name] for sign, name in order])

    values = empty.values(candidates)
    spreads = np.array([[c.spreads.get(o.reading, 0.0) for o in objectives] for c in candidates])
    reference = [o.sign * o.reference for o in objectives]
    on_front, certain = pareto.non_dominated(values), pareto.surely_placed(values, spreads)
    contribution = pareto.contributions(values, reference)
    # nothing is sure of a configuration that misses a seed, pruned or not yet run
    seeds = len(record.spec.get("seeds", ()))
    certain = certain & np.array([candidate.n_seeds >= seeds for candidate in candidates])
    placed = tuple(
        replace(
            c,
            on_front=bool(on_front[i]),
            certain=bool(certain[i]) and not c.doubts,
            contribution=float(contribution[i]),
        )
        for i, c in enumerate(candidates)
    )
    volume = pareto.hypervolume(values, reference)
    return replace(empty, candidates=placed, hypervolume=volume, knee=empty.knee_of(placed))
