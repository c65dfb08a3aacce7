"""Whole sweeps that are interrupted or killed, and resumed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from recallfront.platform import run_sweep
from recallfront.platform.cluster.watch import RayLost
from recallfront.platform.results.status import Status
from recallfront.platform.status import sweeps_table
from recallfront.platform.sweep import run as sweep_run
from recallfront.platform.sweep.conductor import Conductor
from recallfront.platform.sweep.lock import only_driver
from recallfront.platform.tracking.ledger import UnknownRecord, read_sweep
from recallfront.platform.tracking.sender import Sender
from recallfront.platform.tracking.writer import TrackingWriter
from recallfront.platform.trial.body import run_trial
from recallfront.sweeps import SweepSpec
from tests.platform.specs import tiny, tiny_spec
from tests.platform.stores import ready_home, ready_store
from tests.platform.sweeps import history, stored, trials_of, wait_for, workplace

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


def test_an_interrupted_and_then_a_killed_driver_lose_nothing(tmp_path: Path) -> None:
    spec = tiny(
        name="disturbed",
        space=[{"architecture": "window", "window_size": [2, 4, 6, 8]}],
        training={"steps": 60, "evaluate_every": 20},
        concurrent=1,
    )
    file, home = tmp_path / "disturbed.yaml", ready_home(tmp_path / "home")
    file.write_text(yaml.safe_dump(spec))
    checked = SweepSpec.model_validate(spec)

    def results() -> set[str]:
        return {path.parent.name for path in home.glob("trials/*/result.json")}

    def is_saved() -> bool:
        return any(home.glob("trials/*/checkpoint/deepspeed"))

    # both in the middle of a trial; should that have ended before it is seen, the next has begun
    with _driver(file, home) as driver:
        wait_for(lambda: is_saved() or results(), driver=driver)
        _interrupt(driver, signal.SIGINT, checked, home)
    known = len(results())
    with _driver(file, home) as driver:
        wait_for(lambda: len(results()) > known, driver=driver)
        wait_for(lambda: is_saved() or len(results()) > known + 1, driver=driver)
        os.kill(driver.pid, signal.SIGKILL)
    assert 0 < len(results()) < 4

    resumed = run_sweep(checked, home=home)
    after = {trial.trial_key: trial for trial in stored(resumed)}
    assert len(stored(resumed)) == len(after) == 4, "no run is doubled"
    place = workplace(checked, tmp_path / "undisturbed")
    for config in trials_of(checked):
        reports, twin = list(run_trial(config, place)), after[config.key]
        assert twin.status is Status.FINISHED and twin.metrics["recall"] == reports[-1].figures["recall"]
        rows = [row for report in reports for row in report.rows]
        losses = [(step, value) for name, value, step, _ in rows if name == "loss"]
        assert history(resumed, twin.run_id, "loss") == losses


def test_a_sweep_that_is_told_to_end_says_so(tmp_path: Path) -> None:
    """As a scheduler's SIGTERM may: early, when the first trial is about to start."""
    spec = tiny(name="ended", space=[{"architecture": "window"}], training={"steps": 10**6}, concurrent=1)
    file, home = tmp_path / "ended.yaml", ready_home(tmp_path / "home")
    file.write_text(yaml.safe_dump(spec))
    checked = SweepSpec.model_validate(spec)
    with _driver(file, home) as driver:
        wait_for(lambda: bool(list(home.glob("trials/*/"))), driver=driver)
        _interrupt(driver, signal.SIGTERM, checked, home)


