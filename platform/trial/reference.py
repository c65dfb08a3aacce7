"""How fast a machine is just now: fixed work, timed between the workloads of a measurement.

Machines change speed: a shared host, a hot chip. Matrix products and small operations slow down each in its own way,
and a model's time is made of both; so is the reference's. What it corrects it leaves uncertain in part.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock

from recallfront.platform.errors import one_line
from recallfront.platform.home import write_whole
from recallfront.platform.home.vault import keep_file, read_kept
from recallfront.sweeps.base import seal, unseal

# Numbers and repetitions of each kind. On a GPU, small operations would time the host that launches them.
SIZES: Final[dict[str, dict[str, tuple[int, int]]]] = {
    "cpu": {"products": (384, 4), "operations": (256, 400)},
    "cuda": {"products": (2048, 8), "copies": (1 << 24, 16)},
}
# Share of a correction that the interval of what it corrects contains, so that of two measurements of one model in
# different hours nine in ten overlap on a shared host: tests/attack/test_two_homes.py.
_OPEN = 0.35
_SCALE_SECONDS = 8.0  # longer than most slow spells, once a home
_FULL_SPEED = 2.0  # percentile of seconds: the least may be an outlier


class FixedWork:
    """The fixed work, on one device."""

    def __init__(self, device: torch.device) -> None:
        self._sizes = SIZES[device.type]
        generator = torch.Generator().manual_seed(0)
        size, _ = self._sizes["products"]
        self._matrix = torch.randn(size, size, generator=generator).to(device) / size**0.5
        (other,) = self._sizes.keys() - {"products"}
        self._numbers = torch.ones(self._sizes[other][0], device=device)
        for kind in self._sizes:  # what it needs of the memory it has from now on
            getattr(self, kind)()

    def timed(self, timer: Callable[[Callable[[], None]], float]) -> dict[str, float]:
        """Seconds of each kind, which runs once before: what a model has left in the caches does not count."""
        seconds = {}
        for kind in self._sizes:
            run: Callable[[], None] = getattr(self, kind)
            run()
            seconds[kind] = timer(run)
        return seconds

    def products(self) -> None:
        """A chain of matrix products."""
        x = self._matrix
        for _ in range(self._sizes["products"][1]):
            x = x @ self._matrix

    def operations(self) -> None:
        """A chain of operations on few numbers: calling them takes the time, as in a small model's decoding."""
        x = self._numbers
        for _ in range(self._sizes["operations"][1]):
            x = torch.tanh(x * 0.5 + 0.1)

    def copies(self) -> None:
        """Read and write more numbers than the caches hold."""
        for _ in range(self._sizes["copies"][1]):
            self._numbers.mul_(1.0)


def together(rounds: Sequence[Mapping[str, float]]) -> npt.NDArray[np.float64]:
    """Seconds of the whole reference in each round: the geometric mean of its kinds."""
    logarithms = np.log([list(one.values()) for one in rounds])
    middle: npt.NDArray[np.float64] = np.exp(logarithms.mean(axis=1))
    return middle


def of_each(rounds: Sequence[Mapping[str, float]], percentile: float = 50.0) -> dict[str, float]:
    """Seconds of each kind, a percentile of the rounds."""
    return {kind: float(np.percentile([one[kind] for one in rounds], percentile)) for kind in rounds[0]}


def slowdown(found: Mapping[str, float], scale: Mapping[str, float]) -> float:
    """How much slower a machine is than its scale says: the geometric mean over the kinds of work."""
    return float(np.exp(np.mean([np.log(found[kind] / scale[kind]) for kind in found])))


def left_open(factor: float) -> float:
    """The relative error that may be left in what was corrected by a slowdown."""
    return _OPEN * abs(factor - 1)


def at_full_speed(fixed: FixedWork, timer: Callable[[Callable[[], None]], float]) -> dict[str, float]:
    """Seconds of each kind when nothing slows the machine down.

    A shared host has slow spells of several seconds, which no load of this machine explains; the fastest of a longer
    time do not depend on them.
    """
    rounds: list[dict[str, float]] = []
    deadline = time.monotonic() + _SCALE_SECONDS
    while not rounds or time.monotonic() < deadline:
        rounds.append(fixed.timed(timer))
    return of_each(rounds, _FULL_SPEED)


def kept_scale(
    path: Path, kinds: Collection[str], find: Callable[[], dict[str, float]], *, final: bool
) -> tuple[dict[str, float], str | None]:
    """Seconds of each kind on this kind of device, which figures of different hours are made comparable by.

    The first measurement of a home sets them with what `find` returns, and the first `final` one for good. If the scale
    was damaged it is set anew, and the second value says so.
    """
    damage = None
    with FileLock(f"{path}.lock"):  # of two that find none, the second takes what the first has found
        try:
            kept = unseal(path.read_bytes())
            if kept["final"] or not final:
                return {kind: float(kept["seconds"][kind]) for kind in kinds}, None
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError) as error:
            damage = f"the damaged scale of throughput was set anew ({path.name}: {one_line(error)})"
        scale = find()
        write_whole(path, seal({"seconds": scale, "final": final}))
    return scale, damage


def share_scale(path: Path) -> None:
    """Make this machine's scale and that at the home's address one: one for good stays, else the one that is there.

    Raises HomeAway: the store does not answer.
    """
    with FileLock(f"{path}.lock"):
        there = read_kept(path)
        here = path.read_bytes() if path.exists() else None
        if there is not None and _standing(there) >= _standing(here):
            write_whole(path, there.decode("utf-8", errors="replace"))
        elif here is not None:
            keep_file(path)


def _standing(scale: bytes | None) -> int:
    """0: there is none, or a damaged one; 1: one for now; 2: one for good."""
    try:
        return 0 if scale is None else 1 + bool(unseal(scale)["final"])
    except (ValueError, KeyError):
        return 0
