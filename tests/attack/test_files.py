"""Files of a home that were truncated, emptied or changed by one bit: told and made again, never a wrong result."""

import random
import re
import shutil
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from recallfront.__main__ import run
from recallfront.platform import run_sweep
from recallfront.platform.home import file_digests
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.lineage.environment import collect
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.lock import mark_driver
from recallfront.platform.sweep.run import _set_up
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.platform.tracking.writer import TrackingWriter
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps import SweepSpec, TrialConfig, data
from recallfront.sweeps.data import prepare
from tests.platform.specs import tiny
from tests.platform.stores import ready_store

pytestmark = [
    pytest.mark.attack,
    pytest.mark.slow,
    # whether the scale of throughput is read depends on what runs beside it
    pytest.mark.alone,
    pytest.mark.usefixtures("quick_collections"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]

# a sweep whose folder also has the file of a rule
SWEEP = tiny(
    space=[{"architecture": "window", "window_size": 4}],
    training={"steps": 30},
    early_stopping={"first_rung_steps": 10},
)
Trial = tuple[TrialConfig, Workplace]
Damage = Callable[[bytes, random.Random], bytes]


def _flip(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


DAMAGE: dict[str, Damage] = {
    "truncated": lambda content, rng: content[: rng.randrange(1, len(content))],
    "emptied": lambda content, rng: b"",
    "one bit flipped": _flip,
}
_OF_TRIALS = ("data/", "measurements/", "trials/")
_OF_DRIVERS = ("fronts/", "spool/", "sweeps/")
# locks hold nothing; what Hugging Face's datasets notes beside its tables is not read for a result
_WITHOUT_EFFECT = re.compile(r"\block$|/cache-|^data/.*/(state|dataset_info)\.json$")


@dataclass
class Home:
    """The home of a sweep that has ended, and of a trial that was left after its checkpoint at step 20 of 30."""

    folder: Path
    ended: Trial
    left: Trial
    run_id: str  # of the ended trial

    def names(self, folders: tuple[str, ...]) -> list[str]:
        """The files below some folders that have something to damage."""
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file() and path.stat().st_size]
        names = [path.relative_to(self.folder).as_posix() for path in files]
        return [name for name in names if name.startswith(folders) and not _WITHOUT_EFFECT.search(name)]

    def copied(self, folder: Path, folders: tuple[str, ...] = ("",)) -> Path:
        """Copy the home, or these folders of it, to a folder."""
        for name in folders:
            shutil.copytree(self.folder / name, folder / name)
        return folder

    def damaged(self, folder: Path, rng: random.Random, *names: str) -> dict[str, str]:
        """Damage each of these files of a copy in one way -> which way."""
        ways = {name: rng.choice(sorted(DAMAGE)) for name in names}
        for name, way in ways.items():
            (folder / name).write_bytes(DAMAGE[way]((folder / name).read_bytes(), rng))
        return ways


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, quick_collections: None) -> Home:
    folder, spec = tmp_path_factory.mktemp("home"), SweepSpec.model_validate(SWEEP)
    path, digest = prepare(spec.task, folder / "data")
    place = Workplace(home=folder, data=path, data_digest=digest, code_version=code_version(), sweep=spec.key)
    uri = ready_store(folder)
    _train_here(spec, place, uri)
    closed = run_sweep(spec, home=folder)
    assert (closed.ran, closed.answered) == (0, 1)
    (block, knobs), *_ = spec.grid()
    ended, left = ((spec.trial(block, knobs, seed), place) for seed in (0, 1))
    reports = run_trial(*left)
    for report in reports:
        if report.step == 20:
            reports.close()
    (trial,) = read_sweep(uri, spec.key).trials
    return Home(folder, ended, left, trial.run_id)


def _train_here(spec: SweepSpec, place: Workplace, uri: str) -> None:
    """What a sweep's driver does, with the trials in this process, which spares Ray's start."""
    with closing(TrackingWriter(uri, place.home / "spool" / f"{spec.key[:16]}.sqlite")) as writer:
        conductor, publisher = _set_up(spec, place, writer, uri, collect(place.home))
        mark_driver(spec.key, place.home, conductor.recorder.driver)
        conductor.recorder.open_sweep()
        with publisher:
            while (plan := conductor.next("here")) is not None:
                for report in run_trial(plan.config, place):
                    conductor.report("here", report)
                assert conductor.ended("here") is Status.FINISHED
        assert writer.flush(60.0)


