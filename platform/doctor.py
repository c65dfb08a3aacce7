"""What is installed and what answers, and how to fix what does not.

What it examines is imported when it is examined, so that the command starts fast.
"""

import importlib.metadata
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recallfront.platform.cluster.connection import ray_cluster
from recallfront.platform.errors import UsageError
from recallfront.platform.home import home_folder
from recallfront.platform.home.address import address_behind, home_name
from recallfront.platform.home.vault import check_home
from recallfront.platform.lineage.environment import LIBRARIES
from recallfront.platform.plugins import Plugin, installed, load_file, load_installed
from recallfront.platform.tracking.ledger import list_sweeps
from recallfront.platform.tracking.store import prepare_store

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    what: str
    fine: bool
    said: str  # its state; if it is not fine, how to fix it


@dataclass(frozen=True)
class Examination:
    """Everything that was checked."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        return all(finding.fine for finding in self.findings)

    def table(self) -> "Table":
        """The findings, as a table for the terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False)
        table.add_column()
        table.add_column()
        table.add_column(overflow="fold")
        for finding in self.findings:
            mark = "[green]ok[/green]" if finding.fine else "[red]fix[/red]"
            table.add_row(mark, finding.what, Text(finding.said))
        return table


def examine(
    *,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
    address: str | None = None,
    plugins: Iterable[Path] = (),
) -> Examination:
    """Check packages, plug-ins, devices, kernels, storage, MLflow and Ray; leaves nothing behind."""
    folder = home_folder(home).resolve()
    found = [_python(), *map(_package, LIBRARIES)]
    checks: list[tuple[str, Callable[[], str]]] = [
        ("devices", _devices),
        ("kernels", _kernels),
        ("storage", lambda: _storage(folder)),
        ("MLflow", lambda: _mlflow(folder, tracking_uri)),
        ("Ray", lambda: _ray(address)),
    ]
    checks = [
        *((f"plug-in {name}", partial(_plugin, load_installed, name)) for name in installed()),
        *((f"plug-in {path.name}", partial(_plugin, load_file, path)) for path in plugins),
        *checks,
    ]
    found += [_finding(what, check) for what, check in checks]
    return Examination(tuple(found))


def _finding(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, check())
    except (UsageError, OSError, ImportError, RuntimeError) as error:
        return Finding(what, False, " ".join(str(error).split()))


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info >= (3, 11)
    return Finding("Python", fine, version if fine else f"{version}: recallfront needs 3.11 or newer")


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, name == "triton", f"not installed: pip install {name}")


def _plugin(load: Callable[[Any], Plugin], what: str | Path) -> str:
    plugin = load(what)
    has = [*(f"mixer {name}" for name in plugin.mixers), *(f"task {name}" for name in plugin.tasks)]
    return f"{plugin}: {', '.join(has)}"


def _devices() -> str:
    import torch

    from recallfront.platform.trial.figures import device_kind

    cpu = f"CPU: {device_kind('cpu')}, {torch.get_num_threads()} threads"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return "; ".join(
        [cpu, *(f"GPU {i}: {name}" for i, name in enumerate(gpus)), *([] if gpus else ["no GPU"])]
    )


def _kernels() -> str:
    from recallfront.kernels.gpu.report import backend_report

    return backend_report()


def _storage(home: Path) -> str:
    check_home(home)
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    with tempfile.TemporaryFile(dir=there):
        pass
    free = shutil.disk_usage(there).free
    if free < 2**30:
        raise UsageError(
            f"{home}: only {free / 2**20:.0f} MiB are free; choose another folder with --home or RECALLFRONT_HOME"
        )
    return f"{home_name(home)}, {free / 2**30:.0f} GiB free{'' if address_behind(home) is None else f' in {there}'}"


def _mlflow(home: Path, tracking_uri: str | None) -> str:
    if tracking_uri is None and address_behind(home) is None and not (home / "mlflow.db").exists():
        return f"no store in {home} yet: the first sweep creates it"
    uri = prepare_store(tracking_uri, home, create=False)
    return f"{uri} answers, {_count(len(list_sweeps(uri)), 'sweep')}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _ray(address: str | None) -> str:
    with ray_cluster(address):
        import ray

        has = ray.cluster_resources()
        nodes = sum(node["Alive"] for node in ray.nodes())
        where = address or "a cluster started here"
        return f"{where}: {_count(nodes, 'node')}, {has.get('CPU', 0):g} CPU, {has.get('GPU', 0):g} GPU"
