"""What is kept at a home's address, whole or not at all, and brought to other machines."""

import errno
import resource
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from recallfront.platform.home import home_folder, take_place, vault
from recallfront.platform.home.data import bring_data
from recallfront.platform.home.transport import HomeAway, NotKept, Transport
from recallfront.platform.home.upload import Upload
from recallfront.platform.home.vault import (
    check_home,
    fetch_file,
    fetch_folder,
    forget,
    keep_file,
    keep_folder,
    kept_files,
    kept_folders,
)
from recallfront.platform.trial.checkpoints import remove_checkpoint
from recallfront.sweeps.base import seal

Machine = Callable[[str], Path]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The folder at the address."""
    return tmp_path / "store"


@pytest.fixture
def machine(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes this process a machine of a name -> its folder for the home."""

    def become(name: str) -> Path:
        monkeypatch.setenv("RECALLFRONT_STATE", str(tmp_path / name))
        return home_folder(store.as_uri())

    return become


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        file = folder / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def read(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in folder.rglob("*") if f.is_file()}


def test_a_file_goes_from_machine_to_machine(machine: Machine) -> None:
    path = machine("a") / "measurements" / "x.json"
    write(path.parent, **{"x.json": "1"})
    keep_file(path)
    path = machine("b") / "measurements" / "x.json"
    assert fetch_file(path) and path.read_text() == "1"
    assert not fetch_file(path.with_name("y.json")) and not path.with_name("y.json").exists()
    forget(path)
    assert not fetch_file(path) and path.read_text() == "1"


def test_a_folder_goes_whole_and_the_newest_is_the_one(machine: Machine, store: Path) -> None:
    path = write(machine("a") / "trials" / "t" / "checkpoint", step="1", deep__state="x")
    keep_folder(path, order=1)
    write(path, step="2")
    keep_folder(path, order=2)
    # an older one that comes late, as from a machine that was thought lost, is not in the way
    keep_folder(path, source=write(store.parent / "late", step="0"), order=0)
    path = machine("b") / "trials" / "t" / "checkpoint"
    assert fetch_folder(path, newer_than=2) == [] and not path.exists()
    assert fetch_folder(path, newer_than=1) == [] and read(path) == {"step": "2", "deep/state": "x"}
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint"]
    assert kept_folders(path.parent.parent) == ["t"] and kept_files(path)
    forget(path)
    assert kept_files(path) == {} and not list((store / "trials" / "t").rglob("step"))


def test_older_versions_are_deleted_when_a_newer_one_is_whole(machine: Machine, store: Path) -> None:
    path = machine("a") / "checkpoint"
    for step in (1, 2, 3):
        keep_folder(write(path, step=str(step)), order=step)
        assert [int(p.name[:12]) for p in (store / "checkpoint").iterdir() if any(p.iterdir())] == [step]