def _outcome(trial: Trial, folder: Path) -> tuple[float, dict[str, str], list[str]]:
    """Of a trial that is run in a copy of its home: recall, the digests of the weights, and what was told."""
    config, place = trial
    place = replace(place, home=folder, data=folder / place.data.relative_to(place.home))
    data.load.cache_clear()
    last = list(run_trial(config, place))[-1]
    assert last.status is Status.FINISHED, last.traceback
    return last.figures["recall"], file_digests(place.folder(config) / "model"), last.notices


def _rounds(seconds: float | None) -> Iterator[int]:
    """One round of damages, or as many as there is time for."""
    deadline, rounds = time.monotonic() + (seconds or 0.0), 0
    while rounds == 0 or time.monotonic() < deadline:
        yield rounds
        rounds += 1


def _measure_anew(folder: Path) -> None:
    """The scale is read where something is measured."""
    for cached in folder.glob("measurements/[!r]*.json"):
        cached.unlink()


def test_whatever_file_of_a_trial_is_damaged_it_ends_as_before_and_says_it(
    home: Home, tmp_path: Path, seconds: float | None, seed: int
) -> None:
    whole = {}
    for trial in (home.ended, home.left):
        whole[trial[0].key] = _outcome(trial, home.copied(tmp_path / trial[0].key, _OF_TRIALS))
    assert not any(told for *_, told in whole.values())
    rng = random.Random(seed)
    for _ in _rounds(seconds):
        for name in home.names(_OF_TRIALS):
            trial = home.ended if home.ended[1].folder(home.ended[0]).name in name else home.left
            folder = home.copied(tmp_path / "damaged", _OF_TRIALS)
            ways = home.damaged(folder, rng, name)
            if "/reference-" in name:
                _measure_anew(folder)
            recall, weights, told = _outcome(trial, folder)
            assert (recall, weights) == whole[trial[0].key][:2], ways
            assert sum("damaged" in notice for notice in told) == 1, (ways, told)
            shutil.rmtree(folder)


