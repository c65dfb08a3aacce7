"""What a device can do at best, measured on it, and the share of it that a workload reaches."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from recallfront.models import Architecture
from recallfront.platform.home import write_whole
from recallfront.sweeps.base import seal, text_digest, unseal

_REPEATS = 5
# bytes of the array that is copied: larger than the caches
_COPIED = {"cpu": 64 << 20, "cuda": 1 << 30}
_MATRIX = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class Roofs:
    """The best rates of a device."""

    bytes_per_second: float  # read and written by a copy
    flops_per_second: float  # of a matrix product, a multiply-add counted as two

    def share(self, cost: "Cost", seconds: float) -> float:
        """The time that a workload needs at least over the time it took; above 1 if caches held what it reads."""
        return max(cost.bytes / self.bytes_per_second, cost.flops / self.flops_per_second) / seconds


@dataclass(frozen=True)
class Cost:
    """What a workload cannot do without."""

    bytes: float  # of weights and state, each moved once
    flops: float


def measured_roofs(folder: Path, device: torch.device, kind: str, dtype: torch.dtype) -> Roofs:
    """The roofs of this kind of device with the threads that are set, measured once a home and precision."""
    identity = [kind, torch.get_num_threads(), str(dtype), torch.__version__]
    path = folder / f"roofs-{text_digest(json.dumps(identity))[:16]}.json"
    try:
        return Roofs(**unseal(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        roofs = _measure(device, dtype)
    write_whole(path, seal(asdict(roofs)))
    return roofs


@torch.no_grad()
def _measure(device: torch.device, dtype: torch.dtype) -> Roofs:
    size, side = _COPIED[device.type], _MATRIX[device.type]
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    copying = _peak_seconds(lambda: target.copy_(source), device)
    matrix = torch.randn(side, side, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    multiplying = _peak_seconds(lambda: matrix @ matrix, device)
    return Roofs(2 * size / copying, 2 * side**3 / multiplying)


def _peak_seconds(run: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a run, after one of warm-up."""
    times = []
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def step_cost(model: Architecture, *, rows: int, context: int, state_bytes: int, number_bytes: int) -> Cost:
    """One decode step: all weights but the tables that rows are looked up in, and each row's state."""
    flops = model.forward_flops(context + 1) - model.forward_flops(context)
    return Cost(_weights(model) * number_bytes + rows * state_bytes, rows * flops)


def prefill_cost(
    model: Architecture, *, rows: int, context: int, state_bytes: int, number_bytes: int
) -> Cost:
    """Prompts of `context` tokens, with logits after the last of each."""
    unasked = 2 * (context - 1) * model.vocab_size * model.width
    flops = model.forward_flops(context) - unasked
    return Cost(_weights(model) * number_bytes + rows * state_bytes, rows * flops)


def train_cost(model: Architecture, *, rows: int, length: int, number_bytes: int) -> Cost:
    """Forward and backward: weights are read twice, gradients written once, and there are three products for one."""
    return Cost(3 * _weights(model) * number_bytes, 3 * rows * model.forward_flops(length))


def _weights(model: Architecture) -> int:
    tables = model.learned_positions + (0 if model.tied_embeddings else model.vocab_size)
    return model.parameter_count() - tables * model.width
