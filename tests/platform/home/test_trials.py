"""A trial whose home is at an address: it moves from machine to machine, and each has only what it needs."""

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recallfront.platform.home import home_folder
from recallfront.platform.home.data import prepared
from recallfront.platform.home.transport import HomeAway
from recallfront.platform.home.upload import Upload
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.trial import body, holding, measure
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.checkpoints import checkpoints
from recallfront.platform.trial.quiet import Device
from recallfront.platform.trial.reference import kept_scale
from recallfront.platform.trial.training import Training
from recallfront.platform.trial.watchdog import leave_word, take_word
from recallfront.platform.trial.workplace import Workplace, read_workplace, workplace_json
from recallfront.sweeps.base import seal
from recallfront.sweeps.trial import TrialConfig
from tests.platform.specs import tiny_spec

# DeepSpeed's ZeRO uses what torch deprecates.
pytestmark = [
    pytest.mark.usefixtures("quick_collections"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]

Machine = Callable[[str], Workplace]
SPEC = tiny_spec(space=[{"architecture": "window", "window_size": 4}])


@pytest.fixture
def config() -> TrialConfig:
    block, knobs = next(SPEC.grid())
    return SPEC.trial(block, knobs, 0)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes this process a machine of a name -> where a trial runs there, as the driver tells it."""
    monkeypatch.setenv("RECALLFRONT_STATE", str(tmp_path / "driver"))
    home = home_folder((tmp_path / "store").as_uri())
    path, digest = prepared(SPEC.task, home)
    told = workplace_json(Workplace(home=home, data=path, data_digest=digest, code_version=code_version()))
    assert str(tmp_path / "driver") not in str(told), "paths of the driver's machine mean nothing elsewhere"

    def become(name: str) -> Workplace:
        monkeypatch.setenv("RECALLFRONT_STATE", str(tmp_path / name))
        return read_workplace(told)

    return become


def losses(reports: list[Report]) -> dict[int, float]:
    return {step: value for report in reports for name, value, step, _ in report.rows if name == "loss"}


def test_a_trial_moves_and_ends_as_if_it_had_stayed(
    machine: Machine, config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = list(run_trial(config, replace(machine("still"), scratch="alone")))
    assert not (tmp_path / "store" / "alone").exists(), "scratch is nobody else's"

    first = run_trial(config, machine("a"))
    before = [next(first), next(first)]
    assert before[-1].step == 10
    # waits for the upload; a machine that is lost instead leaves what it had uploaded
    first.close()
    shutil.rmtree(tmp_path / "a")
    with monkeypatch.context() as patched:
        patched.setattr(measure, "figures_of", None)
        patched.setattr("recallfront.sweeps.data._build", None)
        after = list(run_trial(config, machine("b")))
    assert after[-1].status is Status.FINISHED, after[-1].traceback
    assert after[1].step == 10, "it went on from the checkpoint"
    assert losses(after) == losses(undisturbed) == losses(before) | losses(after)
    assert after[-1].figures["test_loss"] == undisturbed[-1].figures["test_loss"]

    # a driver elsewhere learns how it ended, and trains nothing
    shutil.rmtree(tmp_path / "b")
    place = machine("c")
    told = list(run_trial(config, place))
    assert len(told) == 1 and told[0].status is Status.FINISHED
    assert told[0].figures == after[-1].figures and told[0].weights == str(place.folder(config) / "model")
    kept = {path.name for path in (tmp_path / "store" / "trials").glob("*/*")}
    assert kept == {"model", "result.json"}, "a trial that has ended needs no checkpoint"


def test_of_two_machines_that_train_it_at_once_the_first_to_end_has_the_result(
    machine: Machine, config: TrialConfig, tmp_path: Path
) -> None:
    """Two sweeps have the trial; no lock reaches from one machine to the other."""
    slow = run_trial(config, machine("a"))
    begun = [next(slow), next(slow)]
    quick = list(run_trial(config, machine("b")))
    kept = {path: path.read_bytes() for path in (tmp_path / "store" / "trials").rglob("*") if path.is_file()}
    place = machine("a")
    whole = begun + list(slow)
    end = whole[-1]
    assert end.status is Status.FINISHED and end.figures == quick[-1].figures
    assert "another machine has ended the trial meanwhile: its result is used" in end.notices
    assert losses(whole) == losses(quick), "its own curve"
    assert end.weights == str(place.folder(config) / "model") and Path(end.weights).exists()
    assert {path: path.read_bytes() for path in kept} == kept, "what the other sweep recorded is there"
    names = [path for path in (tmp_path / "store" / "trials").rglob("*") if path.is_file()]
    assert sorted(names) == sorted(kept), "and nothing else"


def often_saved(config: TrialConfig) -> TrialConfig:
    training = config.training.model_copy(update={"checkpoint_seconds": 0.0, "steps": 30})
    return config.model_copy(update={"training": training})


def test_no_checkpoint_stays_where_a_trial_ended_for_good(
    machine: Machine, config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver, elsewhere, deletes only what the address has."""
    config, real = often_saved(config), Training._train_step

    def step(training: Training, *rows: Any) -> Any:
        return real(training, *rows) * (float("nan") if training.step > 15 else 1.0)

    monkeypatch.setattr(Training, "_train_step", step)
    *_, last = run_trial(config, machine("a"))
    assert last.status is Status.DIVERGED, last.traceback
    assert list((tmp_path / "store" / "trials").rglob("checkpoint")), "it was saved at step 10"
    assert not checkpoints(machine("a").folder(config))


def test_a_trial_that_is_ended_early_is_saved_at_the_address_alone(
    machine: Machine, config: TrialConfig
) -> None:
    first = run_trial(config, machine("a"))
    assert [next(first).step, next(first).step] == [0, 10]
    first.close()
    assert not checkpoints(machine("a").folder(config))
    again = run_trial(config, machine("a"))
    assert [next(again).step, next(again).step] == [0, 10], "it goes on from there"
    again.close()


def test_what_is_saved_stays_for_another_process_of_the_sweep_that_has_taken_it_over(
    machine: Machine, config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial is promoted on the same machine while its former process still uploads."""
    place, real = replace(machine("a"), sweep="one"), Upload.finish
    own, promoted = holding._PROCESS, run_trial(config, place)

    def finish(upload: Upload, seconds: float) -> bool:
        is_kept = real(upload, seconds)
        monkeypatch.setattr(Upload, "finish", real)
        monkeypatch.setattr(holding, "_PROCESS", "another")
        assert [next(promoted).step, next(promoted).step] == [0, 10]
        monkeypatch.setattr(holding, "_PROCESS", own)
        return is_kept

    monkeypatch.setattr(Upload, "finish", finish)
    first = run_trial(config, place)
    assert [next(first).step, next(first).step] == [0, 10]
    first.close()
    assert checkpoints(place.folder(config))
    promoted.close()


def test_a_fetched_checkpoint_is_newer_than_what_an_interruption_left(
    machine: Machine, config: TrialConfig
) -> None:
    config = often_saved(config)
    folder = machine("a").folder(config)
    first = run_trial(config, machine("a"))
    assert [next(first).step, next(first).step] == [0, 10]
    shutil.copytree(folder / "checkpoint", folder / "left")
    first.close()
    second = run_trial(config, machine("b"))
    assert [next(second).step, next(second).step, next(second).step] == [0, 10, 20]
    second.close()
    (folder / "left").rename(folder / "checkpoint.new")
    third = run_trial(config, machine("a"))
    assert [next(third).step, next(third).step] == [0, 20]
    third.close()


def test_a_scale_that_was_set_for_good_meanwhile_stays(
    machine: Machine, config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = machine("a")
    for_good = seal({"seconds": {"products": 2.0}, "final": True})

    def figures(config: TrialConfig, model: object, device: str, scale: Path, precise: object) -> Any:
        kept_scale(scale, ["products"], lambda: {"products": 3.0}, final=False)
        kept = tmp_path / "store" / "measurements" / scale.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(for_good)
        return {"measurement": {}}

    monkeypatch.setattr(measure, "figures_of", figures)
    with closing(Device("cpu")) as device:
        measure.measured(config, device=device, folder=place.measurements, code_version="c")
    found = [*place.measurements.glob("reference-*.json"), *(tmp_path / "store").rglob("reference-*.json")]
    assert [file.read_text() for file in found] == [for_good, for_good]


def test_a_damaged_result_is_told_and_the_trial_run_again(
    machine: Machine, config: TrialConfig, tmp_path: Path
) -> None:
    first = list(run_trial(config, machine("a")))
    weights = next((tmp_path / "store" / "trials").rglob("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    again = list(run_trial(config, machine("b")))
    assert again[-1].status is Status.FINISHED and losses(again) == losses(first)
    said = " ".join(again[-1].notices)
    assert "a damaged model was dropped" in said and "a damaged result was dropped" in said


def test_what_is_damaged_here_is_fetched_and_nothing_there_deleted(
    machine: Machine, config: TrialConfig, tmp_path: Path
) -> None:
    first = list(run_trial(config, machine("a")))
    here = machine("a").folder(config) / "model"
    shutil.rmtree(here)  # the disk was full, or a cache was cleared
    again = list(run_trial(config, machine("a")))
    assert len(again) == 1 and again[0].figures == first[-1].figures, "it is not trained again"
    assert (here / "model.safetensors").exists()
    assert len([path for path in (tmp_path / "store" / "trials").rglob("result.json")]) == 1


def test_a_result_is_here_only_with_its_weights(
    machine: Machine, config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store goes away between the two; the next attempt finds both."""
    first = list(run_trial(config, machine("a")))

    def away(path: Path, **_: object) -> list[str]:
        raise HomeAway("the store does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(body, "fetch_folder", away)
        (lost,) = list(run_trial(config, machine("b")))
    assert lost.status is Status.LOST and not (machine("b").folder(config) / "result.json").exists()
    (told,) = list(run_trial(config, machine("b")))
    assert told.figures == first[-1].figures


def test_word_of_a_killed_attempt_reaches_the_next_machine(machine: Machine, config: TrialConfig) -> None:
    word = Report(step=3, status=Status.TIMEOUT, failure="too long")
    leave_word(machine("a").folder(config), word)
    assert take_word(machine("b").folder(config)) == word
    assert take_word(machine("c").folder(config)) is None
