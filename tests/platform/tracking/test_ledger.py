"""The ledger reads back what the writer wrote, through a real SQLite store and a real server."""

import hashlib
import json
import math
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from recallfront.platform.errors import UsageError
from recallfront.platform.results.records import TAG
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.digests import write_checked
from recallfront.platform.tracking.ledger import (
    UnknownRecord,
    _through_mlflow,
    config_tags,
    find_run,
    list_sweeps,
    read_sweep,
    read_trials,
    reading,
)
from recallfront.platform.tracking.writer import TrackingWriter
from tests.platform.servers import MlflowServer
from tests.platform.stores import ready_store
from tests.platform.sweeps import wait_for

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own

NOW = 1_700_000_000_000
WAIT = 60.0


def key_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_sweep(writer: TrackingWriter, study: str, sweep: str, trials: int, *, long: bool = False) -> str:
    """A finished sweep of `trials` trials; returns the parent's run key."""
    parent = f"sweep:{sweep}"
    tags = {"recallfront.kind": "sweep", "recallfront.sweep_key": key_of(sweep)}
    writer.open_run(parent, experiment=study, name=sweep, tags=tags)
    writer.text(parent, json.dumps({"name": study}), "spec.json")
    for index in range(trials):
        run = f"trial:{sweep}:{index}"
        config: dict[str, Any] = {"index": index, "pad": "x" * 7000 if long else ""}
        status = Status.DIVERGED if index == 1 else Status.FINISHED
        tags = {
            "recallfront.kind": "trial",
            "recallfront.sweep_key": key_of(sweep),
            "recallfront.trial_key": key_of(run),
            "recallfront.status": status.value,
            **config_tags(config),
        }
        if status is Status.DIVERGED:
            tags["recallfront.failure"] = "loss is nan at step 3"
        writer.open_run(run, experiment=study, name=run, parent_key=parent, tags=tags)
        writer.text(run, json.dumps(config), "config.json")
        losses = [1.0, math.nan] if index == 1 else [1.0, 0.5]
        writer.metrics(run, [("loss", loss, step, NOW) for step, loss in enumerate(losses)])
        writer.metrics(run, [("worst", math.inf, 0, NOW)])
        writer.close_run(run, "FAILED" if index == 1 else "FINISHED")
    writer.close_run(parent, "FINISHED")
    assert writer.flush(WAIT) and writer.rejected() == 0
    return parent


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """A store with three sweeps of two studies, and the run ids by run key."""
    home = tmp_path_factory.mktemp("home")
    uri = ready_store(home)
    with closing(TrackingWriter(uri, home / "spool.db")) as writer:
        parents = [
            write_sweep(writer, "quickstart", "first", 2),
            write_sweep(writer, "quickstart", "second", 3),
            write_sweep(writer, "long study", "third", 2, long=True),
        ]
        runs = [*parents, "trial:first:0", "trial:first:1", "trial:third:0"]
        rerun = {
            "recallfront.kind": "rerun",
            "recallfront.trial_key": key_of("trial:first:0"),
            "recallfront.status": "finished",
        }
        writer.open_run("rerun", experiment="quickstart", name="rerun", tags=rerun)
        assert writer.flush(WAIT)
        return uri, {run: writer.run_id(run) or "" for run in [*runs, "rerun"]}


def test_every_sweep_is_listed_the_newest_first(store: tuple[str, dict[str, str]]) -> None:
    sweeps = list_sweeps(store[0])
    assert [(found.name, found.sweep_key) for found in sweeps] == [
        ("long study", key_of("third")),
        ("quickstart", key_of("second")),
        ("quickstart", key_of("first")),
    ]
    assert (
        sweeps[0].status == "FINISHED" and sweeps[0].end_time and sweeps[0].end_time >= sweeps[0].start_time
    )


def test_a_sweep_is_found_by_study_run_and_key(store: tuple[str, dict[str, str]]) -> None:
    uri, runs = store
    assert read_sweep(uri, "long study").sweep_key == key_of("third")
    for digits in (runs["sweep:first"], runs["sweep:first"][:8]):
        assert read_sweep(uri, digits).sweep_key == key_of("first")
    assert read_sweep(uri, key_of("first")[:6].upper()).sweep_key == key_of("first")
    assert read_sweep(uri, key_of("first")).run_id == runs["sweep:first"]


