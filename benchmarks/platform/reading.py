"""What is waited for with a sweep of many trials in the store: commands, each a new process, and pages."""

import resource
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from recallfront.platform.front.history import hypervolume_history
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.sweeps.base import canonical_json
from recallfront.sweeps.spec import SweepSpec

_AGAIN: Final = "recallfront run, again"
_FIRST, _SWEEPS = "the first page", "a sweep's page"
MOST_SECONDS: Final = {  # with 10,000 trials
    _AGAIN: 20.0,
    "recallfront front SWEEP": 3.0,
    "recallfront pick SWEEP": 3.0,
    "recallfront status SWEEP": 3.0,
    "recallfront status": 3.0,
    _FIRST: 0.5,
    f"{_FIRST}, again": 0.5,
    _SWEEPS: 1.5,
    f"{_SWEEPS}, again": 1.5,
}
_START_SECONDS: Final = 120.0


@dataclass(frozen=True)
class Waits:
    """What is done -> how long it takes."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)  # seconds of a command's process

    def take(self, name: str, work: Callable[[], object]) -> None:
        """Do it once."""
        start = time.perf_counter()
        work()
        self.seconds[name] = time.perf_counter() - start

    def command(self, name: str, home: Path, *arguments: str) -> str:
        """Run a command over a home -> what it prints."""
        told = [sys.executable, "-m", "recallfront", *arguments, "--home", str(home)]
        before, start = _spent_by_children(), time.perf_counter()
        ended = subprocess.run(told, check=True, capture_output=True, text=True)
        self.seconds[name] = time.perf_counter() - start
        self.cpu[name] = _spent_by_children() - before
        return ended.stdout


def waits(home: Path, uri: str, spec: SweepSpec) -> Waits:
    """Run the sweep, all of whose trials have finished, once more; then read it by commands and pages."""
    found = Waits()
    record = read_sweep(uri, spec.key)
    found.take("hypervolume's history", lambda: hypervolume_history(record))
    file = home / f"{spec.name}.yaml"
    file.write_text(canonical_json(spec))
    printed = found.command(_AGAIN, home, "run", str(file))
    assert f"0 trials run, {spec.number_of_trials} answered" in printed, printed
    key = spec.key
    for command in (["front", key], ["pick", key, "--no-register"], ["status", key], ["status"]):
        found.command(f"recallfront {command[0]}{' SWEEP' * (len(command) > 1)}", home, *command)
    pages = {_FIRST: "", _SWEEPS: f"sweeps/{record.run_id}", "what it polls": f"sweeps/{record.run_id}/live"}
    with served(home) as address:
        for name, path in pages.items():
            for again in ("", ", again"):
                found.take(name + again, partial(_fetch, f"{address}/recallfront/{path}"))
    return found


@contextmanager
def served(home: Path) -> Iterator[str]:
    """The address of `recallfront ui` over a home, which ends with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "recallfront", "ui", "--home", str(home), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            try:
                _fetch(f"http://127.0.0.1:{port}/recallfront/static/style.css")
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def _fetch(address: str) -> int:
    with urllib.request.urlopen(address, timeout=600) as answer:
        return len(answer.read())


def _spent_by_children() -> float:
    """CPU seconds of all processes that were started here and have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
