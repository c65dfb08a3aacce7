"""What a trial finds damaged, or half written: it is told, dropped and made again."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recallfront.platform import home
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.results.status import Status
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.nodes import Nodes
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps import SweepSpec, TrialConfig, data
from recallfront.sweeps.data import load_or_rebuild, prepare
from tests.platform.specs import TINY
from tests.platform.trial import trials
from tests.platform.trial.trials import rows_of, setting

pytestmark = trials.MARKS


def test_a_checkpoint_that_is_malicious_is_dropped_and_runs_nothing(tmp_path: Path) -> None:
    import pickle

    config, place = setting(tmp_path)
    folder, mark = place.folder(config) / "checkpoint" / "deepspeed", tmp_path / "mark"
    folder.mkdir(parents=True)

    class Malicious:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(mark),)

    (folder / "mp_rank_00_model_states.pt").write_bytes(pickle.dumps(Malicious()))
    last = list(run_trial(config, place))[-1]
    assert last.status is Status.FINISHED and not mark.exists()
    assert "damaged checkpoint was dropped" in " ".join(last.notices)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    yield Workplace(home=tmp_path, data=tmp_path, data_digest="d", code_version="c")


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path, place: Workplace) -> None:
    target = tmp_path / "checkpoint"

    def write(name: str) -> Callable[[Path], None]:
        return lambda folder: (folder / name).touch()

    Nodes(place, tmp_path).replace_folder(target, write("a"))

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        Nodes(place, tmp_path).replace_folder(target, fail)
    assert sorted(p.name for p in target.iterdir()) == ["a", "digests.json"]
    Nodes(place, tmp_path).replace_folder(target, write("b"))
    assert sorted(p.name for p in target.iterdir()) == ["b", "digests.json"]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("checkpoint")] == ["checkpoint"]


def moved(home: Path, trial: tuple[TrialConfig, Workplace]) -> tuple[TrialConfig, Workplace]:
    """A copy of a trial's home."""
    config, place = trial
    return config, replace(place, home=Path(shutil.copytree(place.home, home)))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialConfig, Workplace]:
    """A trial that was left after its checkpoint at step 20 of 30."""
    config, place = setting(tmp_path_factory.mktemp("stopped"), training={"steps": 30})
    reports = run_trial(config, place)
    for report in reports:
        if report.step == 20:
            reports.close()
    return config, place


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialConfig, Workplace]:
    config, place = setting(tmp_path_factory.mktemp("ended"))
    list(run_trial(config, place))
    return config, place


@pytest.fixture
def interrupted(stopped: tuple[TrialConfig, Workplace], tmp_path: Path) -> tuple[TrialConfig, Workplace]:
    return moved(tmp_path / "home", stopped)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _change_a_digit(path: Path) -> None:
    document = json.loads(path.read_text())
    document["figures"]["recall"] = 0.999
    path.write_text(json.dumps(document))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a digit": _change_a_digit,
    "flipped": _flip,
    "truncated": _truncate,
    "empty": _empty,
    "missing": Path.unlink,
}


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_a_damaged_checkpoint_is_told_and_dropped_and_the_trial_begins_again(
    interrupted: tuple[TrialConfig, Workplace], damage: str
) -> None:
    config, place = interrupted
    (file,) = (place.folder(config) / "checkpoint" / "deepspeed").glob("*.pt")
    DAMAGE[damage](file)
    reports = list(run_trial(config, place))
    assert reports[-1].status is Status.FINISHED, reports[-1].traceback
    assert [step for step, _ in rows_of(reports, "loss")] == list(range(1, 31))
    assert sum("damaged checkpoint" in notice for notice in reports[-1].notices) == 1
    assert not any(place.folder(config).glob("checkpoint*"))


