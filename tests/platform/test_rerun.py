"""Reruns: identical on the same machine for every architecture, and each other verdict where it is the honest one."""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from recallfront.platform import SweepResult, UsageError, front, rerun, run_sweep
from recallfront.platform.lineage.environment import TrialLineage, collect
from recallfront.platform.rerun import Comparison, Rerun, Verdict, _judge
from recallfront.platform.results.records import TAG, TrialRecord
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.digests import FIGURES, figures_tag
from recallfront.platform.tracking.ledger import CONFIG_TAG, find_run, read_artifact, read_sweep, reading
from recallfront.platform.tracking.lineage import read_lineage
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps import SweepSpec, TrialConfig
from recallfront.sweeps.base import text_digest
from recallfront.sweeps.data import prepare
from tests.platform.specs import SEGMENT, tiny_spec
from tests.platform.stores import ready_home

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_collections")]
ARCHITECTURES = ("attention", "window", "hawk", "griffin", "based", "grouped")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """One trial of each architecture of the quickstart, tiny; and one that diverges."""
    diverges = {"architecture": "linear", "training.learning_rate": 1e6, "training.gradient_clipping": 0.0}
    spec = tiny_spec(
        name="rerun",
        task={"test": [SEGMENT | {"examples": 500}]},
        space=[*({"architecture": name} for name in ARCHITECTURES), diverges],
        concurrent=1,
    )
    return run_sweep(spec, home=ready_home(tmp_path_factory.mktemp("home")))


def trial(sweep: SweepResult, architecture: str) -> TrialRecord:
    trials = read_sweep(sweep.tracking_uri, sweep.record.sweep_key).trials
    (found,) = (t for t in trials if t.config["model"]["architecture"] == architecture)
    return found


@pytest.fixture
def store(sweep: SweepResult) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(sweep.home / "mlflow.db")
    yield connection
    connection.close()


def tamper(
    store: sqlite3.Connection, run_id: str, metric: str, change: float, *, step: int | None = None
) -> None:
    """Add to a metric that a run has recorded."""
    at, rest = ("", ()) if step is None else (" AND step = ?", (step,))
    with store:
        for table in ("metrics",) if step is not None else ("metrics", "latest_metrics"):
            text = f"UPDATE {table} SET value = value + ? WHERE run_uuid = ? AND key = ?{at}"
            assert store.execute(text, (change, run_id, metric, *rest)).rowcount >= 1
        # as of a first run that has ended so
        figures = dict(store.execute("SELECT key, value FROM latest_metrics WHERE run_uuid = ?", (run_id,)))
        own = "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?"
        assert store.execute(own, (figures_tag(figures), run_id, TAG + FIGURES)).rowcount == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_rerun_is_identical_on_the_same_machine(sweep: SweepResult, architecture: str) -> None:
    first = trial(sweep, architecture)
    found = rerun(first.run_id[:8], home=sweep.home)
    assert found.verdict is Verdict.IDENTICAL, found.reason
    losses = next(c for c in found.comparisons if c.metric == "loss")
    assert (losses.values, losses.equal) == (20, 20)
    assert {c.metric for c in found.comparisons} >= {"loss", "validation_recall", "recall", "parameters"}
    assert found.differences == (), "of code, packages and machine"


def test_the_package_lock_is_what_its_digest_was_taken_of(sweep: SweepResult) -> None:
    run_id = trial(sweep, "hawk").run_id
    with reading(sweep.tracking_uri) as client:
        lock = read_artifact(client, run_id, "lineage/packages.txt")
    assert lock is not None and f"torch=={version('torch')}\n" in lock
    digest = read_lineage(sweep.tracking_uri, run_id).environment.packages_digest
    assert hashlib.sha256(lock.encode()).hexdigest().startswith(digest) and len(digest) == 16


