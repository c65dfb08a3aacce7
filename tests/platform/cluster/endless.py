"""A sweep on a cluster whose trials end only if they are made to, and what tests see of it from outside."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from recallfront.platform.cluster.jobs import end_job, submit
from recallfront.platform.errors import UsageError
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.sweep.log import log_path
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import UnknownRecord, read_sweep
from recallfront.sweeps import SweepSpec
from tests.platform.clusters import Cluster
from tests.platform.specs import tiny
from tests.platform.stores import ready_home
from tests.platform.sweeps import wait_for

# Ray names a process after the method that it runs, and after its class between two methods; the class of a trial's
# actor is Tune's own, which wraps ours, while a method runs
RANK, ACTOR = ("RayTrainWorker",), ("ResourceTrainable", "TrialActor")


def endless(**changes: Any) -> dict[str, Any]:
    """A specification of one trial that trains for ever, and saves itself only if it is told to leave."""
    training = {"steps": 10**6, "evaluate_every": 50, "checkpoint_seconds": 10**6, "gradient_clipping": 0.0}
    space = [{"architecture": "window", "window_size": 4}]
    objectives = [
        {"metric": metric, "direction": "min", "reference": 1e6} for metric in ("state_bytes", "parameters")
    ]  # nothing is timed, so nothing waits until the machine is idle
    spec = {"name": "endless", "space": space, "training": training, "objectives": objectives}
    return tiny(**{**spec, "measurement": {"also": []}, "concurrent": 1, **changes})


class Endless:
    """A sweep that a driver runs with a home on this machine; its records are in the home, or at `uri`."""

    def __init__(self, spec: dict[str, Any], home: Path, uri: str | None = None) -> None:
        self.key = SweepSpec.model_validate(spec).key
        self.home, self.uri = ready_home(home), uri or f"sqlite:///{home / 'mlflow.db'}"
        self.file = home / "endless.yaml"
        self.file.write_text(yaml.safe_dump(spec))
        self.driver: subprocess.Popen[str] | None = None
        self.job = ""  # the last one

    @contextmanager
    def running(self, cluster: Cluster) -> Iterator["Endless"]:
        """Run it on the cluster by `recallfront run --address`."""
        command = [sys.executable, "-m", "recallfront", "run", str(self.file), "--home", str(self.home)]
        command += ["--address", f"127.0.0.1:{cluster.port}"]
        with (
            open(self.home / "driver.log", "ab") as log,
            subprocess.Popen(
                command, env=cluster.environment, stdout=log, stderr=log, start_new_session=True, text=True
            ) as self.driver,
        ):
            try:
                yield self
            finally:
                self.driver.kill()

    @contextmanager
    def submitted(self, cluster: Cluster) -> Iterator["Endless"]:
        """Run it on the cluster as a job."""
        where = {"address": cluster.dashboard, "tracking_uri": self.uri, "home": str(self.home)}
        self.job, is_new = submit(str(self.file), **where)
        assert is_new
        try:
            yield self
        finally:
            with suppress(UsageError):  # it has ended
                end_job(cluster.dashboard, self.job, at_once=True)

    def log(self) -> str:
        """What the sweep's log has, of all its runs."""
        return log_path(self.key, self.home).read_text()

    def trial(self) -> TrialRecord | None:
        """Its only trial, as the store has it."""
        with suppress(UnknownRecord):  # as long as it has not begun
            return next(iter(read_sweep(self.uri, self.key).trials), None)
        return None

    def tag(self, name: str) -> str:
        """A tag of its trial; "" if it has none yet."""
        trial = self.trial()
        return trial.tags.get(name, "") if trial else ""

    def steps(self) -> list[int]:
        """The steps of its trial that the store has a loss of, doubled ones included."""
        trial = self.trial()
        points = open_client(self.uri).get_metric_history(trial.run_id, "loss") if trial else []
        return sorted(point.step for point in points)

    def trains_beyond(self, step: int) -> None:
        """Wait until the store knows of later steps than this one."""
        wait_for(lambda: max(self.steps(), default=0) > step, driver=self.driver, pause=0.5)

    def becomes(self, name: str, value: str) -> None:
        """Wait until a tag of its trial has this value."""
        wait_for(lambda: self.tag(name) == value, driver=self.driver, pause=0.5)


def processes(cluster: Cluster, names: tuple[str, ...]) -> list[tuple[int, psutil.Process]]:
    """The actors of a class, by the names that it may have, each with the number of the node that it is on."""
    found = []
    for number, node in enumerate(cluster.nodes):
        for process in node.processes():
            with suppress(psutil.Error):
                if any(f"ray::{name}" in " ".join(process.cmdline()) for name in names):
                    found.append((number, process))
    return found
