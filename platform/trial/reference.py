"""How fast a machine is just now: fixed work of three kinds, timed between the workloads of a measurement.

Machines change speed: a shared host, a hot chip. Matrix products, small operations and copies slow down each in its own
way, and a model's time is made of all three. What they have in common corrects a throughput; how far they differ tells
how well it can be corrected.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from recallfront.platform.errors import one_line
from recallfront.platform.home import write_whole
from recallfront.sweeps.base import seal, unseal

SIZES = {"products": (384, 8), "operations": (256, 400), "copies": (1 << 22, 2)}  # numbers, repetitions
_LARGER_ON_A_GPU = 64  # times as many numbers are copied, or a launch would take longer than they do
_SURE = 2.0  # standard deviations
_SCALE_SECONDS = 10.0  # longer than most slow spells, once a home
_FULL_SPEED = 5.0  # percentile of seconds: single ones may be mistaken


class FixedWork:
    """The fixed work, on one device."""

    def __init__(self, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        size, _ = SIZES["products"]
        self._matrix = torch.randn(size, size, generator=generator).to(device) / size**0.5
        self._short = torch.randn(SIZES["operations"][0], generator=generator).to(device)
        more = 1 if device.type == "cpu" else _LARGER_ON_A_GPU
        self._long = torch.ones(more * SIZES["copies"][0], device=device)

    def all(self) -> dict[str, Callable[[], None]]:
        """Each kind by its name, as in `SIZES`."""
        return {"products": self.products, "operations": self.operations, "copies": self.copies}

    def products(self) -> None:
        """A chain of matrix products."""
        x = self._matrix
        for _ in range(SIZES["products"][1]):
            x = x @ self._matrix

    def operations(self) -> None:
        """A chain of operations on few numbers: their launches take the time, as those of a small model's decoding."""
        x = self._short
        for _ in range(SIZES["operations"][1]):
            x = torch.tanh(x * 0.5 + 0.1)

    def copies(self) -> None:
        """Read and write what no cache near the core holds."""
        for _ in range(SIZES["copies"][1]):
            self._long.mul_(1.0)


@dataclass(frozen=True)
class Slowdown:
    """How much slower a machine is than its scale says."""

    factor: float  # over all kinds of work
    uncertainty: float  # of what is corrected by it, relative: twice the standard deviation of the kinds


def together(seconds: Mapping[str, Sequence[float]]) -> npt.NDArray[np.float64]:
    """Seconds of the whole reference in each round: the geometric mean of its kinds."""
    logarithms = np.log(np.array([seconds[kind] for kind in SIZES], dtype=np.float64))
    middle: npt.NDArray[np.float64] = np.exp(logarithms.mean(axis=0))
    return middle


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Seconds of each kind, over the rounds."""
    return {kind: float(np.median(seconds[kind])) for kind in SIZES}


def slowdown(found: Mapping[str, float], scale: Mapping[str, float]) -> Slowdown:
    """How the seconds of each kind compare with those of the scale."""
    ratios = np.log([found[kind] / scale[kind] for kind in SIZES])
    return Slowdown(float(np.exp(ratios.mean())), _SURE * float(ratios.std(ddof=1)))


def at_full_speed(fixed: FixedWork, timed: Callable[[Callable[[], None]], float]) -> dict[str, float]:
    """Seconds of each kind when nothing slows the machine down.

    A shared host has slow spells of several seconds, which no load of this machine explains: the fastest of a longer
    time are the same from hour to hour within 2 to 5 %, where medians differ by a third.
    """
    seconds: dict[str, list[float]] = {kind: [] for kind in SIZES}
    deadline = time.monotonic() + _SCALE_SECONDS
    while True:
        for kind, run in fixed.all().items():
            seconds[kind].append(timed(run))
        if time.monotonic() >= deadline:
            return {kind: float(np.percentile(seconds[kind], _FULL_SPEED)) for kind in SIZES}


def kept_scale(
    path: Path, found: Callable[[], dict[str, float]], *, quiet: bool
) -> tuple[dict[str, float], str | None]:
    """Seconds of each kind on this kind of device: as the first quiet measurement of this home found them.

    Figures of different hours are made comparable by them. A measurement with other load beside it sets the scale only
    until a quiet one does. If the scale was damaged it is set anew, and the second value says so.

    Args:
        found: times them, if the scale is to be set.
    """
    damage = None
    try:
        scale = unseal(path.read_bytes())
        if scale["quiet"] or not quiet:
            return {kind: float(scale["seconds"][kind]) for kind in SIZES}, None
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError) as error:
        damage = f"the damaged scale of throughput was set anew ({path.name}: {one_line(error)})"
    scale = found()
    write_whole(path, seal({"seconds": scale, "quiet": quiet}))
    return scale, damage