@pytest.mark.parametrize("damage", ["changed", "missing", "half", "manifest"])
def test_a_damaged_or_half_version_is_told_and_dropped(
    damage: str, machine: Machine, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(machine("a") / "checkpoint", step="1")
    keep_folder(path, order=1)
    with monkeypatch.context() as patched:
        # as where the process is killed before it has deleted the older one
        patched.setattr(Transport, "remove", lambda *arguments, **options: None)
        keep_folder(write(path, step="2"), order=2)
    newest = max((store / "checkpoint").iterdir())
    if damage == "changed":
        (newest / "files" / "step").write_text("3")
    elif damage == "missing":
        (newest / "files" / "step").unlink()
    elif damage == "half":
        (newest / "manifest.json").unlink()
    else:
        (newest / "manifest.json").write_text("{")
    path = machine("b") / "checkpoint"
    if damage == "half":
        assert fetch_folder(path) == [] and read(path) == {"step": "1"} and newest.exists(), (
            "it may be under way"
        )
        monkeypatch.setattr(vault, "_LONGEST_UPLOAD", 0.0)
    told = fetch_folder(path)
    assert read(path) == {"step": "1"} and len(told) == 1
    assert ("half a checkpoint" if damage == "half" else "a damaged checkpoint") in told[0]
    assert fetch_folder(path) == [] and not newest.exists()


def test_a_fault_of_this_machine_deletes_nothing_at_the_address(
    machine: Machine, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(machine("a") / "trials" / "t" / "model", weights="1")
    keep_folder(path)
    before = read(store)

    def vanishes(new: Path, path: Path) -> None:
        shutil.rmtree(new)
        take_place(new, path)

    path = machine("b") / "trials" / "t" / "model"
    with monkeypatch.context() as patched, pytest.raises(FileNotFoundError):
        patched.setattr(vault, "take_place", vanishes)
        fetch_folder(path)
    assert read(store) == before
    assert fetch_folder(path) == [] and read(path) == {"weights": "1"}


def test_a_download_is_left_alone_by_the_end_of_its_trial(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(machine("a") / "trials" / "t" / "model", config="1", weights="2")
    keep_folder(path)
    real = Transport.download

    def meanwhile(self: Transport, name: str, file: Path, **how: float) -> None:
        real(self, name, file, **how)
        remove_checkpoint(path.parent)

    monkeypatch.setattr(Transport, "download", meanwhile)
    path = machine("b") / "trials" / "t" / "model"
    killed = write(path.with_name(".model.of-a-killed-process"), config="1")
    assert fetch_folder(path) == [] and read(path) == {"config": "1", "weights": "2"}
    assert not killed.exists() and [file.name for file in path.parent.iterdir()] == ["model"]


def test_what_fails_on_this_machine_is_said_at_once(machine: Machine, store: Path, tmp_path: Path) -> None:
    """Not asked again for ten minutes, and not laid at the store's door."""
    transport = Transport(store.as_uri())
    transport.write("large", bytes(1 << 20))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))  # as of a disk that is full
    try:
        with pytest.raises(OSError) as full:
            transport.download("large", tmp_path / "file", patience=5.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(IsADirectoryError):
        transport.upload(tmp_path, "folder", patience=5.0)
    assert full.value.errno == errno.EFBIG
    with pytest.raises(NotKept, match="nothing is missing"):
        transport.download("nothing", tmp_path / "file")


def test_what_is_always_the_same_is_kept_once(machine: Machine, store: Path) -> None:
    path = write(machine("a") / "data" / "mqar", rows="1")
    keep_folder(path, once=True)
    before = {file: file.stat().st_mtime_ns for file in store.rglob("*")}
    keep_folder(path, once=True)
    keep_folder(write(path, rows="2"), once=True)
    assert {file: file.stat().st_mtime_ns for file in store.rglob("*")} == before


def test_a_machine_downloads_a_data_set_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_folder(write(machine("a") / "data" / "mqar", rows="1", labels="2"), once=True)
    downloaded: list[str] = []
    real = Transport.download

    def counted(self: Transport, name: str, file: Path, **how: float) -> None:
        downloaded.append(file.name)
        real(self, name, file, **how)

    monkeypatch.setattr(Transport, "download", counted)
    path = machine("b") / "data" / "mqar"
    assert bring_data(path) == bring_data(path) == []
    assert sorted(downloaded) == ["labels", "rows"] and read(path) == {"rows": "1", "labels": "2"}


def test_a_home_is_wherever_fsspec_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def become(name: str) -> Path:
        monkeypatch.setenv("RECALLFRONT_STATE", str(tmp_path / name))
        return home_folder("memory://team/home")

    check_home(become("a"))
    path = write(become("a") / "trials" / "t" / "model", weights="1", deep__state="2")
    keep_folder(path)
    keep_file(path / "weights")
    path = become("b") / "trials" / "t" / "model"
    assert fetch_folder(path) == [] and read(path) == {"weights": "1", "deep/state": "2"}
    assert kept_folders(path.parent.parent) == ["t"]
    forget(path)
    assert kept_files(path) == {} and fsspec.filesystem("memory").find("/team/home") == []


def test_a_manifest_leads_nowhere_else(machine: Machine, store: Path) -> None:
    folder = write(store / "data" / "000000000000-aaaaaaaaaaaa", **{"manifest.json": ""})
    (folder / "manifest.json").write_text(seal({"files": {"../../../outside": "0" * 64}}))
    told = fetch_folder(machine("b") / "data")
    assert "leaves its folder" in told[0] and not list(store.parent.rglob("outside"))


def test_within_a_local_home_nothing_is_done(tmp_path: Path) -> None:
    path = write(home_folder(tmp_path / "home") / "trials" / "t", step="1")
    keep_folder(path)
    keep_file(path / "step")
    forget(path)
    upload = Upload(path)
    upload.offer(1)
    assert upload.finish(0) and fetch_folder(path) == [] and not fetch_file(path / "step")
    assert read(tmp_path) == {"home/trials/t/step": "1"}


def test_a_store_that_stays_away_is_said(machine: Machine, tmp_path: Path) -> None:
    path = write(machine("a") / "x", step="1") / "step"
    (tmp_path / "store").write_text("a file, where the folder was")
    with pytest.raises(HomeAway, match="home 'file://.*/store': cannot be written to"):
        keep_file(path, patience=0.2)


def test_an_upload_that_fails_is_said_and_the_next_one_is_kept(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no such operation in this store")

    path = write(machine("a") / "checkpoint", step="1")
    upload = Upload(path)
    with monkeypatch.context() as patch:
        patch.setattr(Transport, "upload", refusing)
        upload.offer(1)
        assert upload.finish(30)
    assert upload.notices == ["the checkpoint of step 1 was not kept (no such operation in this store)"]
    upload.offer(2)
    assert upload.finish(30) and upload.kept == 2
    upload.close()


def test_a_version_of_the_same_step_takes_nothing_from_the_one_under_way(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that is ended early is saved once more, at the step of its last checkpoint."""
    may, began = threading.Event(), threading.Event()
    real = Transport.upload

    def slow(self: Transport, file: Path, name: str, **how: float) -> None:
        began.set()
        assert may.wait(30)
        real(self, file, name, **how)

    monkeypatch.setattr(Transport, "upload", slow)
    path = write(machine("a") / "checkpoint", step="1", weights="one")
    upload = Upload(path)
    upload.offer(1)
    assert began.wait(30)
    copy = shutil.copytree

    def late(*given: Any, **how: Any) -> Any:
        may.set()
        time.sleep(0.5)  # in which the first version goes on
        return copy(*given, **how)

    monkeypatch.setattr(shutil, "copytree", late)
    upload.offer(1)
    assert upload.finish(30)
    upload.close()
    assert upload.kept == 1 and not upload.notices
    assert not list(path.parent.glob(".checkpoint.*")), "nothing of a version is left behind"


def test_uploads_run_beside_and_only_the_newest_counts(
    machine: Machine, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    may, began = threading.Event(), threading.Event()
    kept: list[str] = []
    real = Transport.upload

    def slow(self: Transport, file: Path, name: str, **how: float) -> None:
        began.set()
        assert may.wait(30)
        kept.append(file.read_text())
        real(self, file, name, **how)

    monkeypatch.setattr(Transport, "upload", slow)
    path = machine("a") / "checkpoint"
    upload = Upload(path)
    for step in (1, 2, 3):
        # as training does: a new folder in the place of the old one
        write(path.with_name("new"), step=str(step)).rename(path)
        upload.offer(step)
        assert began.wait(30)
        path.rename(path.with_name(f"old-{step}"))
    assert not upload.finish(0.01)
    may.set()
    assert upload.finish(30) and kept == ["1", "3"]
    upload.close()
    assert upload.notices == [] and not list(path.parent.glob(".*"))
    path = machine("b") / "checkpoint"
    assert fetch_folder(path) == [] and read(path) == {"step": "3"}
