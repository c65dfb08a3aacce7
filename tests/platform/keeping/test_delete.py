"""Deleting a sweep: all of it, nothing else, and not while it runs."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from recallfront.platform.errors import UsageError
from recallfront.platform.keeping.clean import clean
from recallfront.platform.keeping.delete import delete, find_deletion
from recallfront.platform.results.records import TAG
from recallfront.platform.sweep.lock import only_driver_of
from recallfront.platform.sweep.remains import forget_deleted, remove
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import list_sweeps
from recallfront.platform.tracking.places import artifact_location
from recallfront.platform.trial.holding import held
from recallfront.platform.trial.workplace import Workplace, trial_folder
from tests.platform.stores import ready_store

FIRST, SECOND = "ab" * 32, "cd" * 32
OWN, SHARED = "1f" * 32, "2e" * 32
CODE, DATA = "c0de" * 4, "da7a" * 16


class Store:
    """Two sweeps that share a trial, in MLflow and in a home."""

    def __init__(self, home: Path) -> None:
        self.home, self.uri = home, ready_store(home)
        self.client = open_client(self.uri)
        self.experiment = self.client.create_experiment("mine", artifact_location(self.uri, "mine"))
        self.sweeps = {key: self._sweep(key) for key in (FIRST, SECOND)}
        self.own = self._trial(FIRST, OWN)
        for key in (FIRST, SECOND):
            self._trial(key, SHARED)
        for path in ("sweeps/{}.log", "sweeps/{}/reports.jsonl", "spool/{}.sqlite"):
            for key in (FIRST, SECOND):
                self._file(path.format(key[:16]))
        self._file(f"fronts/mine-{FIRST[:8]}/front/front.json")
        self._file(f"tune/mine-{FIRST[:8]}/tuner.pkl")

    def _run(self, **tags: str) -> str:
        own = {TAG + name: value for name, value in tags.items()}
        return str(self.client.create_run(self.experiment, tags=own).info.run_id)

    def _sweep(self, key: str) -> str:
        return self._run(kind="sweep", sweep_key=key, status="finished")

    def _trial(self, sweep_key: str, key: str) -> str:
        version = {"code_version": CODE, "data_digest": DATA, "status": "finished", "config": "{}"}
        run = self._run(kind="trial", sweep_key=sweep_key, trial_key=key, **version)
        self.client.set_tag(run, "mlflow.parentRunId", self.sweeps[sweep_key])
        self._file(f"trials/{trial_folder(key, CODE, DATA)}/result.json")
        return run

    def _file(self, path: str) -> None:
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")

    def files(self) -> set[str]:
        """What is left in the home, the store itself left out."""
        found = (path.relative_to(self.home).as_posix() for path in self.home.rglob("*") if path.is_file())
        return {path for path in found if not path.startswith("mlflow.db") and not path.endswith(".lock")}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


OTHERS = {
    f"sweeps/{SECOND[:16]}.log",
    f"sweeps/{SECOND[:16]}/reports.jsonl",
    f"spool/{SECOND[:16]}.sqlite",
    f"trials/{trial_folder(SHARED, CODE, DATA)}/result.json",
}


def test_a_sweep_is_deleted_and_what_another_has_as_well_is_kept(store: Store) -> None:
    outside = store.home.parent / "outside"
    outside.mkdir(exist_ok=True)
    (store.home / "trials" / "x").symlink_to(outside)
    found = find_deletion(FIRST[:8], home=store.home)
    assert str(found).startswith("sweep mine (abababab): 3 runs, 6 files and folders of 0.0 MiB in ")
    before = store.files()
    assert store.files() == before, "finding deletes nothing"
    delete(found)
    assert store.files() == OTHERS and outside.exists()
    assert [sweep.sweep_key for sweep in list_sweeps(store.uri)] == [SECOND]
    assert store.client.get_run(store.own).info.lifecycle_stage == "deleted"
    with pytest.raises(UsageError, match="there is no sweep"):
        find_deletion(FIRST[:8], home=store.home)


def test_a_deletion_that_failed_at_a_file_is_made_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(path: Path) -> bool:
        if path.parent.name == "spool":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return remove(path)

    with monkeypatch.context() as patch:
        patch.setattr("recallfront.platform.keeping.delete.remove", refusing)
        with pytest.raises(
            UsageError, match=r"sqlite cannot be deleted: Input/output error; delete the sweep again"
        ):
            delete(find_deletion(FIRST[:8], home=store.home))
    assert store.files() > OTHERS
    delete(find_deletion(FIRST[:8], home=store.home))
    assert store.files() == OTHERS
    assert store.client.get_run(store.own).info.lifecycle_stage == "deleted"


def test_a_sweep_that_runs_is_not_deleted(store: Store) -> None:
    store.client.set_tag(store.sweeps[FIRST], TAG + "status", "running")
    with pytest.raises(UsageError, match=r"sweep mine \(abababab\) runs: cancel it first"):
        find_deletion(FIRST[:8], home=store.home)
    store.client.set_tag(store.sweeps[FIRST], TAG + "status", "interrupted")
    found = find_deletion(FIRST[:8], home=store.home)
    with (
        only_driver_of(FIRST, "mine", store.home),
        pytest.raises(UsageError, match="is being run by another"),
    ):
        delete(found)
    assert len(list_sweeps(store.uri)) == 2


def test_what_another_sweep_has_got_since_it_was_asked_for_is_kept(store: Store) -> None:
    found = find_deletion(FIRST[:8], home=store.home)
    store._trial(SECOND, OWN)
    assert delete(found) == []
    assert store.files() == OTHERS | {f"trials/{trial_folder(OWN, CODE, DATA)}/result.json"}


@pytest.fixture
def on_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An open file that is removed only gets another name, and its folder is not empty as long as it is open."""
    unlink = os.unlink

    def silly(path: Any, *, dir_fd: int | None = None) -> None:
        file = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        is_open = any(_is_file(int(number), file) for number in os.listdir("/proc/self/fd"))
        if is_open and not os.path.basename(path).startswith(".nfs"):
            other = os.path.join(os.path.dirname(path), f".nfs{file.st_ino}")
            os.rename(path, other, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        elif not is_open:
            unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", silly)


def _is_file(number: int, file: os.stat_result) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(number), file)
    return False


