"""What a sweep's driver writes to MLflow: the parent run, a child run a trial, and the front whenever it changes."""

import json
import socket
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recallfront.platform.front.claims import Judgement, as_json
from recallfront.platform.front.pictures.note import paragraph
from recallfront.platform.home import user_name
from recallfront.platform.lineage.environment import Lineage, TrialLineage, packages_text
from recallfront.platform.lineage.source import diff_text, left_out
from recallfront.platform.results.cancellation import DRIVER
from recallfront.platform.results.labels import label_of, varying_in
from recallfront.platform.results.records import EXHAUSTED, TAG, TrialRecord
from recallfront.platform.results.reports import Report, now_ms
from recallfront.platform.results.status import Status
from recallfront.platform.search.planner import Impossible, PlannedTrial
from recallfront.platform.search.proposals import Proposal
from recallfront.platform.sweep.log import LOG_FILE, SweepLog, driver_line
from recallfront.platform.sweep.rests import Rests
from recallfront.platform.tracking.digests import FIGURES, write_checked
from recallfront.platform.tracking.ledger import config_tags
from recallfront.platform.tracking.runs import trial_params, write_end, write_lineage
from recallfront.platform.tracking.writer import TrackingWriter
from recallfront.sweeps.base import canonical_json, text_digest
from recallfront.sweeps.spec import SweepSpec, spelt_out

CLAIMS_FILE = "claims.json"
WARM_START = "warm_start"  # tag: the key of the sweep that the search learns from
ON_FRONT = "on_front"  # tag of a trial: whether it was on the front when its sweep last ended
_CLAIM = "claim."  # begins the tag of each claim


def claim_tags(judgements: Sequence[Judgement]) -> dict[str, str]:
    """The verdict on each claim as a tag."""
    return {f"{TAG}{_CLAIM}{j.claim.id}": f"{j.verdict}: {j.number}" for j in judgements}


