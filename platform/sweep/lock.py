"""Which process drives a sweep: one at a time in a home, since two would run every trial twice."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from recallfront.platform.errors import UsageError
from recallfront.platform.home import private_folder, private_opener
from recallfront.platform.home.address import home_name
from recallfront.platform.home.vault import is_remote, read_kept
from recallfront.platform.sweep.lease import Lease, is_silent
from recallfront.sweeps.spec import SweepSpec

# longer than another process needs to see whether the sweep is driven, or a killed driver takes to be gone
_PROBE_SECONDS = 3.0


@contextmanager
def only_driver(spec: SweepSpec, home: Path) -> Iterator[Lease]:
    """Hold the sweep in this home; the lease tells if another machine has taken it over.

    Raises:
        UsageError: another process holds it.
    """
    with only_driver_of(spec.key, spec.name, home) as lease:
        yield lease


@contextmanager
def only_driver_of(sweep_key: str, name: str, home: Path) -> Iterator[Lease]:
    """The same of a sweep that is known by its key."""
    path, sweep = _lock_file(home, sweep_key), f"sweep {name} ({sweep_key[:8]})"
    private_folder(path.parent)
    try:
        with (
            FileLock(path, timeout=_PROBE_SECONDS, mode=0o600),
            Lease(path.with_suffix(".driver"), sweep) as lease,
        ):
            yield lease
    except Timeout:
        raise UsageError(f"{sweep} is being run by another process on {home_name(home)}") from None


def mark_driver(sweep_key: str, home: Path, driver: str) -> None:
    """Note in a home that this driver of the sweep was its own."""
    path = _drivers_file(home, sweep_key)
    private_folder(path.parent)
    with open(path, "a", opener=private_opener) as file:
        file.write(json.dumps(driver) + "\n")


def was_driven_here(sweep_key: str, home: Path, driver: str) -> bool | None:
    """Whether a driver of the sweep was of this home; None if the home knows of none at all."""
    path = _drivers_file(home, sweep_key)
    known = path.read_text(errors="replace").splitlines() if path.exists() else []
    if is_remote(path):  # also of drivers on other machines
        known += (read_kept(path) or b"").decode(errors="replace").splitlines()
    return json.dumps(driver) in known if known else None


def driver_is_gone(sweep_key: str, home: Path, driver: str | None, *, patience: float = 0.0) -> bool:
    """Whether the sweep's driver, as its run names it, was of this home, and no process holds the sweep now.

    A home at an address tells after `patience` seconds at most (`CERTAIN_SECONDS` are enough), or when asked again.
    """
    path = _lock_file(home, sweep_key)
    if is_remote(path):
        return is_silent(path.with_suffix(".driver"), patience=patience)
    if not path.exists() or (driver and was_driven_here(sweep_key, home, driver) is False):
        return False
    try:
        with FileLock(path, timeout=0, mode=0o600):
            return True
    except Timeout:
        return False


def _drivers_file(home: Path, sweep_key: str) -> Path:
    return home / "sweeps" / sweep_key[:16] / "drivers.jsonl"


def _lock_file(home: Path, sweep_key: str) -> Path:
    return home / "sweeps" / f"{sweep_key[:16]}.lock"
