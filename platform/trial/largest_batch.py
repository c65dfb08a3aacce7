"""The largest batch that fits a memory, found by trying: what a batch takes is measured, not predicted."""

import gc
import os
from collections.abc import Callable

import torch
from torch.autograd.profiler import profile

_FINENESS = 256  # the last probe is within this share of the batch


def largest_batch(taken: Callable[[int], int | None], bound: int | None, row_bytes: int, *, most: int) -> int:
    """The largest batch whose rows fit, by doubling and then bisection; 0 if not even one row does.

    Args:
        taken: rows -> bytes that they take at their peak, None where memory ran out.
        bound: bytes that they may take; None: as many as can be had.
        row_bytes: what a row takes by the state's formula, a first guess that is never above what it really takes.
        most: rows that are enough.
    """

    def fits(rows: int) -> int | None:
        found = taken(rows)
        return found if found is not None and (bound is None or found <= bound) else None

    low, high = 0, most + 1
    probe = 1
    while low < most and probe < high:
        found = fits(probe)
        if found is None:
            high = probe
            break
        low = probe
        probe = 2 * low
        if bound is not None:
            # fixed costs make a row look larger than it is: this is never far above what fits
            reachable = low * bound // max(found, low * row_bytes, 1) + 1
            probe = max(low + 1, reachable if low > 1 else min(reachable, 8))
        probe = min(probe, most)
    while high - low > max(1, low // _FINENESS):
        middle = (low + high) // 2
        if fits(middle) is None:
            high = middle
        else:
            low = middle
    return low


def peak_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """Bytes of tensors that `run` holds at its peak, beyond what there is before; None if memory runs out."""
    if device.type != "cuda":
        return _peak_on_cpu(run)
    peak = _peak_on_gpu(run, device)
    # what failed was held by its traceback until here
    gc.collect()
    torch.cuda.empty_cache()
    return peak


def _peak_on_gpu(run: Callable[[], object], device: torch.device) -> int | None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        run()
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError:
        return None
    return int(torch.cuda.max_memory_allocated(device) - before)


def _peak_on_cpu(run: Callable[[], object]) -> int | None:
    """The allocator's own account, through PyTorch's profiler: the process's size also counts what was freed."""
    # otherwise it tells of every start on stderr
    os.environ.setdefault("KINETO_LOG_LEVEL", "7")
    with profile(use_cpu=True, profile_memory=True) as profiled:
        try:
            run()
        except MemoryError:
            return None
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):
                raise
            return None
    held = peak = 0
    for event in profiled.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
