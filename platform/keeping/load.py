"""Takes a sweep out of an archive into an MLflow store: data alone, nothing of it is run.

MLflow is imported where it is first used, so that the command starts fast.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from recallfront.platform.errors import UsageError
from recallfront.platform.front.front import build_front
from recallfront.platform.front.pictures.note import sweep_note
from recallfront.platform.home import home_folder
from recallfront.platform.keeping.archive import ArchiveReader, reading_archive
from recallfront.platform.keeping.export import KEPT_ARTIFACTS, KEPT_TAGS, RUN_FILE, is_kept
from recallfront.platform.results.cancellation import CANCEL, DRIVER
from recallfront.platform.results.records import TAG
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.experiments import experiment_of
from recallfront.platform.tracking.ledger import UnknownRecord, find_sweep, read_sweep, writing
from recallfront.platform.tracking.lineage import plugin_files
from recallfront.platform.tracking.store import prepare_store

if TYPE_CHECKING:
    from recallfront.platform.tracking.artifacts import GuardedClient

_ENDS: Final = ("FINISHED", "FAILED", "KILLED")
_OF_THE_OTHER_STORE: Final = {TAG + name for name in (DRIVER, CANCEL, "weights")}
_AT_ONCE: Final = {"metrics": 1000, "params": 100, "tags": 100}


@dataclass(frozen=True)
class Import:
    """What was taken."""

    name: str
    sweep_key: str
    run_id: str
    runs: int


def load_archive(
    file: Path | str, *, home: Path | str | None = None, tracking_uri: str | None = None
) -> Import:
    """Take a sweep out of an archive into a store, which must not have it; whole, or not at all.

    Its front is computed anew from its trials. Whoever made the archive is trusted with figures and texts alone: its
    members are checked, no member is run, and none is written outside of the store.

    Raises:
        UsageError: the file is not an archive, or is damaged; or the store has the sweep, or refuses something.
    """
    folder = home_folder(home)
    with reading_archive(Path(file)) as archive:
        name, key = archive.about["name"], archive.about["sweep_key"]
        if not (
            isinstance(name, str)
            and name.strip()
            and isinstance(key, str)
            and re.fullmatch("[0-9a-f]{64}", key)
        ):
            raise ValueError("its manifest names no sweep")
        runs = [_Run(archive, place, key) for place in archive.places]
        if [run.kind for run in runs].count("sweep") != 1 or runs[0].kind != "sweep":
            raise ValueError("it does not begin with the sweep's run")
        uri = prepare_store(tracking_uri, folder)
        _refuse_known(uri, key)
        made: list[str] = []
        with writing(uri) as client:
            try:
                _take(client, uri, name, runs, made)
            except BaseException:
                for run_id in made:
                    with suppress(Exception):  # what went wrong first is what is told
                        client.delete_run(run_id)
                raise
            _show_front(client, uri, made[0])
    return Import(name, key, made[0], len(made))


class _Run:
    """A run of the archive, checked."""

    def __init__(self, archive: ArchiveReader, place: str, sweep_key: str) -> None:
        self._archive, self._place = archive, place
        self._raw = archive.json(f"{place}/{RUN_FILE}")
        tags = {str(name): str(value) for name, value in self._raw["tags"].items()}
        kept = {n: v for n, v in tags.items() if n.startswith(TAG) or n in KEPT_TAGS}
        self.tags = {name: value for name, value in kept.items() if name not in _OF_THE_OTHER_STORE}
        self.kind, self.run_id, self.name = (
            tags[TAG + "kind"],
            str(self._raw["run_id"]),
            str(self._raw["name"]),
        )
        self.start, self.end = int(self._raw["start_time"]), self._raw["end_time"]
        self.status = self._raw["status"] if self._raw["status"] in _ENDS else "KILLED"
        if self.kind not in ("sweep", "trial", "rerun"):
            raise ValueError(f"{place} is a run of the kind {self.kind[:40]!r}")
        if self.kind != "rerun" and tags[TAG + "sweep_key"] != sweep_key:
            raise ValueError(f"{place} is of another sweep")
        if self.kind == "trial":
            status = Status(tags[TAG + "status"])
            self.tags[TAG + "status"] = Status.LOST if status is Status.RUNNING else status
        elif self.kind == "sweep" and tags.get(TAG + "status") == "running":
            self.tags[TAG + "status"] = "interrupted"
        self._under = f"{place}/{KEPT_ARTIFACTS}/"
        for member in archive.places[place]:
            if member != f"{place}/{RUN_FILE}" and not is_kept(member.removeprefix(self._under)):
                raise ValueError(f"{member} is none of a sweep's files")

    def metrics(self) -> list[tuple[str, float, int, int]]:
        """Rows of metric, value, moment in ms and step."""
        return [
            (str(name), float(value), int(moment), int(step))
            for name, rows in self._raw["metrics"].items()
            for step, moment, value in rows
        ]

    def params(self) -> dict[str, str]:
        return {str(name): str(value) for name, value in self._raw["params"].items()}

    def unpack(self, folder: Path) -> bool:
        """Write its artifacts into a folder, but for pictures of the front -> whether there are any."""
        files = [name for name in self._archive.places[self._place] if name.startswith(self._under)]
        names = [name.removeprefix(self._under) for name in files]
        names = [name for name in names if not name.startswith("front/")]
        for name in names:
            self._archive.unpack(self._under + name, folder / name)
        return bool(names)


def _refuse_known(uri: str, key: str) -> None:
    try:
        known = find_sweep(uri, key)
    except UnknownRecord:
        return
    raise UsageError(f"the store has the sweep {known.name} ({key[:8]}) already: delete it there first")


def _take(client: "GuardedClient", uri: str, name: str, runs: list[_Run], made: list[str]) -> None:
    """Make the runs and note their ids in `made`; the sweep's own is known as one when all are there."""
    experiment = experiment_of(client, uri, name)
    ids: dict[str, str] = {}
    for run in runs:
        tags = dict(run.tags)
        if made:
            tags["mlflow.parentRunId"] = made[0]
        if run.kind == "rerun":
            tags[TAG + "rerun_of"] = ids.get(tags.get(TAG + "rerun_of", ""), "")
        kind = tags.pop(TAG + "kind")
        created = client.create_run(experiment, start_time=run.start, run_name=run.name)
        run_id = ids[run.run_id] = str(created.info.run_id)
        made.append(run_id)
        client.remember(created)
        _fill(client, run_id, run, tags)
        if made[1:]:
            client.set_tag(run_id, TAG + "kind", kind)
        client.set_terminated(run_id, run.status, run.end)
    client.set_tag(made[0], TAG + "kind", "sweep")


