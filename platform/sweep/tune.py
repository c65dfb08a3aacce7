"""Ray Tune around a conductor: suggestions, decisions and failures go through Tune's own hooks."""

import json
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from recallfront.platform.cluster.fit import Room
from recallfront.platform.errors import one_line
from recallfront.platform.home import private_folder
from recallfront.platform.home.transport import HomeAway
from recallfront.platform.home.vault import fetch_folder, is_remote
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Lost, Status
from recallfront.platform.sweep.cancelled import Farewell, Worker
from recallfront.platform.sweep.conductor import Conductor
from recallfront.platform.sweep.remains import trial_folders
from recallfront.platform.sweep.waiting import Waiting
from recallfront.platform.trial.checkpoints import remove_checkpoint, with_checkpoints
from recallfront.platform.trial.holding import is_held_by, let_go
from recallfront.platform.trial.leaving import LEFT
from recallfront.platform.trial.watchdog import leave_word
from recallfront.platform.trial.workplace import WEIGHTS, Workplace, workplace_json
from recallfront.platform.workers.actor import NODE, PROCESS, TrialActor
from recallfront.platform.workers.train_job import PLACEMENT_GROUP, release_placement_group
from recallfront.sweeps.trial import ResourceConfig

# for a home's store that is away to come back with a trial's weights: all trials wait with their next report meanwhile
_WEIGHTS_SECONDS = 90.0
_SECRET_VARIABLES = frozenset(
    {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
)


def run_trials(
    conductor: Conductor, place: Workplace, room: Room, *, actor: type[TrialActor] = TrialActor
) -> None:
    """Run every trial that the conductor has, as many at once as there is room for, on the connected Ray cluster."""
    spec = conductor.spec
    # Tune would put the driver's into the runtime environment of its actors, which Ray logs
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(_SECRET_VARIABLES)
    trainable = tune.with_resources(actor, trial_resources(spec.resources))
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_Suggestions(conductor, place, room),
            scheduler=_Decisions(conductor),
            num_samples=-1,  # until the conductor has no further trial
            reuse_actors=True,  # also those that only wait for workers of their own
            trial_dirname_creator=_trial_folder,
        ),
        run_config=tune.RunConfig(
            name=f"{spec.name}-{spec.key[:8]}",
            storage_path=str(private_folder(place.home / "tune")),
            callbacks=[_Ends(conductor, place, room)],
            failure_config=tune.FailureConfig(max_failures=spec.retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            verbose=0,
        ),
    )
    tuner.fit()


def trial_resources(resources: ResourceConfig) -> tune.PlacementGroupFactory:
    """What Tune reserves for a trial's actor; the workers of a larger trial are Ray Train's to reserve."""
    if resources.workers > 1:
        return tune.PlacementGroupFactory([{"memory": 1}])  # it only waits; an empty bundle is not allowed
    bundle = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    return tune.PlacementGroupFactory([bundle])


class _NeverRestored:
    """Tune writes its parts to disk for `Tuner.restore`, which is not how a sweep is resumed: the ledger is."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (_NeverRestored, ())


class _Suggestions(_NeverRestored, Searcher):
    """Asks the conductor; several objectives and the ledger are its affair, not Tune's."""

    def __init__(self, conductor: Conductor, place: Workplace, room: Room) -> None:
        super().__init__()
        self._conductor, self._place, self._room = conductor, place, room
        self._running: set[str] = set()

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        if len(self._running) >= self._room.trials():
            return None
        plan = self._conductor.next(trial_id)
        if plan is None:
            # what still runs may show that one which was ended is worth going on with
            return None if self._running and self._conductor.rules_end_trials else Searcher.FINISHED
        self._running.add(trial_id)
        return {"trial": plan.config.model_dump_json(), "place": json.dumps(workplace_json(self._place))}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self._running.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing, as with `_NeverRestored`."""

    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("a sweep is resumed by running its specification again, not by Tuner.restore")


class _Decisions(_NeverRestored, FIFOScheduler):
    """Stops a trial where the conductor says so."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._conductor = conductor

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        goes_on = self._conductor.goes_on(trial.trial_id, read_report(result))
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP


class _Ends(_NeverRestored, Callback):
    """Tells the conductor how trials end, and gives back what a killed one held."""

    def __init__(self, conductor: Conductor, place: Workplace, room: Room) -> None:
        self._conductor, self._place = conductor, place
        self._groups: dict[str, str] = {}
        self._workers: dict[str, Worker] = {}  # of trials that have something to save
        self._left: set[str] = set()  # ids of trials that were saved and go on elsewhere
        self._farewell = Farewell(conductor)
        self._waiting = Waiting(conductor, may_grow=room.grows)
        self._has_ranks = conductor.spec.resources.workers > 1
        self._ended: set[str] = set()  # keys of trials that have ended

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._farewell.step(self._workers)
        self._waiting.look(lambda: sum(map(self._waits, trials)))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        report = read_report(result)
        if LEFT in report.details:
            trial.max_failures += 1  # it goes on elsewhere: `retries` are for what is lost
            self._left.add(trial.trial_id)
            return
        if PLACEMENT_GROUP in report.details:
            self._groups[trial.trial_id] = report.details[PLACEMENT_GROUP]
        self._workers[trial.trial_id] = Worker(result[NODE], result[PROCESS])
        if report.weights is not None and is_remote(self._place.data):
            # they were saved on the trial's node, in a folder of its own, which even there need not be the driver's
            here = self._place.folder(self._conductor.config(trial.trial_id)) / WEIGHTS
            saved, report.weights = (result[NODE], report.weights), str(here)
            try:
                if saved != (ray.get_runtime_context().get_node_id(), str(here)):
                    report.notices += fetch_folder(here, patience=_WEIGHTS_SECONDS)
            except OSError as error:  # of the store, or a full disk here
                report.weights = None
                report.notices.append(f"its weights could not be fetched ({one_line(error)})")
            if not here.exists():
                report.weights = None
        self._conductor.placed(trial.trial_id, str(result.get("hostname", "")))
        self._conductor.report(trial.trial_id, report)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._release(trial)
        self._workers.pop(trial.trial_id, None)
        if trial.trial_id in self._left:
            self._left.remove(trial.trial_id)
            self._conductor.moved(trial.trial_id)
            return
        lost = _how_lost(trial)
        if lost.status is Status.LOST:
            self._conductor.retried(trial.trial_id)
            return
        # Tune tries again whatever it was; this attempt ends at once, and says how the one before ended
        word = Report(step=0, status=lost.status, failure=lost.failure, figures=lost.figures)
        with suppress(HomeAway):  # without the word the attempt is made again
            leave_word(self._place.folder(self._conductor.config(trial.trial_id)), word)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end(trial)  # its workers may still be leaving: its actor sees to them

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._release(trial)
        self._end(trial, _how_lost(trial))

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        for group in self._groups.values():
            release_placement_group(group)
        # again: workers that were still leaving may have saved; one that was promoted goes on in the sweep's next run
        record = self._conductor.record()
        over = [trial for trial in record.trials if self._conductor.is_over(trial.trial_key)]
        now = [trial for trial in over if trial.trial_key in self._ended]
        # of an earlier run, which was killed before its end
        pruned = [t for t in over if t.status is Status.PRUNED and t.trial_key not in self._ended]
        root = self._place.home / self._place.scratch
        left = with_checkpoints(root) if pruned else set()
        names = trial_folders(replace(record, trials=tuple(now)))
        names |= left & trial_folders(replace(record, trials=tuple(pruned)))
        for folder in (root / name for name in names):
            if is_held_by(folder, self._place.sweep):  # or it is another sweep's by now
                remove_checkpoint(folder)

    def _end(self, trial: Trial, lost: Lost | None = None) -> None:
        """Record the end; a trial that has ended for good needs no checkpoint, a pruned one until the sweep's end."""
        self._workers.pop(trial.trial_id, None)
        config = self._conductor.config(trial.trial_id)
        folder = self._place.folder(config)
        status = self._conductor.ended(trial.trial_id, lost=lost)
        if status.is_final:
            self._ended.add(config.key)
            if status is not Status.PRUNED:
                remove_checkpoint(folder)
            let_go(folder)

    def _waits(self, trial: Trial) -> bool:
        """Whether a trial has no process yet, or lacks those of its ranks."""
        no_ranks = self._has_ranks and trial.trial_id not in self._groups
        return trial.status == Trial.PENDING or (trial.status == Trial.RUNNING and no_ranks)

    def _release(self, trial: Trial) -> None:
        release_placement_group(self._groups.pop(trial.trial_id, None))


def read_report(result: dict[str, Any]) -> Report:
    """The report in a result of `TrialActor`."""
    return Report.from_json(json.loads(result["report"]))


def _how_lost(trial: Trial) -> Lost:
    """What ended a trial's last attempt, from the text that Tune keeps in the driver's own folder."""
    path = Path(trial.error_file) if trial.error_file else None
    if path is None or not path.exists():
        return Lost("its actor was lost")
    return read_lost(path.read_text().rpartition("Failure #")[2].partition("\n")[2])


def read_lost(text: str) -> Lost:
    """What the text of an exception of Ray's says of a trial that was lost; its last exception, on one line."""
    if killed := re.search(r"Memory on the node .*? was ([\d.]+ ?GB) used / ([\d.]+ ?GB) limit", text):
        own = re.search(r"actual memory used=([\d.]+) ?GB", text)
        figures = {"peak_memory_bytes": float(own[1]) * 2**30} if own else {}
        used, limit = killed.groups()
        sentence = f"its node ran out of memory ({used} of {limit} were used), and Ray ended it"
        return Lost(sentence, Status.OUT_OF_MEMORY, figures)
    lines = text.splitlines()
    raised = [i for i, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception|Exit)\b", line)]
    sentence = " ".join(" ".join(lines[raised[-1] if raised else 0 :]).split())[:1000]
    return Lost(sentence, Status.OUT_OF_MEMORY if "OutOfMemoryError" in sentence else Status.LOST)


def _trial_folder(trial: Trial) -> str:
    return str(trial.trial_id)