@pytest.mark.parametrize("how", ["delete", "forget"])
def test_a_home_on_nfs_lets_go_of_a_trial(store: Store, on_nfs: None, how: str) -> None:
    """Its lock is open while the folder is deleted."""
    if how == "delete":
        assert delete(find_deletion(FIRST[:8], home=store.home)) == []
    else:
        store.client.delete_run(store.sweeps[FIRST])
        forget_deleted(store.uri, FIRST, store.home)
    assert [path.name for path in (store.home / "trials").iterdir()] == [trial_folder(SHARED, CODE, DATA)]


@pytest.mark.parametrize("how", ["delete", "clean"])
def test_what_is_left_of_a_deleted_folder_is_taken_along_later(
    store: Store, on_nfs: None, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process has a file of it open."""
    trials = store.home / "trials"
    with (trials / trial_folder(OWN, CODE, DATA) / "result.json").open():
        store.client.delete_run(store.sweeps[FIRST])
        forget_deleted(store.uri, FIRST, store.home)
        assert "Directory not empty; the next delete or clean takes it along" in caplog.text
    (gone,) = trials.glob(".gone-*")
    assert {path.name for path in trials.iterdir()} == {gone.name, trial_folder(SHARED, CODE, DATA)}
    if how == "clean":
        clean(home=store.home, dry_run=True)
        assert gone.exists()
        clean(home=store.home)
    else:
        delete(find_deletion(SECOND[:8], home=store.home))
    assert not gone.exists()


@pytest.mark.parametrize("how", ["delete", "forget"])
def test_a_folder_in_which_a_trial_runs_is_kept(store: Store, how: str) -> None:
    """Of a sweep that has not recorded it yet."""
    place = Workplace(store.home, store.home, DATA, CODE, sweep="another")
    folder = store.home / "trials" / trial_folder(OWN, CODE, DATA)
    with held(folder, place, Event()):
        if how == "delete":
            assert delete(find_deletion(FIRST[:8], home=store.home)) == [folder]
        else:
            store.client.delete_run(store.sweeps[FIRST])
            forget_deleted(store.uri, FIRST, store.home)
        assert (folder / "result.json").exists()


def test_registered_models_are_kept_unless_said(store: Store) -> None:
    store.client.create_registered_model("mine")
    store.client.create_model_version("mine", source=f"runs:/{store.own}/model", run_id=store.own)
    found = find_deletion(FIRST[:8], home=store.home)
    assert found.versions == (("mine", "1"),)
    delete(found, versions=True)
    assert not store.client.search_model_versions("name = 'mine'")


@pytest.mark.parametrize("key", ["../../outside", "*", "", "ab"])
def test_a_key_that_was_edited_leads_nowhere(store: Store, key: str) -> None:
    store.client.set_tag(store.sweeps[FIRST], TAG + "sweep_key", key)
    before = store.files()
    with pytest.raises(UsageError, match="is not a key: it was edited"):
        find_deletion(store.sweeps[FIRST], home=store.home)
    store.client.set_tag(store.own, TAG + "trial_key", key)
    assert store.files() == before


def test_a_sweep_that_was_deleted_in_mlflow_does_not_come_back(store: Store) -> None:
    """With its run alone, as MLflow's page may; its trials' results in the home would answer the next run."""
    forget_deleted(store.uri, FIRST, store.home)
    assert len(store.files()) == 10, "it is there"
    store.client.delete_run(store.sweeps[FIRST])
    forget_deleted(store.uri, FIRST, store.home)
    assert {path for path in store.files() if path.startswith(("trials", "sweeps"))} == {
        path for path in OTHERS if path.startswith(("trials", "sweeps"))
    } | {f"sweeps/{FIRST[:16]}.log"}
    assert store.client.get_run(store.own).info.lifecycle_stage == "deleted"
