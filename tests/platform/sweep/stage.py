"""A conductor with everything that it writes to, without Ray."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recallfront.platform.lineage.environment import collect
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.search.planner import PlannedTrial, Planner
from recallfront.platform.search.samplers import make_search
from recallfront.platform.search.stopping import make_rules
from recallfront.platform.sweep.conductor import Conductor
from recallfront.platform.sweep.recorder import Recorder
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.platform.tracking.writer import TrackingWriter
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.data import prepare

FIGURES = {"validation_recall": 0.5, "recall": 0.4, "decode_tokens_per_second": 9.0}
WINDOWS: list[dict[str, Any]] = [{"architecture": "window", "window_size": [4, 8]}]


class Stage:
    """A conductor with everything it writes to."""

    def __init__(self, spec: SweepSpec, home: Path, writer: TrackingWriter, uri: str) -> None:
        self.spec, self.writer, self.uri = spec, writer, uri
        data = prepare(spec.task, home / "data")
        recorder = Recorder(writer, spec, lineage=collect(home), data=data)
        plain = spec.model_dump(mode="json")
        known = SweepRecord(run_id="", sweep_key=spec.key, name=spec.name, spec=plain, trials=())
        search = make_search(spec)
        rules = make_rules(spec, search, home / "reports.jsonl")
        self.conductor = Conductor(spec, Planner(spec, search, {}), recorder, known, rules)
        recorder.open_sweep()

    def start(self, name: str) -> PlannedTrial:
        plan = self.conductor.next(name)
        assert plan is not None
        return plan

    def end(self, name: str, status: Status = Status.FINISHED, **more: Any) -> None:
        self.conductor.report(name, Report(step=20, figures=FIGURES, status=status, **more))
        self.conductor.ended(name)

    def resumed(self, known: SweepRecord, before: Sequence[TrialRecord] | None = None) -> Conductor:
        """A conductor of the sweep's next run."""
        search = make_search(self.spec)
        planner, rules = Planner(self.spec, search, {}), make_rules(self.spec, search)
        return Conductor(
            self.spec,
            planner,
            self.conductor.recorder,
            known,
            rules,
            known.trials if before is None else before,
        )

    def stored(self) -> SweepRecord:
        assert self.writer.flush(30.0)
        return read_sweep(self.uri, self.spec.key)


Stages = Callable[..., Stage]


def statuses(record: SweepRecord) -> list[Status]:
    return [trial.status for trial in record.trials]
