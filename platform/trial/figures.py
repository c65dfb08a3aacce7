"""The figures of a measurement: at each context interleaved rounds of workloads, and what follows from their times.

psutil is imported where it is first used, so that the command starts fast.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recallfront.models import LanguageModel, build
from recallfront.platform.metrics import IDLE_CORES, SPEED_UNCERTAINTY, SPREAD, THROUGHPUTS
from recallfront.platform.trial.energy import energy_counter
from recallfront.platform.trial.largest_batch import largest_batch, peak_bytes
from recallfront.platform.trial.reference import (
    FixedWork,
    at_full_speed,
    kept_scale,
    left_open,
    of_each,
    slowdown,
    together,
)
from recallfront.platform.trial.roofline import measured_roofs, prefill_cost, step_cost, train_cost
from recallfront.platform.trial.workloads import Workloads
from recallfront.sweeps.objectives import AT_CONTEXTS, at_context
from recallfront.sweeps.trial import MeasurementConfig, TrialConfig

_MOST_ROWS = 2**24  # of a largest batch
_ENERGY_SECONDS = 1.0  # of decoding: a GPU's counter moves some ten times a second
_LEAST_ROUNDS = 3  # that give a median and its spread
# seconds; a machine that others keep busy is measured all the same, and the record says so
_LONGEST_WAIT_FOR_IDLE = 2.0

_Timer = Callable[[Callable[[], None]], float]  # runs -> seconds


def device_kind(name: str) -> str:
    """The model name of a device: figures of different kinds are not comparable."""
    if name.startswith("cuda"):
        return torch.cuda.get_device_name(name)
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown CPU"


def measured_model(config: TrialConfig) -> LanguageModel:
    """The model that is measured, in memory: it is built before a measurement has its device for itself."""
    return build(config.deployment_model, seed=0).to(dtype=_dtype(config))


def figures_of(
    config: TrialConfig,
    model: LanguageModel,
    device_name: str,
    scale_path: Path,
    precise: Collection[str],
) -> dict[str, Any]:
    """Measure now, the device being held: the figures that `measure.measured` returns, without where they are from.

    Args:
        model: what `measured_model` has built.
        scale_path: file that the times of the reference on a quiet machine are kept in.
        precise: throughputs, also `<name>_at_<context>`, that the protocol's repeats and spread hold for.
    """
    protocol = config.measurement
    device = torch.device(device_name)
    model = model.to(device)
    # a measurement that is never repeated need not wait for idle cores
    patience = _LONGEST_WAIT_FOR_IDLE if protocol.max_repeats > protocol.repeats else 0.0
    busy = _wait_for_idle_neighbours(config.resources.threads, patience)
    # before a largest batch is looked for, which leaves no memory
    machine = _Machine(device, busy, scale_path, FixedWork(device))
    main = protocol.context_length
    asked = {name for name in THROUGHPUTS if {name, at_context(name, main)} & set(precise)}
    also = THROUGHPUTS if protocol.also is None else protocol.also
    figures, details = _at_one_context(config, model, machine, main, asked, also)
    twice = model.config.materialised_state_elements(main) - model.config.state_elements(main)
    # of sums over the text
    wide = torch.promote_types(_dtype(config), torch.float32)
    figures["materialised_state_bytes"] = figures["state_bytes"] + twice * wide.itemsize
    others: dict[str, Any] = {}
    for context in protocol.contexts:
        own, about = figures, details
        if context != main:
            asked = {name for name in THROUGHPUTS if at_context(name, context) in precise}
            beside = [name for name in also if name in AT_CONTEXTS]
            own, about = _at_one_context(config, model, machine, context, asked, beside)
            others[str(context)] = about
        figures[at_context(SPEED_UNCERTAINTY, context)] = own[SPEED_UNCERTAINTY]
        for name in AT_CONTEXTS:
            for figure in (name, name + SPREAD):
                if figure in own:
                    figures[at_context(name, context) + figure.removeprefix(name)] = own[figure]
    figures["measurement"] = details | {
        "precise": sorted(precise),
        "neighbours_cores_busy": busy,
        "threads": torch.get_num_threads(),
    }
    if others:
        figures["measurement"]["contexts"] = others
    return figures


@dataclass(frozen=True)
class _Machine:
    """Where a measurement is made."""

    device: torch.device
    busy: float  # cores that others keep so
    scale: Path  # where that of throughput is kept
    fixed: FixedWork


def _at_one_context(
    config: TrialConfig,
    model: LanguageModel,
    machine: _Machine,
    context: int,
    precise: Collection[str],
    also: Collection[str],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures at one context, and what describes their measurement."""
    protocol, device = config.measurement, machine.device
    prompt, lesson = (_tokens(config, length, device) for length in (context, protocol.train_length))
    work = Workloads(model, prompt, lesson, protocol.decode_tokens, {*precise, *also})
    figures: dict[str, Any] = {}
    if protocol.batch_size == "max":
        figures["max_batch_size"] = _use_largest_batch(work, config, device, context)
    timer = partial(_run_seconds, device=device)
    seconds, references = _rounds(work, machine.fixed, protocol, timer, precise)
    found = of_each(references)
    careful = protocol.max_repeats > protocol.repeats
    scale, damage = kept_scale(
        machine.scale,
        found,
        lambda: at_full_speed(machine.fixed, timer) if careful else found,
        final=careful and machine.busy <= IDLE_CORES,
    )
    factor = slowdown(found, scale)
    figures[SPEED_UNCERTAINTY] = left_open(factor)
    for name in work.all():
        rates = work.tokens_of[name] / np.array(seconds[name]) * factor
        low, rate, high = np.percentile(rates, [20, 50, 80])
        # within these rounds, and between this hour of the machine and another
        spread = math.hypot((high - low) / 2, figures[SPEED_UNCERTAINTY] * rate)
        figures |= {name: float(rate), name + SPREAD: spread}
    figures["state_bytes"] = work.state_bytes
    for figure, values in (
        ("time_to_first_token", seconds.get("prefill_tokens_per_second")),
        ("time_between_tokens", work.step_seconds),
    ):
        if not values:
            continue
        half, most = np.percentile(np.array(values) / factor * 1e3, [50, 95])
        figures |= {f"{figure}_p50_ms": float(half), f"{figure}_p95_ms": float(most)}
    if protocol.gives_shares:
        figures |= _shares(work, config, machine, context, figures)
    figures |= _energy(work, device)
    details = {
        "rounds": len(references),
        "slowdown": factor,
        "reference_seconds": found,
        "reference_spread": _relative_spread(together(references)),
    } | ({"notice": damage} if damage else {})
    return figures, details


