"""A real `mlflow server` on a free port of the loopback device, to start, kill and start again."""

import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.platform.stores import ready_home


def free_port() -> int:
    """A port that nobody listens on, and that no other program on this machine is likely to get before it is used.

    It lies between those that Ray gives its workers (from 10002) and those that Linux gives who asks for any (from
    32768): the tests beside this one get hundreds of both.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:  # somebody does
                continue
        return port


class MlflowServer:
    """One `mlflow server` over a SQLite file (or `backend`) in `folder`; every start is on the same port.

    Use as a context manager, which starts it and in the end stops it.
    """

    def __init__(self, folder: Path, backend: str | None = None, *arguments: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.backend = backend or f"sqlite:///{ready_home(folder) / 'mlflow.db'}"
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout: float = 300.0) -> Self:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", self.backend]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), *self._arguments]
        environment = os.environ | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_TRACKING_URI": "",
        }
        with open(self.folder / "server.log", "ab") as log:
            # A session of its own: uvicorn's supervisor and worker are killed together.
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        deadline = time.monotonic() + timeout
        while not self.is_up():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"mlflow server did not start:\n{self.log()[-3000:]}")
            time.sleep(0.1)
        return self

    def is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False

    def kill(self) -> None:
        """SIGKILL, workers included: what a crash of its machine looks like from outside."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not do within 10 s."""
        self._end(signal.SIGTERM)

    def send(self, sent: signal.Signals) -> None:
        """Send a signal to the server and its workers (SIGSTOP: a server that hangs)."""
        if self._process is not None:
            os.killpg(self._process.pid, sent)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        for sent in (how, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, sent)
            except ProcessLookupError:
                break
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()
        self._process = None

    def log(self) -> str:
        path = self.folder / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