@pytest.mark.parametrize("renames", [1, 2])
def test_a_checkpoint_is_whole_at_any_moment(
    interrupted: tuple[TrialConfig, Workplace], monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """The process is killed before the first rename of the folder, or before the second."""
    config, place = interrupted
    rename, done = Path.rename, []

    def dies(path: Path, target: Path) -> Path:
        if path.name.startswith("checkpoint"):
            done.append(path.name)
            if len(done) == renames:
                raise SystemExit
        return rename(path, target)

    folder = place.folder(config) / "checkpoint"
    content = {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    def write(new: Path) -> None:
        for name, text in content.items():
            if name != "digests.json":
                path = new / ("deepspeed" if name.endswith(".pt") else ".") / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(text)

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(SystemExit):
        Nodes(place, folder.parent).replace_folder(folder, write)
    monkeypatch.undo()
    reports = list(run_trial(config, place))
    assert reports[1].step == 20 and reports[-1].status is Status.FINISHED and not reports[-1].notices


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("result.json", "a digit"),
        ("result.json", "empty"),
        ("model/model.safetensors", "flipped"),
        ("model/recallfront.json", "missing"),
    ],
)
def test_a_damaged_result_is_computed_again(
    ended: tuple[TrialConfig, Workplace], tmp_path: Path, file: str, damage: str
) -> None:
    (whole,) = run_trial(*ended)
    config, place = moved(tmp_path / "home", ended)
    DAMAGE[damage](place.folder(config) / file)
    again = list(run_trial(config, place))
    assert again[-1].status is Status.FINISHED and again[-1].figures["recall"] == whole.figures["recall"]
    assert len(again[-1].notices) == 1 and "a damaged result was dropped" in again[-1].notices[0]
    assert len(list(run_trial(config, place))) == 1, "and this result is whole"


@pytest.mark.parametrize("which", ["ended", "interrupted"])
def test_what_the_machine_keeps_from_being_read_stays(
    which: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with too many open files, a broken disk, or an object store that is away for longer than is waited for."""
    config, place = moved(tmp_path / "again", request.getfixturevalue(which))

    def fails(file: Path) -> str:
        raise OSError(errno.EMFILE, "Too many open files", str(file))

    files = {file for file in place.folder(config).rglob("*") if file.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(home, "file_digest", fails)
        lost = list(run_trial(config, place))[-1]
    assert lost.status is Status.LOST and "Too many open files" in (lost.failure or "")
    assert {file for file in place.folder(config).rglob("*") if file.is_file()} == files
    again = list(run_trial(config, place))
    assert again[-1].status is Status.FINISHED and not again[-1].notices
    assert again[0].step == (0 if which == "interrupted" else 20)
    assert which == "ended" or again[1].step == 20, "it goes on from its checkpoint"


def test_a_home_that_was_moved_says_where_the_weights_are_now(
    ended: tuple[TrialConfig, Workplace], tmp_path: Path
) -> None:
    (report,) = run_trial(*moved(tmp_path / "new", ended))
    assert str(report.weights).startswith(str(tmp_path / "new"))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("manifest.json", "flipped"),
        ("manifest.json", "missing"),
        ("train/*.arrow", "flipped"),
        ("train/*.arrow", "truncated"),
        ("train/dataset_info.json", "empty"),
    ],
)
def test_damaged_data_are_built_again(tmp_path: Path, file: str, damage: str) -> None:
    config, place = setting(tmp_path)
    whole = load_or_rebuild(config.task, place.data, place.data_digest)[0]
    data.load.cache_clear()
    (path,) = place.data.glob(file)
    DAMAGE[damage](path)
    again, said = load_or_rebuild(config.task, place.data, place.data_digest)
    assert again.digest == whole.digest and said is not None and "damaged data were built again" in said
    data.load.cache_clear()
    assert load_or_rebuild(config.task, place.data, place.data_digest)[1] is None
    (path,) = place.data.glob("manifest.json")
    path.write_text("{}")
    assert prepare(config.task, tmp_path / "data") == (place.data, place.data_digest)


def test_damaged_data_of_relative_paths_are_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are below the driver's working directory, whatever the worker's is."""
    (tmp_path / "corpus").mkdir()
    for number in range(60):
        (tmp_path / "corpus" / f"{number}.txt").write_text(f"{number} was here, and {number} was there. " * 8)
    monkeypatch.chdir(tmp_path)
    task = {"name": "text", "source": {"files": "corpus/*.txt"}, "length": 16, "vocab_size": 257}
    task |= {"train": {"tokens": 2000}, "validation": [{"tokens": 200}], "test": [{"tokens": 200}]}
    own = {key: value for key, value in TINY.items() if key != "task"} | {"task": task}
    spec = SweepSpec.model_validate(own | {"space": [{"architecture": "window", "window_size": 4}]})
    block, knobs = next(spec.grid())
    path, found = prepare(spec.task, tmp_path / "home" / "data")
    place = Workplace(tmp_path / "home", path, found, code_version())
    (path / "train.bin").write_bytes(b"damaged")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    last = list(run_trial(spec.trial(block, knobs, 0), place))[-1]
    assert last.status is Status.FINISHED, last.failure
    assert "damaged data were built again" in " ".join(last.notices)