def _tokens(config: TrialConfig, length: int, device: torch.device) -> torch.Tensor:
    shape = config.measurement.rows, length
    generator = torch.Generator().manual_seed(0)
    return torch.randint(config.deployment_model.vocab_size, shape, generator=generator).to(device)


def _dtype(config: TrialConfig) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, config.training.precision)
    return dtype


def _use_largest_batch(work: Workloads, config: TrialConfig, device: torch.device, context: int) -> int:
    """Find the largest batch that decodes at the context, and let the workloads decode it; returns its rows.

    Raises:
        MemoryError: not even one row fits, or the machine has less memory than the specification allows.
    """
    gigabytes = config.measurement.memory_gb
    weights = sum(p.numel() * p.element_size() for p in work.model.parameters())
    bound = None
    if gigabytes is not None:
        bound = int(gigabytes * 2**30) - weights
        free = _free_memory(device)
        if bound > free:
            raise MemoryError(
                f"measurement.memory_gb={gigabytes:g}: only {(free + weights) / 2**30:.1f} GiB are free for it"
            )
    work.prompt_one()
    rows = largest_batch(
        lambda batch: peak_bytes(lambda: work.try_batch(batch), device),
        bound,
        work.state_bytes,
        most=_MOST_ROWS,
    )
    if not rows:
        asked = "the memory of the device" if gigabytes is None else f"measurement.memory_gb={gigabytes:g}"
        raise MemoryError(f"{asked}: does not hold the weights and one row at a context of {context} tokens")
    work.decode_largest(rows)
    return rows


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def _shares(
    work: Workloads, config: TrialConfig, machine: _Machine, context: int, figures: dict[str, Any]
) -> dict[str, float]:
    """Each throughput as a share of what the device allows."""
    model, rows = config.deployment_model, len(work.prompt)
    kind = device_kind(str(machine.device))
    roofs = measured_roofs(machine.scale.parent, machine.device, kind, _dtype(config))
    sizes = {"state_bytes": work.state_bytes, "number_bytes": _dtype(config).itemsize, "context": context}
    costs = {
        "decode": (work.batch_size, step_cost(model, rows=work.batch_size, **sizes)),
        "prefill": (rows * context, prefill_cost(model, rows=rows, **sizes)),
        "train": (
            work.lesson.numel(),
            train_cost(model, rows=rows, length=work.lesson.shape[1], number_bytes=sizes["number_bytes"]),
        ),
    }
    return {
        f"{name}_roofline_share": roofs.share(cost, tokens / figures[f"{name}_tokens_per_second"])
        for name, (tokens, cost) in costs.items()
        if f"{name}_tokens_per_second" in work.wanted
    }


