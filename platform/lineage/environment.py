"""Lineage: all that is needed to run a trial again, and to say whether a second run can be compared with it.

psutil is imported where it is first used, so that the command starts fast.
"""

import hashlib
import importlib.metadata
import os
import platform as host
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

import recallfront
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.lineage.source import _SECONDS, _git, _shipped_source, changes_code, diff_text
from recallfront.platform.plugins import Plugin, in_use

LINEAGE_FILE: Final = "lineage/lineage.json"
DIFF_FILE: Final = "lineage/diff.patch"
PACKAGES_FILE: Final = "lineage/packages.txt"

# The libraries that a trial may use, and whether its results may differ with the library's version.
LIBRARIES: Final = {
    "torch": True,
    "triton": True,
    "deepspeed": True,
    "ray": False,
    "mlflow": False,
    "optuna": False,
    "datasets": False,
    "numpy": False,
    "transformers": False,
}
ENVIRONMENT: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "MKL_CBWR",
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TRITON_INTERPRET",
    "DS_ACCELERATOR",
)
_INSTRUCTIONS: Final = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "amx_tile",
    "amx_bf16",
    "asimd",
    "sve",
)


class Hardware(BaseModel):
    """The machine that `collect` was called on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    instructions: tuple[str, ...]  # those that decide which vector code runs
    cores: int  # that this process may use
    memory_bytes: int
    gpus: tuple[str, ...] = ()
    driver: str | None = None


class Lineage(BaseModel):
    """Code, packages, machine and environment that a trial ran with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recallfront: str  # version
    code_version: str  # 16 hex digits over the sources that a trial runs
    git_commit: str | None = None  # None: not run from a checkout (a wheel)
    git_dirty: bool = False  # the commit alone is not the code: artifact lineage/diff.patch
    python: str
    platform: str
    libraries: dict[str, str | None]  # None: not installed
    hardware: Hardware
    environment: dict[str, str]
    packages_digest: str  # 16 hex digits over lineage/packages.txt
    plugins: tuple[Plugin, ...] = ()  # those that the sweep used; files are artifacts below lineage/plugins/

    @property
    def commit(self) -> str | None:
        """The commit in words, and whether the code was changed after it; None without a checkout."""
        if self.git_commit is None:
            return None
        return self.git_commit[:12] + (" with changes" if self.git_dirty else "")

    @property
    def plugin_files(self) -> list[str]:
        """The names of the files among the plug-ins, without those that no file loaded as a plug-in can have."""
        names = [f"{plugin.name}.py" for plugin in self.plugins if plugin.version is None]
        # they are shown in commands, and a lineage may be another store's
        return [name for name in names if name.isprintable() and "/" not in name]


class TrialLineage(BaseModel):
    """One trial's lineage: the artifact `lineage/lineage.json` of its run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: Lineage
    trial_key: str
    config: dict[str, Any]  # the resolved TrialConfig as JSON
    data_digest: str | None = None
    seeds: dict[str, int] = {}
    sweep_key: str | None = None
    sampler_trial: int | None = None


def collect(home: Path | None = None) -> Lineage:
    """The lineage of this process, on this machine; `home` names the outputs, which are no part of the code."""
    return Lineage(
        recallfront=recallfront.__version__,
        code_version=code_version(),
        git_commit=_git("rev-parse", "HEAD") or _shipped_source().get("git_commit"),
        git_dirty=changes_code(diff_text(home)),
        python=host.python_version(),
        platform=host.platform(),
        libraries={name: _version(name) for name in LIBRARIES},
        hardware=_hardware(),
        environment={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        packages_digest=_digest(packages_text().encode()),
        plugins=in_use(),
    )


def packages_text() -> str:
    """`name==version` lines of everything installed (artifact `lineage/packages.txt`)."""
    found = {
        str(name).lower().replace("_", "-"): distribution.version
        for distribution in importlib.metadata.distributions(path=_site_packages())
        if (name := distribution.metadata["Name"])
    }
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))


def _site_packages() -> list[str]:
    """Where packages are installed: `sys.path` differs from process to process of one sweep."""
    return list(dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _hardware() -> Hardware:
    import psutil

    model, flags = _processor()
    gpus, driver = _gpus()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Hardware(
        cpu=model,
        instructions=tuple(name for name in _INSTRUCTIONS if name in flags),
        cores=cores,
        memory_bytes=psutil.virtual_memory().total,
        gpus=gpus,
        driver=driver,
    )


def _processor() -> tuple[str, frozenset[str]]:
    """The model's name and the instruction sets of the first core."""
    fields: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").split("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            fields[name.strip()] = value.strip()
    model = fields.get("model name") or host.processor() or host.machine()
    return model, frozenset((fields.get("flags") or fields.get("Features") or "").split())


def _gpus() -> tuple[tuple[str, ...], str | None]:
    """Names of the GPUs and their driver. Not asked of torch: that would open a context on the first of them."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return (), None
    query = [command, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return (), None
    rows = [line.rsplit(", ", 1) for line in answer.stdout.splitlines() if ", " in line]
    if answer.returncode or not rows:
        return (), None
    return tuple(name for name, _ in rows), rows[0][1]
