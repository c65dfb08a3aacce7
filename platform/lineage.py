"""Lineage: all that is needed to run a trial again, and to say whether a second run can be compared with it."""

import hashlib
import importlib.metadata
import json
import os
import platform as host
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

import recallfront
from recallfront.platform.errors import UsageError

LINEAGE_FILE: Final = "lineage/lineage.json"
DIFF_FILE: Final = "lineage/diff.patch"
SOURCE_FILE: Final = "source.json"  # in a package that was sent to a cluster, beside its __init__.py
PACKAGES_FILE: Final = "lineage/packages.txt"

# What decides a trial's figures; the rest of the platform moves them about.
TRIAL_SOURCES: Final = (
    "kernels/",
    "models/",
    "sweeps/",
    "platform/batches.py",
    "platform/distributed.py",
    "platform/engine.py",
    "platform/measure.py",
    "platform/memory.py",
    "platform/starting.py",
    "platform/training.py",
    "platform/trial.py",
)
LIBRARIES: Final = (
    "torch",
    "triton",
    "deepspeed",
    "ray",
    "mlflow",
    "optuna",
    "datasets",
    "numpy",
    "transformers",
)
_NUMERIC_LIBRARIES: Final = ("torch", "triton", "deepspeed")
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
_PLACES: Final = ("CUDA_VISIBLE_DEVICES",)  # says where a trial ran, not what came out
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
_SOURCE_SUFFIXES: Final = frozenset(
    {
        ".py",
        ".pyi",
        ".toml",
        ".yaml",
        ".yml",
        ".cfg",
        ".html",
        ".css",
        ".js",
        ".c",
        ".cpp",
        ".h",
        ".cu",
        ".cuh",
    }
)
_LARGEST_SOURCE: Final = 2**20  # bytes
_SECONDS: Final = 10.0  # for git or nvidia-smi, each


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


@dataclass(frozen=True)
class Difference:
    """One thing in which two lineages differ; `matters` if results may differ because of it."""

    text: str
    matters: bool

    def __str__(self) -> str:
        return self.text


def collect(home: Path | None = None) -> Lineage:
    """The lineage of this process, on this machine; `home` names the outputs, which are no part of the code."""
    return Lineage(
        recallfront=recallfront.__version__,
        code_version=code_version(),
        git_commit=_git("rev-parse", "HEAD") or _shipped_source().get("git_commit"),
        git_dirty=diff_text(home) is not None,
        python=host.python_version(),
        platform=host.platform(),
        libraries={name: _version(name) for name in LIBRARIES},
        hardware=_hardware(),
        environment={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        packages_digest=_digest(packages_text().encode()),
    )


@lru_cache(maxsize=1)
def code_version() -> str:
    """16 hex digits over the path and content of the sources that a trial runs (TRIAL_SOURCES).

    Taken once a process, as the modules are: an edit meanwhile changes neither.
    """
    package = Path(recallfront.__file__).parent
    found = hashlib.sha256()
    for path, name in sorted(_trial_sources(package), key=lambda source: source[1]):
        content = path.read_bytes()
        found.update(f"{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:16]


def diff_text(home: Path | None = None) -> str | None:
    """The checkout's uncommitted changes as a patch, untracked sources (those outside `home`) included.

    A package that was sent to a cluster has them in `SOURCE_FILE`. None where there are none, or where the package
    is of neither kind.
    """
    index = _git("rev-parse", "--path-format=absolute", "--git-path", "index")
    if index is None:
        return _shipped_source().get("diff")
    with tempfile.TemporaryDirectory() as place:
        own_index = (
            Path(place) / "index"
        )  # untracked files are shown as new without touching the checkout's own
        shutil.copyfile(index, own_index)
        untracked = "\0".join(_untracked_sources(home))
        if untracked:
            # Paths on standard input: there may be more than a command line holds.
            add = ("add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul")
            _git(*add, index=own_index, given=untracked)
        text = _git(
            "diff", "--no-ext-diff", "--no-color", "--no-textconv", "HEAD", index=own_index, strip=False
        )
    return text or None


def source_json(home: Path | None = None) -> str:
    """Commit and uncommitted changes, to send along with a package that leaves its checkout (`SOURCE_FILE`)."""
    return json.dumps({"git_commit": _git("rev-parse", "HEAD"), "diff": diff_text(home)})


def packages_text() -> str:
    """`name==version` lines of everything installed (artifact `lineage/packages.txt`)."""
    found = {
        str(name).lower().replace("_", "-"): distribution.version
        for distribution in importlib.metadata.distributions(path=_site_packages())
        if (name := distribution.metadata["Name"])
    }
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))


