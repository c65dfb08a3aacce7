"""A real Ray cluster of several nodes on this machine, tokens on, to start, lose a node of, and stop."""

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.platform.servers import free_port


class Node:
    """One `ray start --block` and the processes below it."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        command = ["python", "-m", "ray.scripts.scripts", "start", "--block", *arguments]
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def processes(self) -> list[psutil.Process]:
        """Everything that runs on this node: Ray's own daemons, workers, and the drivers of jobs."""
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def runs(self, name: str) -> bool:
        """Whether a worker of this node is an actor of that class."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if f"ray::{name}" in " ".join(process.cmdline()):
                    return True
        return False

    def kill(self) -> None:
        """SIGKILL everything at once: the machine is gone."""
        found = self.processes()
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(found, timeout=20)
        self._process.wait(20)

    def give_notice(self) -> None:
        """SIGTERM, as a machine gets that is about to be taken away: Ray drains the node, and stops when it is idle."""
        self._process.terminate()

    def ray_id(self) -> str:
        """What Ray calls this node."""
        flag = "--node_id="
        return next(
            argument.removeprefix(flag)
            for process in self.processes()
            if process.name() == "raylet"
            for argument in process.cmdline()
            if argument.startswith(flag)
        )

    def check(self) -> None:
        if self._process.poll() is not None:
            raise RuntimeError(f"ray start ended:\n{self._log.read_text(errors='replace')[-3000:]}")


class Cluster:
    """A head and other nodes, one CPU each; use as a context manager, which starts it and in the end stops it."""

    def __init__(self, nodes: int = 2, *, head_cpus: int = 1) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rf-"))  # short: Ray's sockets lie below it
        self.token_file = self.folder / "token"
        self.token = secrets.token_hex(32)
        self.token_file.write_text(self.token)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_gcs_server_port_wait_time_s": "120",  # Ray's 30 s are too few on a busy machine
            "RAY_worker_niceness": "0",  # at Ray's 15 a trial stands still while anything else computes
            "RAY_health_check_period_ms": "1000",  # a lost node is noticed in seconds
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "300",  # a node that goes waits for its trials at most
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # `python` of nodes and jobs
            "OMP_NUM_THREADS": "1",
        }
        self.port, self.dashboard_port = free_port(), free_port()
        self.dashboard = f"http://127.0.0.1:{self.dashboard_port}"
        self.nodes: list[Node] = []
        self.metrics_ports: list[int] = []  # of the nodes
        self.head_arguments: list[str] = []  # of its `ray start`, beside those that every cluster has
        self._wanted, self._head_cpus = nodes, head_cpus

    def start(self) -> Self:
        self.join(
            "--head",
            f"--num-cpus={self._head_cpus}",
            f"--port={self.port}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard_port}",
            "--include-dashboard=true",
            *self.head_arguments,
        )
        while len(self.nodes) < self._wanted:  # one after another: Ray gives each 30 s to start
            self.join(f"--address=127.0.0.1:{self.port}", "--num-cpus=1")
        return self

    def alive(self) -> int:
        """How many nodes the cluster says are alive; 0 where it does not answer."""

        request = urllib.request.Request(
            f"{self.dashboard}/nodes?view=summary",
            headers={"Authorization": f"Bearer {self.token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                summary = json.load(answer)["data"]["summary"]
        except (OSError, http.client.HTTPException):
            return 0
        return sum(node["raylet"].get("state") == "ALIVE" for node in summary)

    def drain(self, node: Node) -> None:
        """Have Ray drain a node as one that is about to be taken away; it knows when this returns."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", f"--node-id={node.ray_id()}"]
        command += [f"--address=127.0.0.1:{self.port}", "--reason=DRAIN_NODE_REASON_PREEMPTION"]
        command += ["--reason-message=test", "--deadline-remaining-seconds=300"]
        subprocess.run(command, env=self.environment, check=True)

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.kill()
        self.nodes = []
        shutil.rmtree(self.folder, ignore_errors=True)

    def join(self, *arguments: str) -> None:
        """Add a node and wait until it is alive; one that ends before, as on a busy machine, is started once more.

        What `arguments` say of an option goes before what every node has.
        """
        self._add(*arguments)
        try:
            self._wait_for_nodes()
        except RuntimeError:
            self.nodes.pop().kill()
            self.metrics_ports.pop()
            self._add(*arguments)
            self._wait_for_nodes()

    def _add(self, *arguments: str) -> None:
        name = f"n{len(self.nodes)}"
        self.metrics_ports.append(free_port())
        common = [
            "--node-ip-address=127.0.0.1",
            f"--temp-dir={self.folder / name}",
            f"--object-store-memory={100 * 2**20}",
            # Another Ray may run on this machine, with the ports that these would have.
            f"--dashboard-agent-listen-port={free_port()}",
            f"--dashboard-agent-grpc-port={free_port()}",
            f"--runtime-env-agent-port={free_port()}",
            f"--metrics-export-port={self.metrics_ports[-1]}",
            "--disable-usage-stats",
        ]
        # what a node keeps of a home at an address is its own
        environment = self.environment | {"RECALLFRONT_STATE": str(self.folder / f"{name}-state")}
        self.nodes.append(Node([*common, *arguments], environment, self.folder / f"{name}.log"))

    def _wait_for_nodes(self, seconds: float = 300.0) -> None:
        deadline = time.monotonic() + seconds
        while self.alive() != len(self.nodes):
            for node in self.nodes:
                node.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"the cluster did not come up within {seconds:g} s")
            time.sleep(0.2)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