def _fill(client: "GuardedClient", run_id: str, run: _Run, tags: dict[str, str]) -> None:
    from mlflow.entities import Metric, Param, RunTag

    entities: dict[str, list[Any]] = {
        "metrics": [Metric(*row) for row in run.metrics()],
        "params": [Param(name, value) for name, value in run.params().items()],
        "tags": [RunTag(name, str(value)) for name, value in tags.items()],
    }
    for kind, rows in entities.items():
        for first in range(0, len(rows), _AT_ONCE[kind]):
            client.log_batch(run_id, **{kind: rows[first : first + _AT_ONCE[kind]]}, synchronous=True)
    with TemporaryDirectory() as folder:
        if run.unpack(Path(folder)):
            client.log_artifacts(run_id, folder)


def _show_front(client: "GuardedClient", uri: str, run_id: str) -> None:
    """Draw the front of what was taken; the archive's own pictures are not shown: they could hold anything."""
    record = read_sweep(uri, run_id).current()
    finished = record.with_status(Status.FINISHED)
    if not finished:
        return
    from recallfront.platform.front.pictures.figures import write_front

    front = build_front(record)
    with TemporaryDirectory() as folder:
        write_front(front, folder)
        client.log_artifacts(run_id, folder, "front")
    plugins = list[str]()
    with suppress(UnknownRecord):  # an archive may lack it
        plugins = plugin_files(uri, finished[0].run_id)
    note = sweep_note(run_id, front, description=str(record.spec.get("description", "")), plugins=plugins)
    client.set_tag(run_id, "mlflow.note.content", note)