def test_a_sqlite_store_is_read_without_mlflow_and_as_mlflow_reads_it(
    store: tuple[str, dict[str, str]],
) -> None:
    """`status` and `front` took 4.5 s of a core, three of them for the import; now it is one in all."""
    uri, runs = store
    script = (
        "import sys; from recallfront.__main__ import run;"
        f"codes = [run([name, {key_of('third')!r}, '--tracking-uri', {uri!r}]) for name in ('front', 'status')];"
        f"codes.append(run(['status', '--tracking-uri', {uri!r}]));"
        "print(codes, [m for m in ('mlflow', 'torch', 'ray', 'optuna', 'plotly', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[2, 2, 0] []", done.stderr  # these sweeps have no objectives
    assert "long study" in done.stdout and "no specification in the store yet" in done.stderr
    for name in ("sweep:second", "sweep:third"):
        with reading(uri) as own, _through_mlflow(uri, "read") as client:
            ours, theirs = (map(vars, read_trials(reader, runs[name])) for reader in (own, client))
            for mine, other in zip(ours, theirs, strict=True):
                assert str(mine) == str(other), "not a number is not equal to itself"
            with pytest.raises(UsageError, match="has no run"):
                own.get_run("0" * 32)


def test_a_name_of_two_sweeps_is_refused_with_both_keys(store: tuple[str, dict[str, str]]) -> None:
    with pytest.raises(UnknownRecord, match="sweep 'quickstart' may be any of") as told:
        read_sweep(store[0], "quickstart")
    assert all(
        f"{key_of(sweep)[:8]} (quickstart, started " in str(told.value) for sweep in ("first", "second")
    )


@pytest.mark.parametrize(
    ("study", "key", "trials"),
    [("quickstart", "second", 3), ("long study", "third", 2)],
    ids=["in tags", "artifacts"],
)
def test_a_sweep_is_read_whole(study: str, key: str, trials: int, store: tuple[str, dict[str, str]]) -> None:
    record = read_sweep(store[0], key_of(key))
    assert record.name == study and record.spec == {"name": study} and record.tags["kind"] == "sweep"
    assert [trial.config["index"] for trial in record.trials] == list(range(trials))
    good, bad = record.trials[:2]
    assert good.status is Status.FINISHED and good.failure is None
    assert good.metrics == {"loss": 0.5, "worst": math.inf}
    assert good.end_time is not None and good.end_time >= good.start_time
    assert bad.status is Status.DIVERGED and bad.failure == "loss is nan at step 3"
    assert math.isnan(bad.metrics["loss"])
    assert good.tags["sweep_key"] == record.sweep_key and "config" not in good.tags


def test_a_run_is_found_by_run_and_trial_key(store: tuple[str, dict[str, str]]) -> None:
    uri, runs = store
    run_id, key = runs["trial:first:0"], key_of("trial:first:0")
    for name in (run_id, run_id[:8], key, key[:7]):
        assert find_run(uri, name).run_id == run_id, name
    assert find_run(uri, runs["rerun"]).tags["kind"] == "rerun"
    assert find_run(uri, key_of("trial:third:0")).config["index"] == 0


@pytest.mark.parametrize("name", ["nothing", "abc", "f" * 32, "'; DROP", ""])
def test_an_unknown_name_tells_what_there_is(name: str, store: tuple[str, dict[str, str]]) -> None:
    with pytest.raises(UnknownRecord, match=r"its sweeps are long study \(\w{8}\), quickstart \(\w{8}\)"):
        read_sweep(store[0], name)
    with pytest.raises(UnknownRecord, match="run .* is not a run id or trial key|its sweeps are"):
        find_run(store[0], name)


def test_a_sweep_run_is_no_trial(store: tuple[str, dict[str, str]]) -> None:
    with pytest.raises(
        UnknownRecord,
        match=rf"is the sweep quickstart, not a trial: `recallfront status {key_of('first')[:8]}`",
    ):
        find_run(store[0], store[1]["sweep:first"])


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    uri = ready_store(tmp_path)
    assert list_sweeps(uri) == []
    with pytest.raises(UsageError, match="it has no sweeps yet"):
        read_sweep(uri, "quickstart")


def test_a_store_that_does_not_answer_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="cannot be read: Connection refused") as caught:
        read_sweep("http://127.0.0.1:9", "quickstart")
    assert not isinstance(caught.value, UnknownRecord)


