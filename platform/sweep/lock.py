"""Which process drives a sweep: one at a time in a home, since two would run every trial twice."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from recallfront.platform.errors import UsageError
from recallfront.platform.home import private_folder
from recallfront.platform.home.address import shown
from recallfront.platform.home.vault import is_remote
from recallfront.platform.sweep.lease import Lease, is_silent
from recallfront.sweeps.spec import SweepSpec

# longer than another process needs to see whether the sweep is driven, or a killed driver takes to be gone
_PROBE_SECONDS = 3.0


@contextmanager
def only_driver(spec: SweepSpec, home: Path) -> Iterator[None]:
    """Hold the sweep in this home.

    Raises:
        UsageError: another process holds it.
    """
    with only_driver_of(spec.key, spec.name, home):
        yield


@contextmanager
def only_driver_of(sweep_key: str, name: str, home: Path) -> Iterator[None]:
    """The same of a sweep that is known by its key."""
    path, sweep = _lock_file(home, sweep_key), f"sweep {name} ({sweep_key[:8]})"
    private_folder(path.parent)
    try:
        with (
            FileLock(path, timeout=_PROBE_SECONDS, mode=0o600),
            Lease(path.with_suffix(".driver"), sweep),
        ):
            yield
    except Timeout:
        raise UsageError(f"{sweep} is being run by another process on {shown(home)}") from None


def driver_is_gone(sweep_key: str, home: Path, *, patience: float = 0.0) -> bool:
    """Whether a sweep was driven in this home, and no process holds it now; False where it was never driven here.

    A home at an address tells after `patience` seconds at most (`CERTAIN_SECONDS` are enough), or when asked again.
    """
    path = _lock_file(home, sweep_key)
    if is_remote(path):
        return is_silent(path.with_suffix(".driver"), patience=patience)
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0, mode=0o600):
            return True
    except Timeout:
        return False


def _lock_file(home: Path, sweep_key: str) -> Path:
    return home / "sweeps" / f"{sweep_key[:16]}.lock"
