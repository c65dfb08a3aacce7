"""Archives of sweeps: what is taken, and what is refused before anything is."""

import hashlib
import json
import stat
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recallfront.__main__ import run as run_command
from recallfront.platform.errors import UsageError
from recallfront.platform.keeping import archive
from recallfront.platform.keeping.archive import check_path, reading_archive, writing_archive
from recallfront.platform.keeping.load import load_archive
from recallfront.platform.results.records import TAG
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import list_sweeps, read_sweep
from tests.platform.stores import ready_store

KEY = "ab" * 32


def run(kind: str, **tags: str) -> dict[str, Any]:
    own = {"kind": kind, "sweep_key": KEY, "status": "finished"} | tags
    return {
        "run_id": f"old-{kind}",
        "name": kind,
        "status": "FINISHED",
        "start_time": 1_700_000_000_000,
        "end_time": 1_700_000_001_000,
        "tags": {TAG + name: value for name, value in own.items()},
        "params": {"width": "16"},
        "metrics": {"loss": [[1, 1_700_000_000_500, 0.5], [2, 1_700_000_000_600, 0.25]]},
    }


TRIAL = {"trial_key": "1f" * 32, "code_version": "c0", "data_digest": "d0", "config": "{}"}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def written(
        members: dict[str, Any] | None = None, /, *, mode: int = stat.S_IFREG, **manifest: Any
    ) -> Path:
        """An archive of a sweep of one trial that is running, with these members besides or in place."""
        whole = {
            "runs/000000/run.json": run("sweep", driver="d1", cancel="{}"),
            "runs/000001/run.json": run("trial", **TRIAL | {"status": "running"}),
        }
        whole |= members or {}
        contents = {
            name: value if isinstance(value, bytes) else json.dumps(value).encode()
            for name, value in whole.items()
        }
        digests = {n: [len(c), hashlib.sha256(c).hexdigest()] for n, c in contents.items()}
        about = {"format": 1, "name": "mine", "sweep_key": KEY, "members": digests} | manifest
        file = tmp_path / "a.zip"
        with zipfile.ZipFile(file, "w") as target:
            for name, content in (contents | {"manifest.json": json.dumps(about).encode()}).items():
                member = zipfile.ZipInfo(name)
                member.external_attr = mode << 16
                target.writestr(member, content)
        return file

    return written


def test_a_sweep_is_taken_whole_and_once(write: Callable[..., Path], tmp_path: Path) -> None:
    home = tmp_path / "home"
    uri = ready_store(home)
    file = write({"runs/000001/artifacts/lineage/lineage.json": {"a": 1}})
    done = load_archive(file, home=home)
    record = read_sweep(uri, "mine")
    (trial,) = record.trials
    assert (done.runs, record.run_id, record.sweep_key) == (2, done.run_id, KEY)
    assert "driver" not in record.tags and "cancel" not in record.tags, "they are the other store's"
    assert trial.status == "lost", "it does not run here"
    assert trial.metrics == {"loss": 0.25} and trial.start_time == 1.7e9
    client = open_client(uri)
    curve = [(m.step, m.timestamp, m.value) for m in client.get_metric_history(trial.run_id, "loss")]
    assert curve == [(1, 1_700_000_000_500, 0.5), (2, 1_700_000_000_600, 0.25)]
    assert [f.path for f in client.list_artifacts(trial.run_id, "lineage")] == ["lineage/lineage.json"]
    with pytest.raises(UsageError, match=r"the store has the sweep mine \(abababab\) already"):
        load_archive(file, home=home)


def test_a_sweep_is_taken_again_after_its_experiment_was_deleted(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    client = open_client(ready_store(home))
    first = load_archive(write(), home=home)
    client.delete_experiment(client.get_run(first.run_id).info.experiment_id)
    second = load_archive(write(), home=home)
    assert client.get_run(first.run_id).info.lifecycle_stage == "deleted"
    assert [sweep.run_id for sweep in list_sweeps(client.tracking_uri)] == [second.run_id]


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "leaves its folder": ({"runs/000000/artifacts/../../x.json": b"{}"}, "is not allowed"),
    "absolute": ({"/etc/x.json": b"{}"}, "is not allowed"),
    "backslash": ({"runs/000000/artifacts/..\\x.json": b"{}"}, "is not allowed"),
    "elsewhere": ({"x.json": b"{}"}, "run.json is missing"),
    "pickle": ({"runs/000001/artifacts/model/python_model.pkl": b"x"}, "is none of a sweep's files"),
    "MLmodel": ({"runs/000001/artifacts/model/MLmodel": b"x"}, "is none of a sweep's files"),
    "other sweep": ({"runs/000001/run.json": run("trial", sweep_key="cd" * 32)}, "is of another sweep"),
    "no kind": ({"runs/000001/run.json": {"tags": {}}}, "is not a whole archive"),
    "other kind": ({"runs/000001/run.json": run("x")}, "is a run of the kind 'x'"),
    "two sweeps": ({"runs/000001/run.json": run("sweep")}, "does not begin with the sweep's run"),
    "no status": ({"runs/000001/run.json": run("trial", **TRIAL | {"status": "x"})}, "not a valid Status"),
    "no numbers": ({"runs/000001/run.json": run("trial", **TRIAL) | {"start_time": "x"}}, "invalid literal"),
    "deep": ({"runs/000001/run.json": b"[" * 100_000}, "run.json"),
    "no JSON": ({"runs/000001/run.json": b"\x00"}, "run.json|utf|Expecting"),
}