def test_thousands_of_trials_are_read_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recallfront.platform.tracking import ledger

    monkeypatch.setattr(ledger, "PAGE", 7)
    uri = ready_store(tmp_path)
    with closing(TrackingWriter(uri, tmp_path / "spool.db")) as writer:
        parent = write_sweep(writer, "pages", "pages", 30)
        run_id = writer.run_id(parent)
    assert run_id is not None
    assert [trial.config["index"] for trial in read_trials(open_client(uri), run_id)] == list(range(30))


@pytest.mark.slow
def test_the_same_over_http(tmp_path: Path) -> None:
    with MlflowServer(tmp_path / "server") as server:
        with closing(TrackingWriter(server.uri, tmp_path / "spool.db")) as writer:
            write_sweep(writer, "study", "sweep", 3, long=True)
        record = read_sweep(server.uri, "study")
        assert [trial.config["index"] for trial in record.trials] == [0, 1, 2]
        assert record.trials[0].metrics == {"loss": 0.5, "worst": math.inf}
        assert math.isnan(record.trials[1].metrics["loss"])
        assert find_run(server.uri, key_of("trial:sweep:2")[:8]).config["index"] == 2
        assert find_run(server.uri, record.trials[1].run_id[:8]).run_id == record.trials[1].run_id


@pytest.mark.parametrize(
    ("tag", "value", "told"),
    [
        ("status", "good", "its tag recallfront.status is 'good'; it must be one of running, finished"),
        ("config", "{", "its tag recallfront.config is not a JSON object"),
        ("config", "[1]", "its tag recallfront.config is not a JSON object"),
        ("config", "[" * 5000, "its tag recallfront.config is not a JSON object"),
    ],
)
def test_an_edited_tag_is_told_with_its_run(tmp_path: Path, tag: str, value: str, told: str) -> None:
    uri = ready_store(tmp_path / "edited")
    client = open_client(uri)
    experiment = client.create_experiment("edited")
    parent = client.create_run(experiment, tags={"recallfront.kind": "sweep"}).info.run_id
    tags = {"recallfront.kind": "trial", "mlflow.parentRunId": parent, f"recallfront.{tag}": value}
    run = client.create_run(experiment, tags=tags).info.run_id
    with reading(uri) as own, pytest.raises(UsageError, match=f"run {run}: {told}"):
        read_trials(own, parent)


def test_a_changed_letter_of_a_specification_is_told(tmp_path: Path) -> None:
    uri = ready_store(tmp_path)
    with closing(TrackingWriter(uri, tmp_path / "spool.db")) as writer:
        tags = {f"{TAG}kind": "sweep", f"{TAG}sweep_key": "ab" * 32}
        writer.open_run("sweep", experiment="study", name="sweep", tags=tags)
        write_checked(writer, "sweep", '{"name": "study"}', "spec.json")
        assert writer.flush(60)
    found = read_sweep(uri, "study")
    assert found.spec == {"name": "study"}
    client = open_client(uri)
    client.log_text(found.run_id, '{"name": "studz"}', "spec.json")
    with pytest.raises(UsageError, match="its artifact spec.json does not match the digest in its tag"):
        read_sweep(uri, "study")
    (artifact,) = tmp_path.rglob("spec.json")
    changed = artifact.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="its artifact spec.json is missing"):
        read_sweep(uri, "study")
    changed.rename(artifact)
    client.delete_tag(found.run_id, f"{TAG}spec_sha256")  # as of an earlier version
    assert read_sweep(uri, "study").spec == {"name": "studz"}


def test_a_digest_is_never_there_before_its_text(tmp_path: Path) -> None:
    """The driver is killed in between, or the store refuses the text."""
    uri = ready_store(tmp_path)
    with closing(TrackingWriter(uri, tmp_path / "spool.db")) as writer:
        tags = {f"{TAG}kind": "sweep", f"{TAG}sweep_key": "ab" * 32}
        writer.open_run("sweep", experiment="study", name="sweep", tags=tags)
        assert writer.flush(60)
        place = tmp_path / "mlartifacts" / "study"
        place.parent.mkdir(exist_ok=True)
        place.write_text("a file, where the folder of artifacts is to be")
        write_checked(writer, "sweep", '{"name": "study"}', "spec.json")
        writer.tags("sweep", {f"{TAG}status": "running"})
        wait_for(lambda: read_sweep(uri, "study").tags.get("status") == "running")
        assert read_sweep(uri, "study").spec == {} and "spec_sha256" not in read_sweep(uri, "study").tags
        place.unlink()
        assert writer.flush(60)
    found = read_sweep(uri, "study")
    assert ("spec_sha256" in found.tags) == bool(found.spec), "it was sent now, or refused"
