"""Files of a home that were truncated, emptied or changed by one bit: told and computed again, never a wrong result."""

import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from recallfront.__main__ import run
from recallfront.platform.home import file_digests
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.results.status import Status
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps import TrialConfig, data
from recallfront.sweeps.data import prepare
from tests.platform.specs import tiny_spec
from tests.platform.stores import ready_home

pytestmark = [
    pytest.mark.attack,
    pytest.mark.slow,
    # whether the scale of throughput is read depends on what runs beside it
    pytest.mark.alone,
    pytest.mark.usefixtures("quick_collections"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]

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
# locks hold nothing; what Hugging Face's datasets notes beside its tables is not read for a result
_WITHOUT_EFFECT = re.compile(r"\.lock$|/cache-|^data/.*/(state|dataset_info)\.json$")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, quick_collections: None) -> tuple[Path, Trial, Trial]:
    """A home with a trial that has ended and one that was left after its checkpoint at step 20 of 30."""
    folder = tmp_path_factory.mktemp("home")
    spec = tiny_spec(
        space=[{"architecture": "window", "window_size": 4}], training={"steps": 30}, seeds=[0, 1]
    )
    (block, knobs), *_ = spec.grid()
    path, digest = prepare(spec.task, folder / "data")
    place = Workplace(home=folder, data=path, data_digest=digest, code_version=code_version())
    ended, left = ((spec.trial(block, knobs, seed), place) for seed in spec.seeds)
    list(run_trial(*ended))
    reports = run_trial(*left)
    for report in reports:
        if report.step == 20:
            reports.close()
    return folder, ended, left


def outcome(trial: Trial) -> tuple[float, dict[str, str], list[str]]:
    """Recall, the digests of the weights, and what was told."""
    config, place = trial
    data.load.cache_clear()
    last = list(run_trial(config, place))[-1]
    assert last.status is Status.FINISHED, last.traceback
    return last.figures["recall"], file_digests(place.folder(config) / "model"), last.notices


def copied(to: Path, trial: Trial) -> Trial:
    config, place = trial
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(place.home, to)
    return config, replace(place, home=to, data=to / place.data.relative_to(place.home))


def _measure_anew(place: Workplace) -> None:
    """The scale is read where something is measured."""
    for cached in place.measurements.glob("[!r]*.json"):
        cached.unlink()


@pytest.mark.timeout(0)
def test_whatever_file_is_damaged_trials_end_as_before_and_say_it(
    home: tuple[Path, Trial, Trial],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float | None,
    seed: int,
) -> None:
    folder, ended, left = home
    whole = {id(trial): outcome(copied(tmp_path / "whole", trial)) for trial in (ended, left)}
    assert not any(told for *_, told in whole.values())
    rng = random.Random(seed)
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    for name in names:
        content = (folder / name).read_bytes()
        if not content or _WITHOUT_EFFECT.search(name):
            continue
        trial = ended if ended[1].folder(ended[0]).name in name else left
        # all of them if there is time
        for damage in rng.sample(sorted(DAMAGE), 3 if seconds is not None else 1):
            config, place = copied(tmp_path / "damaged", trial)
            (place.home / name).write_bytes(DAMAGE[damage](content, rng))
            if "/reference-" in name:
                _measure_anew(place)
            recall, weights, told = outcome((config, place))
            assert (recall, weights) == whole[id(trial)][:2], (name, damage)
            assert sum("damaged" in notice for notice in told) == 1, (name, damage, told)


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_a_damaged_store_is_one_sentence(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    """SQLite keeps no digests: a bit that is flipped within a value is not noticed, and nothing worse than that."""
    path, rng = ready_home(tmp_path) / "mlflow.db", random.Random(seed)
    content = path.read_bytes()
    for command in (["status"], ["front", "tiny"], ["rerun", "0123456"]):
        path.write_bytes(DAMAGE[damage](content, rng))
        code = run([*command, "--home", str(tmp_path)])
        told = capsys.readouterr().err
        assert code in (0, 2) and told.count("\n") == (code == 2), (command, told)
        assert "Traceback" not in told