@pytest.mark.parametrize(("members", "says"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_none_of_ours_is_refused_and_leaves_nothing(
    members: dict[str, Any], says: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    uri = ready_store(home)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=says):
        load_archive(write(members), home=home)
    assert not list_sweeps(uri)
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before and path.name != "a.zip"] == []


def test_reading_twice_as_many_trials_is_twice_the_work(write: Callable[..., Path], tmp_path: Path) -> None:
    def calls(trials: int) -> int:
        members = {f"runs/{n + 2:06}/run.json": run("trial", **TRIAL) for n in range(trials)}
        file = write(members | {"runs/999999/run.json": run("sweep")})
        counted = Counter[str]()
        sys.setprofile(lambda frame, event, value: counted.update([event]))
        try:
            # refused once all are read
            with pytest.raises(UsageError, match="does not begin with the sweep's run"):
                load_archive(file, home=tmp_path / "home")
        finally:
            sys.setprofile(None)
        return counted.total()

    assert calls(200) < 2.2 * calls(100)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mode": stat.S_IFLNK}, "is not a plain file"),
        ({"format": 2}, "its format is 2; this version reads 1"),
        ({"sweep_key": "../x"}, "its manifest names no sweep"),
        ({"name": 7}, "its manifest names no sweep"),
        ({"members": {}}, "are not those of its manifest"),
        ({"members": []}, "lists no members"),
    ],
    ids=["link", "format", "key", "name", "unlisted", "list"],
)
def test_a_wrong_manifest_is_refused(
    changes: dict[str, Any], says: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    ready_store(tmp_path / "home")
    with pytest.raises(UsageError, match=says):
        load_archive(write(**changes), home=tmp_path / "home")


def test_damage_and_size_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, content = tmp_path / "a.zip", tmp_path / "content"
    content.write_bytes(b"0" * 5000)
    with writing_archive(file) as target:
        target.file("runs/a.txt", content)
        target.seal({})
    with reading_archive(file) as found:
        found.unpack("runs/a.txt", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content.read_bytes()
    with pytest.raises(UsageError, match="is there already"), writing_archive(file):
        pass
    for size, digest, says in ((4999, "", "larger than it should be"), (5000, "0", "does not match")):
        with reading_archive(file) as found, pytest.raises(ValueError, match=says):
            found._members["runs/a.txt"] = (size, digest)
            found.unpack("runs/a.txt", tmp_path / f"copy{size}{digest}")
    monkeypatch.setattr(archive, "MOST_UNPACKED", 4000)
    with pytest.raises(UsageError, match="its members are larger than"), reading_archive(file):
        pass
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UsageError, match="is not a whole archive of a sweep"), reading_archive(file):
        pass


def test_an_archive_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError), writing_archive(tmp_path / "a.zip") as target:
        target.file("a.txt", tmp_path / "nosuch")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_is_one_sentence_and_leaves_no_half_archive(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, older = tmp_path / "home", write()
    ready_store(home)
    load_archive(older, home=home)
    whole = older.read_bytes()
    # whatever is written to it fails as on a full disk
    (tmp_path / ".new.zip.new").symlink_to("/dev/full")
    for name, told in (
        ("new.zip", "cannot be written: No space left on device"),
        (older.name, "is there already: name another file"),
    ):
        assert run_command(["export", "mine", str(tmp_path / name), "--home", str(home)]) == 2
        assert capsys.readouterr().err == f"recallfront: {tmp_path / name} {told}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "home"]
    assert older.read_bytes() == whole


@pytest.mark.parametrize(
    "path", ["", "/a", "a/../b", "..", "a//b", "./a", "a/", "a\\b", "a\nb", "a" * 600, "C:/a", 7]
)
def test_paths_that_lead_elsewhere(path: object) -> None:
    with pytest.raises(ValueError, match="is not allowed"):
        check_path(path)