class Recorder:
    """Writes one sweep. Every method returns at once; the writer's thread does the talking."""

    def __init__(
        self,
        writer: TrackingWriter,
        spec: SweepSpec,
        *,
        lineage: Lineage,
        data: tuple[Path, str],
        stored: Collection[str] = (),
        left: Collection[str] = (),
        earlier: Iterable[TrialRecord] = (),
        log: SweepLog | None = None,
        warm_start: str = "",
        before: Mapping[str, str] | None = None,
        rests: Rests | None = None,
    ) -> None:
        """
        Args:
            stored: keys of the trials that the store has runs of already.
            left: keys of those that an earlier driver left running.
            earlier: what the store has of the sweep's trials, whatever code and data they ran with.
            log: where to write what happens.
            warm_start: the key of the sweep that the search learns from.
            before: tags that earlier runs of the sweep left.
            rests: when trials of earlier runs have ended.
        """
        self._log, self._warm_start, self._before = log, warm_start, before or {}
        self._rests = rests or Rests()
        self._stored, self._left = frozenset(stored), tuple(left)
        runs = {key: trial for trial in earlier if (key := trial.tags.get("run_key"))}
        self._run_ids = {key: trial.run_id for key, trial in runs.items()}
        self._on_front = {key for key, trial in runs.items() if trial.tags.get(ON_FRONT) == "true"}
        self._writer, self._spec, self._lineage = writer, spec, lineage
        self._data_path, self._data_digest = data
        self._varying = varying_in(spec)
        self.plugin_files = lineage.plugin_files
        self._diff, self._packages = diff_text(data[0].parents[1]), packages_text()
        self.left_out = left_out(self._diff)  # of the diff, as it may hold secrets
        self._lineage_due: dict[str, PlannedTrial] = {}  # until the trial's process has said where it runs
        self.driver = uuid.uuid4().hex[:12]  # names this run of the sweep
        self._noticed: dict[str, list[str]] = {}  # what was told of a trial already
        self.sweep_key = spec.key
        self.sweep_run = f"sweep:{spec.key}"
        self.version = {"code_version": lineage.code_version, "data_digest": self._data_digest}
        self._owner = {"mlflow.user": user} if (user := user_name()) else {}

    def open_sweep(self) -> None:
        """Open, or on a resumed sweep reopen, the parent run; what was left running is lost until it begins again."""
        spec = self._spec
        by = f"{user_name() or 'somebody'}@{socket.gethostname()}"
        self._note(f"sweep {spec.name} ({spec.key[:8]}) is run by {by}, {driver_line(self.driver)}")
        self._writer.open_run(
            self.sweep_run,
            experiment=spec.name,
            name=f"sweep {spec.key[:8]}",
            tags={
                f"{TAG}kind": "sweep",
                f"{TAG}sweep_key": spec.key,
                f"{TAG}status": "running",
                f"{TAG}{DRIVER}": self.driver,
                f"{TAG}trials_planned": str(spec.number_of_trials),
                f"{TAG}{EXHAUSTED}": str(False),
                **({f"{TAG}{WARM_START}": self._warm_start} if self._warm_start else {}),
                **self._owner,
            },
            params={
                "task": spec.task.name,
                "search": spec.search.method,
                "architectures": ", ".join(dict.fromkeys(block.architecture for block in spec.blocks)),
                "objectives": ", ".join(objective.metric for objective in spec.objectives),
                "hypervolume_reference": ", ".join(f"{o.metric}={o.reference:g}" for o in spec.objectives),
                "seeds": ", ".join(map(str, spec.seeds)),
            },
            # that of a sweep that continues shows its front
            description=None if self._stored else paragraph(spec.description),
        )
        spelt = canonical_json(spelt_out(spec.model_dump(mode="json")))
        write_checked(self._writer, self.sweep_run, spelt, "spec.json")
        write_lineage(
            self._writer, self.sweep_run, self._lineage.model_dump_json(indent=1), self._diff, self._packages
        )
        for trial_key in self._left:
            self._is_lost(trial_key)

    def open_trial(self, plan: PlannedTrial) -> None:
        """Open, or after a loss reopen, the run of a trial."""
        config, key = plan.config, self.run_key(plan.config.key)
        self._open_child(
            key,
            trial_key=config.key,
            name=label_of(config.model_dump(mode="json"), self._varying),
            params=trial_params(config),
            proposal=plan.proposal,
            status=Status.RUNNING,
            more_tags=config_tags(config.model_dump(mode="json")) | self._rests.goes_on(config.key),
        )
        write_checked(self._writer, key, canonical_json(config), "config.json")
        self._writer.dataset(
            key,
            name=config.task.name,
            source=str(self._data_path),
            digest=self._data_digest[:36],
            context="training",
        )
        self._lineage_due[config.key] = plan
        self._note(f"begins: {label_of(config.model_dump(mode='json'), self._varying)}", config.key)

    def impossible(self, trial: Impossible) -> str:
        """Record a trial that can never run; returns the key that stands for its settings."""
        trial_key = text_digest(json.dumps(trial.settings, sort_keys=True, default=str))
        key = self.run_key(trial_key)
        self._open_child(
            key,
            trial_key=trial_key,
            name=label_of(trial.settings, self._varying),
            params=trial.settings,
            proposal=trial.proposal,
            status=Status.INVALID,
            more_tags={f"{TAG}failure": trial.reason, **config_tags(trial.settings)},
        )
        self._writer.close_run(key, "FAILED")
        self._note(f"invalid: {trial.reason}", trial_key)
        return trial_key

    def report(self, trial_key: str, report: Report) -> None:
        """Record a trial's progress, and how it ended where it has."""
        key = self.run_key(trial_key)
        if self._log is not None:
            self._log.report(trial_key, report)
        told = report.environment is not None or report.status is not Status.RUNNING
        if told and (plan := self._lineage_due.pop(trial_key, None)) is not None:
            lineage = self._trial_lineage(plan, report.environment)
            write_lineage(self._writer, key, lineage.model_dump_json(indent=1), self._diff, self._packages)
        if report.notices and self._noticed.get(trial_key) != report.notices:
            self._noticed[trial_key] = list(report.notices)
            self._writer.tags(key, {f"{TAG}notice": "; ".join(report.notices)})
        if report.status is Status.RUNNING:
            self._writer.metrics(key, report.rows)
            self._writer.tags(key, {f"{TAG}steps": str(report.step)})
        else:
            self._rests.ended(trial_key)
            write_end(self._writer, key, report)

    def placed(self, trial_key: str, node: str) -> None:
        """Record the name of the machine that a trial runs on."""
        self._writer.tags(self.run_key(trial_key), {f"{TAG}node": node})

    def retried(self, trial_key: str, attempts: int) -> None:
        """Record that a trial was lost and runs for the `attempts`-th time."""
        self._writer.tags(self.run_key(trial_key), {f"{TAG}attempts": str(attempts)})
        self._note(f"was lost: attempt {attempts} begins", trial_key)

    def ran(self, trial_key: str, seconds: float) -> None:
        """Record how long a trial has run, in all its attempts: between two of them the sweep may have rested."""
        self._writer.tags(self.run_key(trial_key), {f"{TAG}run_seconds": f"{seconds:.1f}"})

    def promoted(self, trial_key: str) -> None:
        """Record that a trial which was ended early is to go on after all, in this run of the sweep or the next."""
        self._is_lost(trial_key)
        self._note("is promoted: it continues from its checkpoint", trial_key)

    def _is_lost(self, trial_key: str) -> None:
        if self.knows(trial_key):
            self._writer.tags(self.run_key(trial_key), {f"{TAG}status": Status.LOST.value})

    def moved(self, trial_key: str, moves: int) -> None:
        """Record that a trial was told to leave for the `moves`-th time, and goes on in another process."""
        self._writer.tags(self.run_key(trial_key), {f"{TAG}moves": str(moves)})
        self._note("has left its processes, and continues in others", trial_key)

    def waits(self, told: str) -> None:
        """Record what trials of the sweep wait for; empty if none waits."""
        self.sweep_tags({f"{TAG}waiting": told})
        if told:
            self._note(told)

    def has_opened(self) -> bool:
        """Whether the sweep's own run was opened in this home, now or by an earlier run of the sweep."""
        return self._writer.knows(self.sweep_run)

    def knows(self, trial_key: str) -> bool:
        """Whether the run of a trial was opened in this home, and can be written to."""
        return self._writer.knows(self.run_key(trial_key))

    def measured_again(
        self, trial: TrialRecord, figures: Mapping[str, float], details: Mapping[str, Any], *, step: int
    ) -> None:
        """Record the figures of a second measurement, which `trial` has, at a step above that of the ones before."""
        key, at = self.run_key(trial.trial_key), now_ms()
        rows = [(name, value, step, at) for name, value in figures.items()]
        # in one event: figures without their digest look damaged
        self._writer.metrics(key, rows, final=True, tags={TAG + FIGURES: trial.tags[FIGURES]})
        self._writer.text(key, json.dumps(details, indent=1), "measurement.json")

    def give_up(self) -> None:
        """Write nothing any more: another driver has the sweep."""
        self._writer.give_up()  # before the log, whose disk may be full
        self._note("another driver has the sweep: this one ends")

    def backlog(self) -> int:
        """Events that wait for the tracking server."""
        return self._writer.backlog()

    def run_id(self, trial_key: str) -> str:
        """The MLflow run of a trial, or "" as long as the server has not made it."""
        return self._writer.run_id(self.run_key(trial_key)) or ""

    def sweep_run_id(self) -> str:
        """The MLflow run of the sweep, or "" as long as the server has not made it."""
        return self._writer.run_id(self.sweep_run) or ""

    def sweep_metrics(self, rows: list[tuple[str, float, int]]) -> None:
        """Write (metric, value, step) rows to the parent run."""
        at = now_ms()
        self._writer.metrics(self.sweep_run, [(name, value, step, at) for name, value, step in rows])

    def sweep_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the parent run, by their full names."""
        self._writer.tags(self.sweep_run, tags)

    def proposed(self, number: int) -> None:
        """How many configurations the search has proposed: those answered at no cost leave no other trace."""
        self.sweep_tags({f"{TAG}proposed": json.dumps({"number": number, **self.version})})

    def spent(self, seconds: float, steps: int) -> None:
        """How long the sweep has taken, and how many steps it has trained, in all its runs."""
        self.sweep_tags({f"{TAG}elapsed_seconds": f"{seconds:.0f}", f"{TAG}training_steps": str(steps)})

    def claims(self, judgements: Sequence[Judgement]) -> None:
        """Write the verdicts on the sweep's claims: a tag each, and a table that MLflow's pages show.

        What is no claim any more loses its verdict.
        """
        gone = {f"{TAG}{name}": "" for name in self._before if name.startswith(_CLAIM)}
        if not judgements and not gone:
            return
        table = [{"path": CLAIMS_FILE, "type": "table"}]
        self.sweep_tags(gone | claim_tags(judgements) | {"mlflow.loggedArtifacts": json.dumps(table)})
        self._writer.text(self.sweep_run, as_json(judgements), CLAIMS_FILE)

    def send_log(self, *, last: bool = False) -> None:
        """Let MLflow have the sweep's log as it is, now and then, and in the end."""
        kept = None if self._log is None else self._log.due(last=last)
        if kept is not None:
            self._writer.text(self.sweep_run, kept.decode("utf-8", "replace"), LOG_FILE)

    def _note(self, text: str, trial_key: str | None = None) -> None:
        if self._log is not None:
            self._log.write(text, trial_key)

    def front_files(self, folder: Path) -> None:
        """Log the folder that describes the front, in place of what was logged before."""
        self._writer.artifact(self.sweep_run, folder, ephemeral=True)

    def on_front(self, members: Collection[str]) -> None:
        """Tag the runs of trials whose keys are `members`, and all that were tagged so before: one request a change."""
        now = {self.run_key(trial_key) for trial_key in members}
        for changed, told in ((self._on_front - now, "false"), (now - self._on_front, "true")):
            for key in filter(None, map(self._known_as, changed)):
                self._writer.tags(key, {TAG + ON_FRONT: told})
        self._on_front = now

    def _known_as(self, run_key: str) -> str | None:
        """What the spool knows a trial's run by: the one of an earlier driver may not have been opened in this home.

        None for a run that is not told from others, as somebody has removed its tag: it is only left untagged.
        """
        if self._writer.knows(run_key):
            return run_key
        return self._writer.adopt(self._run_ids[run_key]) if run_key in self._run_ids else None

    def close_sweep(self, *, finished: bool, exhausted: bool) -> None:
        """End the parent run; `finished` unless not one trial of it has, `exhausted` unless more are to be run."""
        self._note("the sweep has ended")
        self.send_log(last=True)
        status = "finished" if finished else "error"
        self._writer.tags(self.sweep_run, {f"{TAG}status": status, f"{TAG}{EXHAUSTED}": str(exhausted)})
        self._writer.close_run(self.sweep_run, "FINISHED" if finished else "FAILED")

    def interrupt_sweep(self, reason: str) -> None:
        """End the parent run for now, because of `reason`: the sweep can be gone on with."""
        self._note(f"the sweep was {reason}")
        self.send_log(last=True)
        self._writer.tags(self.sweep_run, {f"{TAG}status": "interrupted"})
        self._writer.close_run(self.sweep_run, "KILLED")

    def _trial_lineage(self, plan: PlannedTrial, environment: dict[str, Any] | None) -> TrialLineage:
        """A trial's lineage; its environment is that of the process it runs in, the driver's where that is unknown."""
        return TrialLineage(
            environment=Lineage.model_validate(environment) if environment else self._lineage,
            trial_key=plan.config.key,
            config=plan.config.model_dump(mode="json"),
            data_digest=self._data_digest,
            seeds={
                "trial": plan.config.seed,
                "data": plan.config.task.seed,
                "search": self._spec.search.seed,
            },
            sweep_key=self._spec.key,
            sampler_trial=plan.proposal.number,
        )

    def run_key(self, trial_key: str) -> str:
        """Names a trial's run: results of other code or data are other runs."""
        parts = (self._spec.key[:16], trial_key, self._lineage.code_version, self._data_digest[:8])
        return f"trial:{':'.join(parts)}"

    def _open_child(
        self,
        key: str,
        *,
        trial_key: str,
        name: str,
        params: Mapping[str, Any],
        proposal: Proposal,
        status: Status,
        more_tags: Mapping[str, str],
    ) -> None:
        tags = {
            "kind": "trial",
            "trial_key": trial_key,
            "sweep_key": self._spec.key,
            **self.version,
            "proposal": json.dumps(proposal.to_json()),
            "status": status.value,
        }
        if trial_key in self._stored or self._writer.knows(key):
            tags["failure"] = ""  # of what ended it before
        self._writer.open_run(
            key,
            experiment=self._spec.name,
            name=name,
            parent_key=self.sweep_run,
            tags={f"{TAG}{tag}": value for tag, value in tags.items()} | self._owner | dict(more_tags),
            params=dict(params),
            is_new=trial_key not in self._stored,
        )
