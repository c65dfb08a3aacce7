"""`recallfront ui` in a process of its own over a store that records are written into, for the tests of the pages."""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from recallfront.platform.front.history import hypervolume_history
from recallfront.platform.results.records import TAG, SweepRecord, count
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import config_tags
from recallfront.platform.tracking.places import artifact_location
from recallfront.platform.tracking.runs import MODEL_FILES
from tests.platform.servers import free_port

OTHERS = (Status.DIVERGED, Status.ERROR, Status.PRUNED, Status.RUNNING)
EVIL = "</script><img src=x onerror=alert(1)>"


def write(record: SweepRecord, uri: str, state: str) -> str:
    """Write a record into a store as a sweep's driver does; returns its run's id."""
    from mlflow.entities import Metric

    client = open_client(uri)
    experiment = client.create_experiment(record.name, artifact_location(uri, record.name))
    tags = {"kind": "sweep", "sweep_key": record.sweep_key, "status": state}
    parent = client.create_run(experiment, tags={TAG + key: value for key, value in tags.items()}).info.run_id
    if record.spec:
        client.log_text(parent, json.dumps(record.spec), "spec.json")
    for trial in record.trials:
        start = int(1000 * trial.start_time)
        tags = {"kind": "trial", "trial_key": trial.trial_key, "status": trial.status.value}
        tags |= {"failure": trial.failure} if trial.failure else {}
        own = {TAG + key: value for key, value in tags.items()} | config_tags(trial.config)
        run = client.create_run(experiment, start, {"mlflow.parentRunId": parent} | own).info.run_id
        figures = [Metric(name, value, start, 0) for name, value in trial.metrics.items()]
        if trial.status is Status.FINISHED:
            figures += [
                Metric("loss", 4.0 / (1 + step / 50), start + step, step) for step in range(0, 301, 50)
            ]
            if trial.config["model"]["architecture"] == "griffin":
                for name in MODEL_FILES:
                    client.log_text(run, "{}", f"model/{name}")
        if trial.status is Status.ERROR:
            client.log_text(run, f"Traceback\n{EVIL}\nRuntimeError: the end", "traceback.txt")
        client.log_batch(run, figures)
        if trial.end_time is not None:
            client.set_terminated(run, "FINISHED", int(1000 * trial.end_time))
    for name, number in count(record).items():
        client.set_tag(parent, f"{TAG}trials_{name}", str(number))
    rows = hypervolume_history(record) if record.spec else []
    client.log_batch(parent, [Metric("hypervolume", row.hypervolume, 0, row.trials) for row in rows])
    if state != "running":
        client.set_terminated(parent)
    return str(parent)


class Served:
    """`recallfront ui` in a process of its own, over one store with three sweeps."""

    def __init__(self, home: Path, sweeps: dict[str, str], *, allow_actions: bool = True) -> None:
        self.home, self.sweeps, port = home, sweeps, free_port()
        code = "import sys; from pathlib import Path; from recallfront.dashboards.serving import serve; "
        how = f"port={port}, allow_actions={allow_actions}, tell=lambda line: print(line, flush=True)"
        code += f"sys.exit(serve(Path({str(home)!r}), {how}))"
        self.log = open(home / "ui.log", "wb")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        assert self.process.stdout is not None
        self.told = next((line for line in self.process.stdout if line.startswith("recallfront:")), "")
        self.uri = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.uri + path, timeout=60) as answer:
            body: bytes = answer.read()
        return body.decode()

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        status = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        return status