def test_a_rerun_is_a_run_of_its_own_and_no_trial_of_the_sweep(sweep: SweepResult) -> None:
    before = read_sweep(sweep.tracking_uri, sweep.record.sweep_key)
    first = trial(sweep, "hawk")
    found = rerun(first.run_id, home=sweep.home)
    after = read_sweep(sweep.tracking_uri, sweep.record.sweep_key)
    assert [t.run_id for t in after.trials] == [t.run_id for t in before.trials]
    assert front("rerun", home=sweep.home).hypervolume == pytest.approx(
        sweep.front.hypervolume if sweep.front else 0
    )
    run = open_client(sweep.tracking_uri).get_run(found.run_id)
    assert run.data.tags["recallfront.kind"] == "rerun"
    assert run.data.tags["recallfront.rerun_of"] == first.run_id
    assert run.data.tags["recallfront.verdict"] == "identical"
    assert run.info.status == "FINISHED" and run.data.metrics["recall"] == first.metrics["recall"]
    assert find_run(sweep.tracking_uri, first.trial_key[:12]).run_id == first.run_id
    assert run_sweep(SweepSpec.model_validate(sweep.record.spec), home=sweep.home).ran == 0
    assert not (sweep.home / "reruns").exists() or not list((sweep.home / "reruns").iterdir())
    assert not list((sweep.home / "spool").glob("rerun*"))


def test_one_loss_that_differs_is_no_longer_identical(sweep: SweepResult, store: sqlite3.Connection) -> None:
    first = trial(sweep, "window")
    tamper(store, first.run_id, "loss", 1e-7, step=7)
    try:
        found = rerun(first.run_id, home=sweep.home)
    finally:
        tamper(store, first.run_id, "loss", -1e-7, step=7)
    assert found.verdict is Verdict.REPRODUCED
    losses = next(c for c in found.comparisons if c.metric == "loss")
    assert (losses.values, losses.equal) == (20, 19)


@pytest.mark.parametrize(("change", "verdict"), [(0.01, Verdict.REPRODUCED), (0.3, Verdict.DRIFTED)])
def test_recall_decides_between_reproduced_and_drifted(
    sweep: SweepResult, store: sqlite3.Connection, change: float, verdict: Verdict
) -> None:
    """By chance, two recalls of 0.01 over 1000 questions differ by up to 0.015."""
    first = trial(sweep, "based")
    tamper(store, first.run_id, "recall", change)
    try:
        found = rerun(first.run_id, home=sweep.home)
    finally:
        tamper(store, first.run_id, "recall", -change)
    assert found.verdict is verdict, found.reason
    assert "chance moves it by up to" in found.reason


@contextmanager
def told_lineage(
    sweep: SweepResult, run_id: str
) -> Iterator[tuple[dict[str, Any], Callable[[dict[str, Any]], None]]]:
    """A run's lineage, and what stores another one, with its digest, until the end."""
    client = open_client(sweep.tracking_uri)
    place = client.get_run(run_id).info.artifact_uri
    path = Path(place.removeprefix("file://")) / "lineage" / "lineage.json"
    text = path.read_text()

    def store(text: str) -> None:
        path.write_text(text)
        client.set_tag(run_id, f"{TAG}lineage_sha256", text_digest(text))

    try:
        yield json.loads(text), lambda raw: store(json.dumps(raw))
    finally:
        store(text)


def test_other_data_is_not_comparable(sweep: SweepResult) -> None:
    first = trial(sweep, "attention")
    with told_lineage(sweep, first.run_id) as (raw, tell):
        tell(raw | {"data_digest": "0" * 64})
        found = rerun(first.run_id, home=sweep.home)
    assert found.verdict is Verdict.NOT_COMPARABLE
    assert "the data is not the same: its digest was 0000000000000000" in found.reason


def test_a_model_that_a_run_started_from_is_looked_for_first(sweep: SweepResult, tmp_path: Path) -> None:
    first = trial(sweep, "window")
    weights = next((sweep.home / "trials").glob("*/model/model.safetensors"))
    with told_lineage(sweep, first.run_id) as (raw, tell):

        def rerun_from(start: dict[str, str]) -> Rerun:
            tell(raw | {"config": raw["config"] | {"start": start}})
            return rerun(first.run_id, home=sweep.home)

        with pytest.raises(UsageError, match=r"start.folder='gone': is not a folder"):
            rerun_from({"folder": "gone"})
        found = rerun_from({"folder": str(weights.parent), "sha256": "0" * 64})
    assert found.verdict is Verdict.NOT_COMPARABLE
    assert "the first run ended as finished, the rerun as error (" in found.reason
    assert f"start.sha256={'0' * 64}: model.safetensors has" in found.reason