def compare(a: Lineage, b: Lineage) -> tuple[Difference, ...]:
    """What differs from `a` to `b`, in words; what matters for the results comes first."""
    return tuple(sorted(_differences(a, b), key=lambda difference: not difference.matters))


def read_lineage(tracking_uri: str, run_id: str) -> TrialLineage:
    """The lineage stored with a run, as data: nothing of it is executed.

    Raises:
        UsageError: the store cannot be read, or the run has no lineage, or one of another version's form.
    """
    from recallfront.platform.tracking.ledger import UnknownRecord, read_artifact, reading

    with reading(tracking_uri) as client:
        text = read_artifact(client, run_id, LINEAGE_FILE)
    if text is None:
        raise UnknownRecord(f"run {run_id} has no lineage (artifact {LINEAGE_FILE})")
    try:
        return TrialLineage.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"the lineage of run {run_id} cannot be read: {place}: {first['msg']}") from error


def _differences(a: Lineage, b: Lineage) -> Iterator[Difference]:
    pairs = [
        ("code_version", a.code_version, b.code_version, True),
        ("processor", a.hardware.cpu, b.hardware.cpu, True),
        ("vector instructions", _words(a.hardware.instructions), _words(b.hardware.instructions), True),
        ("GPUs", _words(a.hardware.gpus), _words(b.hardware.gpus), True),
        ("GPU driver", a.hardware.driver, b.hardware.driver, False),
        ("cores", a.hardware.cores, b.hardware.cores, False),
        ("recallfront", a.recallfront, b.recallfront, False),
        ("git commit", _commit(a), _commit(b), False),
        ("python", a.python, b.python, False),
        ("operating system", a.platform, b.platform, False),
    ]
    for name in sorted(a.libraries.keys() | b.libraries.keys()):
        pairs.append((name, a.libraries.get(name), b.libraries.get(name), name in _NUMERIC_LIBRARIES))
    for name in sorted(a.environment.keys() | b.environment.keys()):
        pairs.append((name, a.environment.get(name), b.environment.get(name), name not in _PLACES))
    changed = [
        found for what, old, new, matters in pairs if (found := _change(what, old, new, matters=matters))
    ]
    yield from changed
    if a.packages_digest != b.packages_digest and not any(
        a.libraries[n] != b.libraries.get(n) for n in a.libraries
    ):
        yield Difference(f"other installed packages differ ({PACKAGES_FILE})", matters=False)


def _change(what: str, old: object, new: object, *, matters: bool) -> Difference | None:
    if old == new:
        return None
    shown = ["none" if value in (None, "") else value for value in (old, new)]
    return Difference(f"{what} {shown[0]} -> {shown[1]}", matters)


def _words(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def _commit(lineage: Lineage) -> str | None:
    if lineage.git_commit is None:
        return None
    return lineage.git_commit[:12] + (" with changes" if lineage.git_dirty else "")


def _trial_sources(package: Path) -> Iterator[tuple[Path, str]]:
    """Files under TRIAL_SOURCES with their names in the package, which are the same in a checkout and a wheel."""
    for source in TRIAL_SOURCES:
        root = (package / source).resolve()  # a link in a checkout
        for path in root.rglob("*.py") if root.is_dir() else [root]:
            if not path.is_file():  # editors lock files by links to nowhere
                continue
            name = Path(source) / path.relative_to(root) if root.is_dir() else Path(source)
            yield path, name.as_posix()


def _git(*arguments: str, index: Path | None = None, given: str = "", strip: bool = True) -> str | None:
    """What git says about the checkout that the package runs from; None where there is none, or git fails."""
    root = Path(recallfront.__file__).resolve().parent.parent
    if not (root / ".git").exists():  # an installed package may lie in somebody else's checkout
        return None
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"} | ({"GIT_INDEX_FILE": str(index)} if index else {})
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments],
            input=given.encode(),
            capture_output=True,
            timeout=_SECONDS,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = answer.stdout.decode(errors="replace")
    return None if answer.returncode else text.strip() if strip else text


def _shipped_source() -> dict[str, str | None]:
    path = Path(recallfront.__file__).with_name(SOURCE_FILE)
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _untracked_sources(home: Path | None) -> list[str]:
    root = Path(recallfront.__file__).resolve().parent.parent
    outputs = home.resolve() if home else None
    names = (_git("ls-files", "--others", "--exclude-standard", "-z") or "").split("\0")
    return [
        name
        for name in names
        if (path := root / name).suffix in _SOURCE_SUFFIXES
        and path.is_file()
        and not (outputs and path.is_relative_to(outputs))
        and path.stat().st_size <= _LARGEST_SOURCE
    ]


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
