"""What the writer's thread does with the spool's events: calls of MLflow's client, each safe to repeat.

MLflow is imported where it is first used, so that the command starts fast.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from recallfront.platform.results.records import TAG
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.experiments import experiment_of, show_runs
from recallfront.platform.tracking.refusals import NotYet, Refusal, Rejected, refusal_of
from recallfront.platform.tracking.spool import Event, Spool
from recallfront.sweeps.base import text_digest

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, Run, RunTag

    from recallfront.platform.tracking.artifacts import GuardedClient

logger = logging.getLogger(__name__)

RUN_KEY_TAG: Final = TAG + "run_key"
PARENT_TAG: Final = "mlflow.parentRunId"
MAX_BATCH: Final = 1000  # metrics, params and tags of one `log_batch` together
MAX_OF_KIND: Final = {"metrics": 1000, "params": 100, "tags": 100}
DIGESTS: Final = "digests"  # tags of texts that were sent
FINAL: Final = "final"  # metrics that count whatever was told before
_SENT_AS: Final = {DIGESTS: "tags", FINAL: "metrics"}
_BATCHED: Final = (*MAX_OF_KIND, *_SENT_AS)
MAX_DIGEST: Final = 36


class Sender:
    """Sends the spool's events; a step raises what MLflow raised, and can then be tried again as it is."""

    def __init__(self, tracking_uri: str, spool: Spool) -> None:
        self._uri = tracking_uri
        self._spool = spool
        self._opened_client: GuardedClient | None = None
        self._experiments: dict[str, str] = {}  # ids by name
        self._places: dict[str, str] = {}  # ids of experiments by the key of a sweep's run
        self._steps: dict[str, dict[str, int]] = {}
        self._before = spool.last_event()  # of another writer, which may have sent more than it has noted
        self._tried: set[int] = set()  # openings whose answer is not known
        self._sending: Event | None = None
        self._warned = False

    @property
    def _client(self) -> "GuardedClient":
        if self._opened_client is None:
            self._opened_client = open_client(self._uri)
        return self._opened_client

    def step(self, run_key: str, last_try: bool = False) -> bool:
        """Send what is next of the run: one batch of metrics, params and tags, or one event of another kind.

        Returns whether the run has more to send now. With `last_try` a doubtful answer counts as a refusal.
        """
        events = self._spool.peek(run_key, MAX_BATCH)
        chosen = _next_of(events)
        self._sending = chosen[0]
        run_id = self._spool.run_id(run_key)
        if chosen[0].kind == "open":
            self._open(chosen[0])
            # of a run that goes on, what follows is collected
            return any(event.kind == "close" for event in events)
        if run_id is None:
            raise Rejected("its run could not be created")
        if chosen[0].kind in _BATCHED:
            self._send_batch(run_id, chosen, last_try)
            return len(chosen) < len(events) or sum(event.items for event in chosen) > MAX_BATCH // 2
        self._send_other(run_id, chosen[0])
        return True

    def reject(self, run_key: str, reason: str) -> None:
        """Give the event up that was sent last: into the spool's table `rejected`, off the queue."""
        event = self._sending or self._spool.peek(run_key, 1)[0]
        self._put_aside(run_key, event.kind, event.payload, reason)
        self._spool.finish([event])

    def _put_aside(self, run_key: str, kind: str, payload: Any, reason: str) -> None:
        level = logging.DEBUG if self._warned else logging.WARNING
        self._warned = True
        logger.log(
            level,
            "MLflow refused %s of run %s (%s); kept in %s, later refusals are kept there silently",
            kind,
            run_key,
            reason.strip().splitlines()[0][:300],
            self._spool.path,
        )
        self._spool.reject(run_key, kind, payload, reason)

    # --- runs ---

    def _open(self, event: Event) -> None:
        wanted = event.payload
        parent_id = self._parent_id(wanted["parent_key"])
        if not self._reopen(event.run_key, parent_id):
            experiment = wanted["experiment"]
            remembered = experiment in self._experiments or wanted["parent_key"] in self._places
            try:
                experiment_id = self._place_of(event.run_key, parent_id, wanted)
                self._find_or_create(event, experiment_id, parent_id)
            except Exception as error:
                if refusal_of(error) is not Refusal.PERMANENT or not (
                    remembered or self._is_deleted(experiment)
                ):
                    raise
                self._experiments.pop(experiment, None)
                self._places.pop(wanted["parent_key"], None)
                raise NotYet(f"the experiment {experiment} was deleted meanwhile") from error
        self._spool.finish([event])

    def _is_deleted(self, experiment: str) -> bool:
        """Whether an experiment that was there a moment ago is deleted: another process gives it another name."""
        known = self._experiments.get(experiment)
        return known is not None and self._client.get_experiment(known).lifecycle_stage != "active"

    def _find_or_create(self, event: Event, experiment_id: str, parent_id: str | None) -> None:
        run_key, wanted = event.run_key, event.payload
        self._steps.pop(run_key, None)
        # A creation whose answer was lost, or whose spool was: the run may be there already.
        doubtful = event.id <= self._before or event.id in self._tried or not wanted.get("is_new", False)
        run = self._find(experiment_id, run_key, anywhere=parent_id is None) if doubtful else None
        self._tried.add(event.id)
        if run is not None:
            self._client.update_run(run.info.run_id, status="RUNNING")
            self._adopt(run, parent_id)
            self._spool.set_run(run_key, run.info.run_id, _last_steps(run))
        else:
            tags = {RUN_KEY_TAG: run_key} | ({PARENT_TAG: parent_id} if parent_id else {})
            created = self._client.create_run(
                experiment_id, start_time=wanted["start_time_ms"], tags=tags, run_name=wanted["name"]
            )
            self._client.remember(created)
            self._spool.set_run(run_key, created.info.run_id)
        self._tried.discard(event.id)

    def _parent_id(self, parent_key: str | None) -> str | None:
        if parent_key is None:
            return None
        parent_id = self._spool.run_id(parent_key)
        if parent_id is None:
            raise NotYet(f"the parent run {parent_key} is not created yet")
        return parent_id

    def _reopen(self, run_key: str, parent_id: str | None) -> bool:
        """Set a run that we made before RUNNING again; False if there is none (any more)."""
        run_id = self._spool.run_id(run_key)
        if run_id is None:
            return False
        run = self._get(run_id)
        if run is None or not _is_active(run):
            self._spool.set_run(run_key, None)
            self._experiments.clear()
            if run is not None:  # its children are still there
                self._places[run_key] = str(run.info.experiment_id)
            return False
        self._client.update_run(run_id, status="RUNNING")
        self._adopt(run, parent_id)
        if parent_id is None:  # a sweep's run: its experiment may be older than the tag
            show_runs(self._client, str(run.info.experiment_id))
        return True

    def _adopt(self, run: "Run", parent_id: str | None) -> None:
        """Put a run under its present parent: the one that it was made under may have been deleted."""
        if parent_id is not None and run.data.tags.get(PARENT_TAG) != parent_id:
            self._client.set_tag(run.info.run_id, PARENT_TAG, parent_id)

    def _get(self, run_id: str) -> "Run | None":
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if refusal_of(error) is Refusal.PERMANENT:
                return None
            raise

    def _is_alive(self, run_id: str) -> bool:
        run = self._get(run_id)
        return run is not None and _is_active(run)

    def _place_of(self, run_key: str, parent_id: str | None, wanted: dict[str, Any]) -> str:
        """The id of the experiment that a new run goes to.

        It is its parent's, or that of a deleted run which it replaces: experiments may be renamed. Otherwise the name
        decides. An experiment that is deleted while its sweep runs comes back.
        """
        key = wanted["parent_key"] or run_key
        place = self._places.get(key)
        if parent_id is not None:
            return place or self._places.setdefault(key, self._place_of_parent(parent_id))
        if place is not None and self._client.get_experiment(place).lifecycle_stage == "active":
            return place
        self._places.pop(key, None)
        return self._experiment_id(wanted["experiment"])

    def _place_of_parent(self, parent_id: str) -> str:
        experiment = self._client.get_experiment(self._client.get_run(parent_id).info.experiment_id)
        if experiment.lifecycle_stage != "active":
            logger.warning("the deleted MLflow experiment %r is restored, as its sweep runs", experiment.name)
            with _in_a_race(experiment.name):
                self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _find(self, experiment_id: str, run_key: str, *, anywhere: bool) -> "Run | None":
        places = [experiment_id]
        if anywhere:  # the experiment may have been renamed
            places = [found.experiment_id for found in self._client.search_experiments()]
        found = self._client.search_runs(places, f"tags.`{RUN_KEY_TAG}` = '{run_key}'", max_results=1)
        return found[0] if found else None

    def _experiment_id(self, name: str) -> str:
        if name not in self._experiments:
            with _in_a_race(name):
                self._experiments[name] = experiment_of(self._client, self._uri, name)
        return self._experiments[name]

    # --- metrics, params, tags ---

    def _send_batch(self, run_id: str, events: Sequence[Event], last_try: bool) -> None:
        run_key = events[0].run_key
        if run_key not in self._steps:
            self._steps[run_key] = self._spool.last_steps(run_key)
        items, steps = _entities(events, self._steps[run_key])
        if items:
            self._send_items(run_key, run_id, items, last_try)
        self._spool.finish(events, steps)
        self._steps[run_key].update(steps)

    def _send_items(
        self, run_key: str, run_id: str, items: "Sequence[Metric | Param | RunTag]", last_try: bool
    ) -> None:
        """One `log_batch`; if MLflow refuses it, halves it until the items that it refuses stand alone."""
        from mlflow.entities import Metric, Param, RunTag

        try:
            self._client.log_batch(
                run_id,
                metrics=[item for item in items if isinstance(item, Metric)],
                params=[item for item in items if isinstance(item, Param)],
                tags=[item for item in items if isinstance(item, RunTag)],
                synchronous=True,
            )
        except Exception as error:
            refusal = refusal_of(error)
            if refusal is not Refusal.PERMANENT and not (last_try and refusal is Refusal.DOUBTFUL):
                raise
            if len(items) == 1 or not self._is_alive(run_id):
                for item in items:
                    self._put_aside(run_key, type(item).__name__.lower(), dict(item), str(error))
                return
            middle = len(items) // 2
            self._send_items(run_key, run_id, items[:middle], last_try)
            self._send_items(run_key, run_id, items[middle:], last_try)

    # --- everything else ---

    def _send_other(self, run_id: str, event: Event) -> None:
        payload = event.payload
        match event.kind:
            case "text":
                self._client.log_text(run_id, payload["text"], payload["artifact_file"])
                if tag := payload.get("digest_tag"):  # spools of earlier versions have none
                    self._spool.replace(event, DIGESTS, [(tag, text_digest(payload["text"]))])
                    return
            case "artifact":
                path = self._spool.absolute(payload["path"])
                if not path.exists():
                    raise Rejected(f"{path} is gone")
                self._client.log_artifact(run_id, str(path), payload["artifact_path"])
            case "dataset":
                self._client.log_inputs(run_id, [_dataset_input(payload)])
            case "close":
                self._client.set_terminated(run_id, payload["status"], payload["end_time_ms"])
                self._steps.pop(event.run_key, None)
            case kind:
                raise Rejected(f"events of the kind {kind!r} are unknown")
        self._spool.finish([event])
        if payload.get("ephemeral"):
            shutil.rmtree(self._spool.absolute(payload["path"]).parent, ignore_errors=True)