@contextmanager
def _driver(file: Path, home: Path) -> Iterator["subprocess.Popen[str]"]:
    driver = subprocess.Popen(
        # a shell's background job ignores SIGINT, and hands that on
        [
            "env",
            "--default-signal=INT",
            sys.executable,
            "-m",
            "recallfront",
            "run",
            str(file),
            "--home",
            str(home),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield driver
    finally:
        driver.kill()
        driver.communicate()


def _interrupt(driver: "subprocess.Popen[str]", number: signal.Signals, spec: SweepSpec, home: Path) -> None:
    """What a sweep says and records that is interrupted."""
    driver.send_signal(number)
    _, errors = driver.communicate(timeout=300)
    assert driver.returncode == 130, errors
    assert errors.strip() == "recallfront: interrupted; run the sweep again to resume it"
    record = read_sweep(f"sqlite:///{home / 'mlflow.db'}", spec.key)
    assert record.tags["status"] == "interrupted"
    assert Status.RUNNING not in {trial.status for trial in record.trials}


def test_an_interruption_before_anything_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While Ray starts."""

    @contextmanager
    def interrupted(address: str | None) -> Iterator[None]:
        raise KeyboardInterrupt
        yield

    home = ready_home(tmp_path / "home")
    monkeypatch.setattr(sweep_run, "ray_cluster", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(tiny_spec(), home=home)
    with pytest.raises(UnknownRecord):
        read_sweep(f"sqlite:///{home / 'mlflow.db'}", tiny_spec().key)


def test_an_interrupted_driver_waits_once_for_a_store_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[float] = []

    def away(*_: object, **__: object) -> bool:
        raise ConnectionError("away")

    def interrupted(conductor: Conductor, *_: object) -> None:
        conductor.recorder.open_sweep()
        wait_for(conductor.recorder.sweep_run_id)
        monkeypatch.setattr(Sender, "step", away)
        began.append(time.monotonic())
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_run, "_run", interrupted)
    monkeypatch.setattr(sweep_run, "_FAREWELL_SECONDS", 1.0)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(tiny_spec(), home=ready_home(tmp_path / "home"))
    assert 1.0 <= time.monotonic() - began[0] < 25.0, "closing its queue waits for 30 s"


@pytest.mark.parametrize(
    ("error", "waits"),
    [(KeyboardInterrupt, True), (RayLost, False)],
    ids=["interrupted", "its Ray is lost, and it ends soon"],
)
def test_an_interrupted_driver_waits_on_for_a_store_that_is_slow(
    error: type[BaseException], waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step: Any = Sender.step
    opened: list[TrackingWriter] = []

    def slow(*given: Any, **named: Any) -> bool:
        time.sleep(0.5)
        return bool(step(*given, **named))

    def interrupted(conductor: Conductor, *_: object) -> None:
        recorder = conductor.recorder
        recorder.open_sweep()
        wait_for(recorder.sweep_run_id)
        monkeypatch.setattr(Sender, "step", slow)
        for number in range(16):  # a request each
            recorder._writer.text(recorder.sweep_run, "waits", f"{number}.txt")
        opened.append(recorder._writer)
        raise error("ended")

    monkeypatch.setattr(sweep_run, "_run", interrupted)
    monkeypatch.setattr(sweep_run, "_FAREWELL_SECONDS", 3.0)
    monkeypatch.setattr(sweep_run, "_SLOW_SECONDS", 120.0)  # on a busy machine
    with pytest.raises(error):
        run_sweep(tiny_spec(), home=ready_home(tmp_path / "home"))
    assert (opened[0].backlog() == 0) is waits


def test_a_resumed_trial_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    spec = tiny_spec(training={"steps": 40})
    config = spec.trial(spec.blocks[0], {}, 0)
    whole = [row for report in run_trial(config, workplace(spec, tmp_path / "a")) for row in report.rows]
    place = workplace(spec, tmp_path / "b")
    interrupted = run_trial(config, place)
    for report in interrupted:
        if report.step == 20:
            interrupted.close()
    assert (place.folder(config) / "checkpoint").exists()
    rest = list(run_trial(config, place))
    assert rest[1].step == 20, (
        "the first report of training tells again what a lost driver may not have heard"
    )
    again = [row for report in rest for row in report.rows]
    assert [row[:3] for row in again] == [row[:3] for row in whole]
    assert not (place.folder(config) / "checkpoint").exists()


def test_a_search_resumes_where_it_was(tmp_path: Path) -> None:
    ready_home(tmp_path)
    space: list[dict[str, Any]] = [
        {"architecture": "window", "window_size": {"low": 2, "high": 8}},
        {"architecture": "attention", "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
    ]
    search = {"method": "tpe", "seed": 3}
    # each trial at once is a process that imports everything
    one = {"space": space, "seeds": [0, 1], "concurrent": 1}
    fewer = run_sweep(tiny_spec(search=search | {"trials": 2}, **one), home=tmp_path)
    more = run_sweep(tiny_spec(search=search | {"trials": 4}, **one), home=tmp_path)
    assert fewer.record.sweep_key == more.record.sweep_key
    trials = stored(more)
    assert {trial.status for trial in trials} == {Status.FINISHED}
    assert {t.run_id for t in stored(fewer)} <= {t.run_id for t in trials}
    assert len({trial.trial_key for trial in trials}) == len(trials) <= 8
    assert more.ran + len(stored(fewer)) >= len(trials) - 1
    assert more.front is not None and all(c.n_seeds == 2 for c in more.front.candidates)


def test_no_two_drivers_on_one_sweep(tmp_path: Path) -> None:
    from filelock import FileLock

    from recallfront.platform import UsageError

    spec = tiny_spec()
    ready_home(tmp_path)
    (tmp_path / "sweeps").mkdir()
    with FileLock(tmp_path / "sweeps" / f"{spec.key[:16]}.lock"):
        with pytest.raises(UsageError, match="is being run by another process"):
            run_sweep(spec, home=tmp_path)


def test_a_sweep_whose_driver_was_killed_is_not_said_to_run(tmp_path: Path) -> None:
    spec, uri = tiny_spec(), ready_store(tmp_path)
    tags = {"recallfront.kind": "sweep", "recallfront.sweep_key": spec.key, "recallfront.status": "running"}
    with closing(TrackingWriter(uri, tmp_path / "spool.db")) as writer:
        writer.open_run("sweep", experiment="tiny", name="sweep", tags=tags)
        assert writer.flush(60)

    def status() -> str:
        (told,) = sweeps_table(home=tmp_path).columns[2].cells
        return str(told)

    assert status() == "running", "it was never driven here: another machine may"
    with only_driver(spec, tmp_path):
        assert status() == "running"
    assert status() == "killed: run it again to resume"
