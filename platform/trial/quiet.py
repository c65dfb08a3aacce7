"""Quiet hardware: while one process measures a device, every other trial on that device waits between two steps.

Two file locks a device, in a folder of this machine. A trial holds `use` shared during a step. A measurement takes
`gate`, so that no further step begins, and then `use` alone, which it gets as soon as the steps that run have ended.
The kernel gives the locks of a killed process back.

torch is imported where it is first used, so that the command starts fast.
"""

import fcntl
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Device:
    """One device of this machine ("cpu", "cuda:0"), and this process's hold on it."""

    def __init__(self, name: str, folder: Path | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir()) / f"recallfront-quiet-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True, parents=True)
        self.name = name
        lock = folder / _machine_wide(name)
        self._gate = os.open(f"{lock}.gate", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._use = os.open(f"{lock}.use", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold while a step runs; waits while somebody measures. Costs a few microseconds."""
        with aside():
            fcntl.flock(self._gate, fcntl.LOCK_EX)
            fcntl.flock(self._use, fcntl.LOCK_SH)
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._use, fcntl.LOCK_UN)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold while measuring: no other trial of this machine computes on the device meanwhile."""
        with aside():
            fcntl.flock(self._gate, fcntl.LOCK_EX)
            try:
                fcntl.flock(self._use, fcntl.LOCK_EX)
                try:
                    yield
                finally:
                    fcntl.flock(self._use, fcntl.LOCK_UN)
            finally:
                fcntl.flock(self._gate, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._gate)
        os.close(self._use)


_spans: dict[str, float] = {"over": 0.0}  # seconds aside that are over; `since` while one runs


@contextmanager
def aside() -> Iterator[None]:
    """What is done within does not count for a trial's time limit: measuring, waiting, fetching, keeping, building."""
    if "since" in _spans:  # within another
        yield
        return
    _spans["since"] = time.monotonic()
    try:
        yield
    finally:
        _spans["over"] += time.monotonic() - _spans.pop("since")


def aside_seconds(longest: float = math.inf) -> float:
    """Seconds that this process has spent aside up to now, of what is still under way `longest` at most."""
    since = _spans.get("since")
    return _spans["over"] + (0.0 if since is None else min(longest, time.monotonic() - since))


def _machine_wide(name: str) -> str:
    """A device by a name that every process has for it: Ray shows each trial its own GPU as cuda:0."""
    if not name.startswith("cuda"):
        return name
    import torch

    return f"gpu-{torch.cuda.get_device_properties(name).uuid}"
