"""Parts of a sweep are killed at random moments; however often, it ends as one that nobody disturbed."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from recallfront.platform.errors import UsageError
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.platform.tracking.spool import Spool
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.data import prepare
from tests.platform.servers import MlflowServer
from tests.platform.specs import tiny
from tests.platform.stores import ready_home
from tests.platform.sweeps import times_slower

pytestmark = [
    pytest.mark.attack,
    pytest.mark.slow,
    # nothing may be left some seconds after a kill
    pytest.mark.alone,
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]

STORM = tiny(
    name="storm",
    space=[{"architecture": "window", "window_size": [2, 4]}],
    training={"steps": 400, "evaluate_every": 50},
    # each trial at once is a process that imports everything
    concurrent=1,
)
# of a driver that lost its Ray; of processes whose driver is gone; of a run that goes on, on a busy machine
_LOST_SECONDS, _GONE_SECONDS, _RUN_SECONDS = 30, 10, 600
_LOST = (
    "recallfront: Ray on this machine was killed, or ran out of memory: run the sweep again to resume it\n"
)

Ending = tuple[float, list[tuple[int, float]]]  # recall, and (step, loss) of every step


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ending]:
    """How each trial ends if nothing happens, by its key: run without Ray and MLflow."""
    spec, home = SweepSpec.model_validate(STORM), tmp_path_factory.mktemp("undisturbed")
    path, digest = prepare(spec.task, home / "data")
    place = Workplace(home=home, data=path, data_digest=digest, code_version=code_version())
    found = {}
    for block, knobs in spec.grid():
        config = spec.trial(block, knobs, 0)
        reports = list(run_trial(config, place))
        losses = [
            (step, value) for report in reports for name, value, step, _ in report.rows if name == "loss"
        ]
        found[config.key] = (reports[-1].figures["recall"], losses)
    return found


@dataclass
class Sweep:
    """A sweep that is run by the command, again and again."""

    home: Path
    server: MlflowServer | None
    rng: random.Random

    def run(self, *victims: str) -> str:
        """Run the command, with parts of it killed at some moments, in this order -> what it said on stderr."""
        file, printed, said = (self.home / name for name in ("storm.yaml", "stdout", "stderr"))
        file.write_text(yaml.safe_dump(STORM))
        command = [sys.executable, "-m", "recallfront", "run", str(file), "--home", str(self.home)]
        command += ["--tracking-uri", self.server.uri] if self.server else []
        with open(printed, "w") as output, open(said, "w") as errors:
            driver = subprocess.Popen(command, stdout=output, stderr=errors, start_new_session=True)
        started = time.monotonic()
        families: list[psutil.Process] = []
        try:
            for victim in victims:
                families += self._kill(victim, driver)
                print(f"{victim} after {time.monotonic() - started:.0f} s, ", end="", flush=True)
            code = driver.wait(_LOST_SECONDS * times_slower() if "raylet" in victims else _RUN_SECONDS)
        finally:
            driver.kill()
        print(f"exit {code} after {time.monotonic() - started:.0f} s", flush=True)
        _, left = psutil.wait_procs(families, timeout=_GONE_SECONDS * times_slower())
        assert not [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], victims
        told = said.read_text()
        assert "Traceback" not in told
        expected = {0, *(-9 if victim == "driver" else 2 for victim in victims)}
        assert code in expected, f"{code}: {told}{printed.read_text()}"
        assert code != 2 or told.count("recallfront: ") == 1, told
        return told

    def _kill(self, victim: str, driver: "subprocess.Popen[bytes]") -> list[psutil.Process]:
        """Kill the victim, if the run does not end before -> all processes of the run."""
        from_start = self.rng.random() < 0.5
        # a server is there all the time: it is killed while trials run, or at some moment of the start
        awaited = {"server": "driver" if from_start else "actor"}.get(victim, victim)
        while driver.poll() is None and not (
            self._find(awaited, driver) and (from_start or any(self.home.glob("trials/*/checkpoint")))
        ):
            time.sleep(0.1)
        time.sleep(self.rng.uniform(0, 8 if from_start else 3))
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(driver.pid).children(recursive=True)
            if victim == "server" and self.server is not None:
                self.server.kill()
                time.sleep(self.rng.uniform(0, 3))
                self.server.start()
            for process in self._find(victim, driver):
                process.kill()
            return family
        return []

    def _find(self, victim: str, driver: "subprocess.Popen[bytes]") -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(driver.pid)
            if victim == "driver":
                return [process]
            names = {"raylet": ("raylet",), "actor": ("ray::TrialActor", "ray::ResourceTr")}.get(victim, ())
            return [p for p in process.children(recursive=True) if p.name().startswith(names)]
        return []

    def check(self, undisturbed: dict[str, Ending], *, ended: bool) -> None:
        """No trial has two runs; one that finished has the recall and every loss of an undisturbed one, once each."""
        uri = self.server.uri if self.server else f"sqlite:///{self.home / 'mlflow.db'}"
        spec = SweepSpec.model_validate(STORM)
        try:
            trials = read_sweep(uri, spec.key).trials
        except UsageError:
            assert not ended, "the sweep is in the store"
            return
        keys = [trial.trial_key for trial in trials]
        assert len(set(keys)) == len(keys), "no run is doubled"
        client = open_client(uri)
        finished = [trial for trial in trials if trial.status is Status.FINISHED]
        for trial in finished:
            losses = sorted((m.step, m.value) for m in client.get_metric_history(trial.run_id, "loss"))
            assert (trial.metrics["recall"], losses) == undisturbed[trial.trial_key]
        if ended:
            assert {trial.trial_key for trial in finished} == set(undisturbed)
            with closing(Spool(self.home / "spool" / f"{spec.key[:16]}.sqlite")) as spool:
                assert spool.backlog() == 0


@contextmanager
def _sweep(folder: Path, rng: random.Random, *, served: bool) -> Iterator[Sweep]:
    folder.mkdir()
    if served:
        with MlflowServer(folder / "server") as server:
            yield Sweep(folder, server, rng)
    else:
        # whoever is killed while the store is made is another test's
        yield Sweep(ready_home(folder) if rng.random() < 0.5 else folder, None, rng)


def test_a_sweep_of_which_parts_are_killed_ends_as_an_undisturbed_one(
    tmp_path: Path, undisturbed: dict[str, Ending], seconds: float | None, seed: int
) -> None:
    deadline, storm, rng = time.monotonic() + (seconds or 0.0), 0, random.Random(seed)
    while storm == 0 or time.monotonic() < deadline:
        # a run goes on without its actor and its server: the one is in the driver's run, the other in the last
        served = True
        runs: list[tuple[str, ...]] = [("raylet",), ("actor", "driver"), ("server",)]
        if seconds is not None:
            served = rng.random() < 0.5
            chosen = rng.choices(("driver", "actor", "raylet", *("server",) * served), k=rng.randint(2, 4))
            runs = [(victim,) for victim in chosen]
        print(f"storm {storm} of ATTACK_SEED={seed}: {runs}{', served' * served}", flush=True)
        with _sweep(tmp_path / str(storm), rng, served=served) as sweep:
            for victims in runs:
                told = sweep.run(*victims)
                assert "raylet" not in victims or told in ("", _LOST), told
                sweep.check(undisturbed, ended=False)
            assert sweep.run() == ""
            sweep.check(undisturbed, ended=True)
        storm += 1