def test_a_failure_that_comes_again_is_reproduced_and_one_that_does_not_is_not_comparable(
    sweep: SweepResult, store: sqlite3.Connection
) -> None:
    diverged = trial(sweep, "linear")
    assert diverged.status is Status.DIVERGED
    found = rerun(diverged.run_id, home=sweep.home)
    assert found.verdict is Verdict.IDENTICAL and found.reason.endswith("both runs ended as diverged")
    finished = trial(sweep, "grouped")
    tag = "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = 'recallfront.status'"
    with store:
        store.execute(tag, ("error", finished.run_id))
    try:
        found = rerun(finished.run_id, home=sweep.home)
    finally:
        with store:
            store.execute(tag, ("finished", finished.run_id))
    assert found.verdict is Verdict.NOT_COMPARABLE
    assert found.reason == "the first run ended as error, the rerun as finished"


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own
@pytest.mark.parametrize("artifact", ["lineage/lineage.json", "config.json"])
def test_a_changed_digit_of_what_a_run_is_made_from_is_noticed(
    sweep: SweepResult, tmp_path: Path, artifact: str
) -> None:
    """A rerun would silently be of another trial."""
    client, first = open_client(sweep.tracking_uri), trial(sweep, "hawk")
    run_id = first.run_id
    own = client.get_run(run_id).data.tags
    path = Path(client.download_artifacts(run_id, artifact, str(tmp_path)))
    text, folder = path.read_text(), artifact.rpartition("/")[0] or None

    def read() -> object:
        if artifact == "lineage/lineage.json":
            return rerun(first.run_id, home=sweep.home)
        return read_sweep(sweep.tracking_uri, sweep.record.sweep_key)

    try:
        if artifact == "config.json":  # the ledger reads it where it is too long for a tag
            client.delete_tag(run_id, CONFIG_TAG)
        assert text.count(digit := '"width": 16' if '"width": 16' in text else '"width":16')
        path.write_text(text.replace(digit, digit[:-1] + "8", 1))
        client.log_artifact(run_id, str(path), folder)
        with pytest.raises(UsageError, match=f"its artifact {artifact} does not match the digest in its tag"):
            read()
    finally:
        path.write_text(text)
        client.log_artifact(run_id, str(path), folder)
    tag = f"{TAG}{path.stem}_sha256"
    client.delete_tag(run_id, tag)  # as of an earlier version
    assert read()
    client.set_tag(run_id, tag, own[tag])
    if CONFIG_TAG in own:
        client.set_tag(run_id, CONFIG_TAG, own[CONFIG_TAG])


def test_without_a_question_recall_decides_nothing(tmp_path: Path) -> None:
    """Text whose test split has no AR hit."""
    (tmp_path / "text.txt").write_text("\n".join(f"{n} abcdefgh" for n in range(100, 200)))
    task = {
        "name": "text",
        "source": {"files": str(tmp_path / "text.txt"), "documents": "line"},
        "length": 8,
        "held_out": 0.2,
        "ar_threshold": 0,
        **{split: [{"tokens": 50}] for split in ("validation", "test")},
    }
    config = TrialConfig.model_validate({"model": {"architecture": "hawk", "vocab_size": 257}, "task": task})
    path, data_digest = prepare(config.task, tmp_path / "data")
    place = Workplace(home=tmp_path, data=path, data_digest=data_digest, code_version="")
    lineage = TrialLineage(environment=collect(), trial_key="", config={}, data_digest=data_digest)
    first = TrialRecord("run", "key", Status.FINISHED, {}, {"recall": 0.0})
    last = Report(step=1, status=Status.FINISHED, figures={"recall": 0.0})
    compared = (Comparison("loss", 2, 1, 0.5, 0.25),)
    assert _judge(config, lineage, place, first, last, compared) == (
        Verdict.NOT_COMPARABLE,
        "1 of 2 values are equal, and the test split asks nothing that recall could decide by",
    )


def test_what_cannot_be_rerun_is_said(sweep: SweepResult, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run 'abcdef123456'"):
        rerun("abcdef123456", home=sweep.home)
    with pytest.raises(UsageError, match="there is no MLflow store at"):
        rerun("abcdef123456", home=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