class Command:
    """The command line in a home."""

    def __init__(self, capsys: pytest.CaptureFixture[str], home: Path, ways: dict[str, str]) -> None:
        self.capsys, self.home, self.ways = capsys, home, ways

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Run a command, which may be refused in one sentence -> its exit code and what it printed."""
        code = run([*arguments, "--home", str(self.home)])
        printed, told = self.capsys.readouterr()
        assert code in (0, 2) and "Traceback" not in told, (arguments, self.ways, told)
        assert told.count("\n") == 1 if code else not told or "is damaged" in told, (
            arguments,
            self.ways,
            told,
        )
        return code, printed


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_whatever_a_driver_keeps_is_damaged_the_sweep_goes_on_and_its_front_is_made_again(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: float | None, seed: int
) -> None:
    """All of its files at once."""
    study, rng, names = tmp_path / "tiny.yaml", random.Random(seed), home.names(_OF_DRIVERS)
    study.write_text(yaml.safe_dump(SWEEP))
    assert {f"{name.split('/')[0]}/" for name in names} == {*_OF_DRIVERS}

    def found(folder: Path, ways: dict[str, str]) -> list[object]:
        command = Command(capsys, folder, ways)
        assert [command(*asked)[0] for asked in (("run", str(study)), ("status",), ("logs", "tiny"))] == [
            0
        ] * 3
        fronts = sorted(folder.glob("fronts/*/front/*"))
        # Plotly draws the id of a picture at random
        files = [
            re.sub(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", b"", path.read_bytes()) for path in fronts
        ]
        return [command("front", "tiny", "--json"), [path.name for path in fronts], files]

    whole = found(home.copied(tmp_path / "whole"), {})
    for number in _rounds(seconds):
        # a new one each time: MLflow keeps its store open
        folder = home.copied(tmp_path / f"damaged-{number}")
        ways = home.damaged(folder, rng, *names)
        assert found(folder, ways) == whole, ways
        shutil.rmtree(folder)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_whatever_artifact_is_damaged_is_one_sentence_and_no_model_is_a_wrong_one(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: float | None, seed: int
) -> None:
    """A letter that is another one within a value is noticed, too: the runs have digests."""
    study, rng = tmp_path / "tiny.yaml", random.Random(seed)
    study.write_text(yaml.safe_dump(SWEEP))
    read = ("/spec.json", "/lineage.json", "/recallfront.json", "/model.safetensors")
    names = [name for name in home.names(("mlartifacts/",)) if name.endswith(read)]
    assert len(names) == 5, "the sweep's run has a lineage as well"
    for round_, (number, name) in ((r, n) for r in _rounds(seconds) for n in enumerate(names)):
        folder = home.copied(tmp_path / f"damaged-{round_}-{number}")
        ways = home.damaged(folder, rng, name)
        command = Command(capsys, folder, ways)
        front, _ = command("front", "tiny")
        lineage, _ = command("lineage", home.run_id)
        written, _ = command("pick", "tiny", "--no-register", "--out", str(folder / "model"))
        if "/model/" in name:
            assert (front, lineage, written) == (0, 0, 2), ways
        elif name.endswith("spec.json"):
            assert (front, lineage) == (2, 0), ways
            # its driver writes it anew
            assert (command("run", str(study))[0], command("front", "tiny")[0]) == (0, 0), ways
        else:
            assert (front, lineage, written) == (0, 2 if home.run_id in name else 0, 0), ways
        shutil.rmtree(folder)


@pytest.mark.parametrize("way", sorted(DAMAGE))
def test_a_damaged_store_is_one_sentence(
    home: Home, tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    """SQLite keeps no digests: a bit that is flipped within a value may not be noticed, but for a trial's figures."""
    rng, content = random.Random(seed), (home.folder / "mlflow.db").read_bytes()
    for number, arguments in enumerate((("status",), ("front", "tiny"), ("rerun", "0123456"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "mlflow.db").write_bytes(DAMAGE[way](content, rng))
        Command(capsys, folder, {"mlflow.db": way})(*arguments)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
@pytest.mark.parametrize("result", ["one bit flipped", "whole"])
def test_a_bit_of_a_figure_in_the_store_is_one_sentence_and_the_next_run_makes_it_right(
    home: Home,
    tmp_path: Path,
    result: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    seconds: float | None,
    seed: int,
) -> None:
    """From the result in the trial's folder; where that is damaged, too, the trial runs again."""
    rng, spec = random.Random(seed), SweepSpec.model_validate(SWEEP)
    config, place = home.ended
    kept = (place.folder(config) / "result.json").relative_to(home.folder)
    before = read_sweep(f"sqlite:///{home.folder}/mlflow.db", "tiny").trials[0]
    whole = Command(capsys, home.folder, {})("front", "tiny", "--json")
    for number in _rounds(seconds):
        folder = home.copied(tmp_path / f"damaged-{number}")
        if result != "whole":
            (folder / kept).write_bytes(DAMAGE[result]((folder / kept).read_bytes(), rng))
        told, bit = before.tags["figures_sha256"], rng.randrange(62)
        name = rng.choice(told.partition(" ")[2].split(","))
        ways = {name: f"bit {bit}", kept.name: result}
        _flip_in_store(folder / "mlflow.db", name, bit)
        command = Command(capsys, folder, ways)
        caplog.clear()
        assert command("front", "tiny", "--json") not in (whole, (2, "")), ways
        (sentence,) = caplog.messages
        assert f"run {before.run_id} is damaged" in sentence and "recallfront.figures_sha256" in sentence
        uri = f"sqlite:///{folder}/mlflow.db"
        there = replace(place, home=folder, data=folder / place.data.relative_to(place.home))
        _train_here(spec, there, uri)
        (after,) = read_sweep(uri, "tiny").trials
        assert (after.run_id, after.status) == (before.run_id, Status.FINISHED), ways
        for same in ("recall", "validation_recall", "state_bytes"):
            assert after.metrics[same] == before.metrics[same], ways
        assert result != "whole" or command("front", "tiny", "--json") == whole, ways
        shutil.rmtree(folder)


def _flip_in_store(database: Path, metric: str, bit: int) -> None:
    with closing(sqlite3.connect(database)) as store, store:
        ((run, value),) = store.execute(
            "SELECT run_uuid, value FROM latest_metrics WHERE key = ? AND step = 30", (metric,)
        )
        (whole,) = struct.unpack(">q", struct.pack(">d", value))
        flipped = struct.unpack(">d", struct.pack(">q", whole ^ 1 << bit))
        own = "UPDATE latest_metrics SET value = ? WHERE key = ? AND run_uuid = ?"
        assert store.execute(own, (*flipped, metric, run)).rowcount == 1
