"""Timing on a GPU: candidates in turns, each with a cold cache and its launches given ahead of time."""

import math
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from recallfront.benchmarks.kernels.cases import OURS, Candidates, Contender, Tensors

_FLUSHED = 64 * 2**20  # float32 numbers read between runs, 256 MiB: several times the second-level cache
_AHEAD = 2_000_000  # clock cycles that the GPU sleeps while the host gives it the launches, about 1 ms
# measured for each case, and how often each candidate runs at least and at most
_SECONDS, _ROUNDS = (0.6, (5, 40))
# of two candidates, relative, in norm: bfloat16 rounds to 2^-9 a few times over; a slip is larger
_CLOSE = 1 / 16


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a run: 20th, 50th and 80th percentile."""

    p20: float
    p50: float
    p80: float

    @classmethod
    def of(cls, milliseconds: list[float]) -> "Timing":
        if len(milliseconds) == 1:
            return cls(*milliseconds * 3)
        cuts = statistics.quantiles(milliseconds, n=10, method="inclusive")
        return cls(cuts[1], statistics.median(milliseconds), cuts[7])


@dataclass(frozen=True)
class Ceilings:
    """What this machine reached in this run: bytes a second of a copy, operations a second of a bf16 product."""

    copy: float
    product: float


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError if the block takes longer, compilations included. In the main thread alone.

    What waits in a kernel is not interrupted before the kernel ends. Another's alarm is set back afterwards.
    """

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {seconds:.0f} s")

    if seconds <= 0:
        late()
    before, start = signal.signal(signal.SIGALRM, late), time.monotonic()
    others, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        left = max(others - (time.monotonic() - start), 1e-3) if others else 0.0
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left)


class Stopwatch:
    """Milliseconds of single runs on a device; on a CPU by the host's clock, to try the benchmarks themselves."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rounds = _ROUNDS if device.type == "cuda" else (2, 2)
        self._flushed = torch.zeros(_FLUSHED if device.type == "cuda" else 1, device=device)

    def run(self, candidate: Contender) -> float:
        """Milliseconds of one run."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            candidate()
            return (time.perf_counter() - start) * 1e3
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flushed.sum()  # read, not written: nothing is left in the cache that must be written back
        torch.cuda._sleep(_AHEAD)
        begin.record()
        candidate()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))


def difference(found: Tensors, expected: Tensors) -> float:
    """The largest difference between two outputs in norm, relative to the second, over their tensors.

    Infinite where shapes differ or something is not finite.
    """
    worst = 0.0
    for one, other in zip(_tensors(found), _tensors(expected), strict=True):
        if one.shape != other.shape:
            return math.inf
        off, size = (torch.linalg.vector_norm(x, dtype=torch.float32) for x in (one - other, other))
        relative = float(off / size.clamp(min=1e-30))
        worst = max(worst, relative if math.isfinite(relative) else math.inf)
    return worst


def _tensors(output: Tensors) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def interleaved(
    candidates: Candidates,
    watch: Stopwatch,
    *,
    seconds: float,
    apart: tuple[str, ...] = (),
    close: float = _CLOSE,
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Timings by name, and why a candidate gave none; `seconds` for all, compilations included.

    The first runs warm up, and their outputs are compared with ours: a candidate that computes something else has
    no timing, but for those `apart`. Then all run in turns.
    """
    end = time.monotonic() + seconds
    failures: dict[str, str] = {}
    first: dict[str, float] = {}
    ours: Tensors | None = None
    for name, candidate in candidates.items():
        try:
            with within(end - time.monotonic()):
                output = candidate()
                if name == OURS:
                    ours = tuple(tensor.clone() for tensor in _tensors(output))
                elif name not in apart and ours is not None and (off := difference(output, ours)) > close:
                    failures[name] = f"its result differs from ours by {off:.1%}"
                    continue
                del output
                first[name] = min(watch.run(candidate) for _ in range(2))
        except Exception as error:  # a peer that cannot do it must not end the benchmark
            failures[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            first.pop(name, None)
            if watch.device.type == "cuda":
                torch.cuda.empty_cache()
    del ours
    found: dict[str, list[float]] = {name: [] for name in first}
    rounds = int(_SECONDS * 1e3 / max(sum(first.values()) + 2 * len(first), 1e-3))
    for turn in range(min(max(rounds, watch.rounds[0]), watch.rounds[1])):
        if turn >= watch.rounds[0] and time.monotonic() > end:
            break
        for name, times in found.items():
            times.append(watch.run(candidates[name]))
    return {name: Timing.of(times) for name, times in found.items()}, failures


def ceilings(watch: Stopwatch, *, tiny: bool = False) -> Ceilings:
    """Measure a device-to-device copy, bytes read and written, and a bf16 matrix product on random data."""
    numbers, size = (2**12, 32) if tiny else (2**31, 8192)
    source = torch.empty(numbers, dtype=torch.bfloat16, device=watch.device).normal_()
    target = torch.empty_like(source)
    matrix = torch.randn(size, size, dtype=torch.bfloat16, device=watch.device)
    runs: Candidates = {"copy": lambda: target.copy_(source), "product": lambda: matrix @ matrix}
    timings, failures = interleaved(runs, watch, seconds=60)
    if failures:
        raise RuntimeError("; ".join(failures.values()))
    copied, multiplied = (timings[name].p50 / 1e3 for name in ("copy", "product"))
    return Ceilings(2 * source.nbytes / copied, 2 * float(size) ** 3 / multiplied)