@contextmanager
def _in_a_race(experiment: str) -> Iterator[None]:
    """Raise NotYet for what MLflow refuses because another process was quicker."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"):
            raise
        raise NotYet(f"another process creates or deletes the experiment {experiment} now") from error


def _is_active(run: "Run") -> bool:
    return str(run.info.lifecycle_stage) == "active"


def _next_of(events: Sequence[Event]) -> list[Event]:
    """What to send next of a run's oldest events: one alone, or those that fit one `log_batch`.

    Metrics, params and tags do not wait for texts and datasets. Of a run that has ended these and its artifacts go
    first, and one batch tells the rest: who reads how it ended finds its weights.
    Digests of several texts share a batch.
    """
    due = list(takewhile(lambda event: event.kind not in ("open", "close"), events))
    if not due:
        return [events[0]]
    batch = _one_batch(due)
    texts = [event for event in due if event.kind == "text"]
    others = [event for event in due if event.kind not in (*_BATCHED, "text")]
    if len(due) < len(events):
        # texts last: until its digest follows, one that has changed looks damaged
        return [*others, *texts][:1] or batch
    if texts and all(event.kind == DIGESTS for event in batch):
        return texts[:1]
    return batch or others[:1]


def _one_batch(events: Sequence[Event]) -> list[Event]:
    """The first metrics, params and tags that fit one `log_batch`, up to an artifact."""
    room = dict(MAX_OF_KIND)
    batch: list[Event] = []
    for event in events:
        kind = _SENT_AS.get(event.kind, event.kind)
        if kind == "artifact" or room.get(kind, event.items) < event.items:
            break
        if kind in room:
            room[kind] -= event.items
            batch.append(event)
    return batch


def _entities(
    events: Sequence[Event], last_steps: dict[str, int]
) -> "tuple[list[Metric | Param | RunTag], dict[str, int]]":
    """MLflow's entities for a batch without the steps that it has, and the last step of each metric in it."""
    from mlflow.entities import Metric, Param, RunTag

    items: list[Metric | Param] = []
    tags: dict[str, RunTag] = {}
    steps: dict[str, int] = {}
    for event in events:
        if event.kind == "params":
            items += [Param(key, value) for key, value in event.payload]
        elif event.kind in ("tags", DIGESTS):
            tags |= {key: RunTag(key, value) for key, value in event.payload}
        elif event.kind == FINAL:
            for key, value, step, timestamp in event.payload:
                steps[key] = max(step, steps.get(key, last_steps.get(key, step)))
                items.append(Metric(key, value, timestamp, steps[key]))
        else:
            for key, value, step, timestamp in event.payload:
                last = steps.get(key, last_steps.get(key))
                if last is None or step > last:
                    items.append(Metric(key, value, timestamp, step))
                    steps[key] = step
    return [*items, *tags.values()], steps


def _last_steps(run: "Run") -> dict[str, int]:
    # `run.data.metrics` has the values alone; the entities behind it carry the steps.
    return {metric.key: int(metric.step) for metric in run.data._metric_objs}


def _dataset_input(payload: dict[str, str]) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=payload["name"],
        digest=payload["digest"][:MAX_DIGEST],
        source_type="local",
        source=json.dumps({"uri": payload["source"]}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", payload["context"])])