def _energy(work: Workloads, device: torch.device) -> dict[str, float]:
    """Joules that a decoded token costs, where the device tells."""
    counter = energy_counter(device)
    if counter is None or "decode_tokens_per_second" not in work.wanted:
        return {}
    work.begin_decoding()  # a graph is recorded before the counter is read
    tokens, start, before = 0, time.perf_counter(), counter()
    while time.perf_counter() - start < _ENERGY_SECONDS:
        work.begin_decoding()
        work.decode()
        tokens += work.tokens_of["decode_tokens_per_second"]
    return {"decode_joules_per_token": (counter() - before) / tokens}


def _rounds(
    work: Workloads,
    fixed: FixedWork,
    protocol: MeasurementConfig,
    timer: _Timer,
    precise: Collection[str],
) -> tuple[dict[str, list[float]], list[dict[str, float]]]:
    """Seconds of each workload in each round, and those of the fixed work; more rounds while a spread is too wide.

    A round of warm-up goes before. What need not be precise is left out of later rounds.
    """
    runs = work.all()
    needed = set(precise) & runs.keys()
    least = protocol.repeats if precise else _LEAST_ROUNDS
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    references: list[dict[str, float]] = []
    for name, run in runs.items():
        with _ready(work, name):
            run()
    work.step_seconds.clear()
    while len(references) < protocol.max_repeats:
        references.append(fixed.timed(timer))
        for name, run in runs.items():
            if len(references) <= _LEAST_ROUNDS or name in needed:
                with _ready(work, name):
                    seconds[name].append(timer(run))
        spreads = [_relative_spread(seconds[name]) for name in needed]
        widest = max([_relative_spread(together(references)), *spreads])
        if len(references) >= least and widest <= protocol.target_spread:
            break
    return seconds, references


@contextmanager
def _ready(work: Workloads, name: str) -> Iterator[None]:
    """Around one run of a workload: what a decoding needs is made before, and let go afterwards."""
    if name != "decode_tokens_per_second":
        yield
        return
    work.begin_decoding()
    yield
    work.end_decoding()


def _run_seconds(run: Callable[[], None], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _relative_spread(values: npt.NDArray[np.float64] | list[float]) -> float:
    low, middle, high = np.percentile(values, [20, 50, 80])
    return float((high - low) / 2 / middle)


def _wait_for_idle_neighbours(threads: int, patience: float) -> float:
    """Wait until processes that are not ours leave `threads` cores free; returns the cores they kept busy at the end.

    Trials wait for a measurement by themselves (`quiet`); this is for what knows nothing of it, such as a worker that
    is still importing.
    """
    import psutil

    deadline = time.monotonic() + patience
    cores = psutil.cpu_count() or 1
    while True:
        busy = psutil.cpu_percent(interval=0.1) / 100 * cores
        if busy <= IDLE_CORES or time.monotonic() > deadline:
            return round(busy, 2)
