"""Throughput of an architecture: measured alone on its device, interleaved with a fixed reference workload, cached.

psutil is imported where it is first used, so that the command starts fast.
"""

import gc
import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from recallfront.models import build
from recallfront.models.decoding.decode_graph import DecodeGraph
from recallfront.platform.errors import one_line
from recallfront.platform.home import write_whole
from recallfront.platform.metrics import BUSY_CORES, IDLE_CORES, SPREAD, THROUGHPUTS, most_rate_spread
from recallfront.platform.trial.quiet import Device
from recallfront.sweeps.base import digest, seal, unseal
from recallfront.sweeps.trial import MeasurementConfig, TrialConfig

_VERSION = 1  # of the protocol; older cached figures are not comparable
_REFERENCE_SIZE = 384
_LEAST_ROUNDS = 3  # that give a median and its spread
# seconds; a machine that others keep busy is measured all the same, and the record says so
_LONGEST_WAIT_FOR_IDLE = 2.0


def measurement_key(
    config: TrialConfig, device_kind: str, code_version: str, precise: Collection[str] = THROUGHPUTS
) -> str:
    """What a measurement is cached by: deployment shape, device kind, software versions and protocol."""
    identity: dict[str, Any] = {
        "model": config.deployment_model.model_dump(mode="json"),
        "protocol": config.measurement.model_dump(mode="json", exclude={"deployment"})
        | {"version": _VERSION},
        "precision": config.training.precision,
        "threads": config.resources.threads,
        "device": device_kind,
        "software": {"torch": torch.__version__, "code": code_version},
    }
    if set(precise) != set(THROUGHPUTS):
        identity["precise"] = sorted(precise)
    return digest(json.dumps(identity, sort_keys=True))


def measured(
    config: TrialConfig,
    *,
    device: Device,
    folder: Path,
    code_version: str,
    fresh: bool = False,
    precise: Collection[str] = THROUGHPUTS,
) -> dict[str, Any]:
    """The throughput figures of a trial: from the cache unless `fresh`, else measured now with the device held alone.

    The protocol's repeats and spread hold for the figures in `precise`, a sweep's objectives; the others get the least
    that gives a median.

    Returns:
        `THROUGHPUTS` in tokens/s (medians, at the nominal speed of the device kind: see `_nominal_seconds`) and
        `<name>_spread` (half the p20..p80 width, tokens/s), `state_bytes` a row at the measured context length,
        `materialised_state_bytes`, what the authors' code holds of it, and what describes the measurement itself under
        `measurement`.
    """
    kind = device_kind(device.name)
    path = folder / f"{measurement_key(config, kind, code_version, precise)}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        cached, damage = (None, None) if fresh else _read_cached(path)
        if cached is not None:
            return cached
        with device.alone():
            scale = folder / f"reference-{_reference_key(config, kind)}.json"
            figures = _measure(config, device.name, scale, precise)
        details = figures["measurement"]
        details |= {"device": kind, "torch": torch.__version__, "code_version": code_version}
        damages = [damage, details.pop("notice", None)]
        write_whole(path, seal(figures))
    if any(damages):
        details["notice"] = "; ".join(filter(None, damages))
    return figures


def measured_again(
    config: TrialConfig,
    *,
    device: Device,
    folder: Path,
    code_version: str,
    precise: Collection[str] = THROUGHPUTS,
) -> dict[str, Any] | None:
    """A second measurement in the place of a cached one in doubt, if it is the better one; figures as of `measured`.

    None if this kind of device has none in the cache: figures of another are not comparable. A cached one that is not
    in doubt, as a second sweep may have left it, is the answer as it is.
    """
    path = folder / f"{measurement_key(config, device_kind(device.name), code_version, precise)}.json"
    before, _ = _read_cached(path)
    if before is None or not in_doubt(before, config):
        return before
    figures = measured(
        config, device=device, folder=folder, code_version=code_version, fresh=True, precise=precise
    )
    if _doubt(figures) < _doubt(before):
        return figures
    write_whole(path, seal(before))
    return before


def as_metrics(figures: dict[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """A measurement as the metrics of a trial, and what describes the measurement itself."""
    details = figures["measurement"]
    numbers = figures | {BUSY_CORES: details["neighbours_cores_busy"]}
    return {name: float(value) for name, value in numbers.items() if name != "measurement"}, details


def in_doubt(figures: Mapping[str, Any], config: TrialConfig) -> bool:
    """Whether a measurement was made beside other work, or missed the spread that its protocol asks for."""
    busy, spread = _doubt(figures)
    return busy or spread > most_rate_spread(config.measurement.target_spread)


def _doubt(figures: Mapping[str, Any]) -> tuple[bool, float]:
    """Whether other work ran beside, and the largest relative spread: the less of both, the better."""
    busy = figures[BUSY_CORES] if BUSY_CORES in figures else figures["measurement"]["neighbours_cores_busy"]
    precise = figures["measurement"]["precise"]
    spreads = [figures[f"{name}{SPREAD}"] / figures[name] for name in precise]
    return busy > IDLE_CORES, max(spreads, default=0.0)


def _reference_key(config: TrialConfig, kind: str) -> str:
    """What the time of the reference workload depends on, besides the load of its machine."""
    identity: dict[str, Any] = {
        "device": kind,
        "threads": config.resources.threads,
        "protocol": [_VERSION, _REFERENCE_SIZE],
        "torch": torch.__version__,
    }
    return digest(json.dumps(identity, sort_keys=True))[:16]


def _read_cached(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """A cached measurement, or None; and if there is a damaged one, a sentence on it."""
    try:
        figures = unseal(path.read_bytes())
        wanted = [name for figure in THROUGHPUTS for name in (figure, f"{figure}_spread")]
        if not all(math.isfinite(figures[name]) for name in (*wanted, "state_bytes")):
            raise ValueError("a figure is not finite")
        return figures, None
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, TypeError, KeyError) as error:
        return None, f"a damaged measurement was made again ({path.name[:12]}: {one_line(error)})"


def device_kind(name: str) -> str:
    """The model name of a device: figures of different kinds are not comparable."""
    if name.startswith("cuda"):
        return torch.cuda.get_device_name(name)
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown CPU"


def _measure(
    config: TrialConfig, device_name: str, nominal_path: Path, precise: Collection[str]
) -> dict[str, Any]:
    protocol, model_config = config.measurement, config.deployment_model
    dtype = getattr(torch, config.training.precision)
    device = torch.device(device_name)
    model = build(model_config, seed=0).to(device=device, dtype=dtype)
    tokens = torch.randint(
        model_config.vocab_size,
        (protocol.batch_size, max(protocol.context_length, protocol.train_length)),
        generator=torch.Generator().manual_seed(0),
    ).to(device)
    busy = _wait_for_idle_neighbours(config.resources.threads)
    work = _Workloads(model, tokens, protocol)
    seconds = _rounds(work, protocol, device, precise)
    figures: dict[str, Any] = {}
    reference = np.array(seconds["reference"])
    middle = float(np.median(reference))
    quiet = busy <= IDLE_CORES and _relative_spread(reference) <= protocol.target_spread
    nominal, damage = _nominal_seconds(nominal_path, middle, quiet=quiet)
    slowdown = middle / nominal
    for name in THROUGHPUTS:
        rates = work.tokens_of[name] / np.array(seconds[name]) * slowdown
        low, rate, high = np.percentile(rates, [20, 50, 80])
        figures |= {name: float(rate), f"{name}_spread": float(high - low) / 2}
    figures["state_bytes"] = work.state_bytes // protocol.batch_size
    context = protocol.context_length
    twice = model_config.materialised_state_elements(context) - model_config.state_elements(context)
    wide = torch.promote_types(dtype, torch.float32)  # of sums over the text
    figures["materialised_state_bytes"] = figures["state_bytes"] + twice * wide.itemsize
    figures["measurement"] = {
        "rounds": len(reference),
        "precise": sorted(precise),
        "slowdown": slowdown,
        "reference_seconds": middle,
        "reference_spread": _relative_spread(reference),
        "neighbours_cores_busy": busy,
        "threads": torch.get_num_threads(),
    } | ({"notice": damage} if damage else {})
    del model, work
    gc.collect()
    return figures


class _Workloads:
    """What one round of a measurement runs, each a callable; decoding continues from the state that prefill left."""

    def __init__(self, model: Any, tokens: Tensor, protocol: MeasurementConfig) -> None:
        self.model, self.tokens, self.protocol = model, tokens, protocol
        self.state_bytes = 0
        self._state: Any = None
        self._graph: Any = None
        batch = protocol.batch_size
        self.tokens_of = {
            "prefill_tokens_per_second": batch * protocol.context_length,
            "decode_tokens_per_second": batch * protocol.decode_tokens,
            "train_tokens_per_second": batch * protocol.train_length,
        }
        size = _REFERENCE_SIZE
        generator = torch.Generator().manual_seed(0)
        self._matrix = torch.randn(size, size, generator=generator).to(tokens.device) / size**0.5

    def all(self) -> dict[str, Callable[[], None]]:
        names = dict(zip(THROUGHPUTS, (self.prefill, self.decode, self.train), strict=True))
        return {"reference": self.reference} | names

    def reference(self) -> None:
        """A fixed chain of matrix products: where its time moves, the machine moved, not the model."""
        x = self._matrix
        for _ in range(8):
            x = x @ self._matrix

    @torch.no_grad()
    def prefill(self) -> None:
        state = self.model.init_state(self.protocol.batch_size)
        _, self._state = self.model.prefill(self.tokens[:, : self.protocol.context_length], state)
        self.state_bytes = self.model.state_bytes(self._state)

    @torch.no_grad()
    def decode(self) -> None:
        token = self.tokens[:, 0]
        if token.is_cuda:
            self._decode_by_graph(token)
            return
        for _ in range(self.protocol.decode_tokens):
            logits, self._state = self.model.step(token, self._state)
            token = logits.argmax(-1)

    def _decode_by_graph(self, token: Tensor) -> None:
        """The step is recorded in the round of warm-up and replayed in the others, as generation does."""
        if self._graph is None:
            capacity = self._state.longest + self.protocol.decode_tokens
            self._graph = DecodeGraph(self.model, self._state, capacity)
        else:
            self._graph.load(self._state)
        for _ in range(self.protocol.decode_tokens):
            token = self._graph.step(token).argmax(-1)

    def train(self) -> None:
        tokens = self.tokens[:, : self.protocol.train_length]
        logits = self.model(tokens)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten()).backward()
        self.model.zero_grad(set_to_none=True)


def _rounds(
    work: _Workloads, protocol: MeasurementConfig, device: torch.device, precise: Collection[str]
) -> dict[str, list[float]]:
    """Seconds of each workload in each round, after one round of warm-up; more rounds while the spread is too wide.

    What need not be precise is left out of later rounds, except that decoding starts from the state of a prefill.
    """
    needed = {"reference", *precise}
    beside = {"prefill_tokens_per_second"} if "decode_tokens_per_second" in needed else set()
    least = protocol.repeats if precise else _LEAST_ROUNDS
    seconds: dict[str, list[float]] = {name: [] for name in work.all()}
    for run in work.all().values():
        run()
    while (number := len(seconds["reference"])) < protocol.max_repeats:
        for name, run in work.all().items():
            if number < _LEAST_ROUNDS or name in needed | beside:
                seconds[name].append(_seconds(run, device))
        settled = max(_relative_spread(np.array(seconds[name])) for name in needed) <= protocol.target_spread
        if number + 1 >= least and settled:
            break
    return seconds


def _seconds(run: Callable[[], None], device: torch.device) -> float:
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


def _nominal_seconds(path: Path, seconds: float, *, quiet: bool) -> tuple[float, str | None]:
    """What the reference workload takes on this kind of device: as the first quiet measurement of this home found it.

    Machines change speed: a shared host, a hot chip. Figures of different hours are made comparable by the ratio of
    the reference's time to this one, which is recorded as `slowdown`. A measurement with other load beside it sets the
    scale only until a quiet one does. If the scale was damaged it is set anew, and the second value says so.
    """
    damage = None
    try:
        scale = unseal(path.read_bytes())
        if scale["quiet"] or not quiet:
            return float(scale["seconds"]), None
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError) as error:
        damage = f"the damaged scale of throughput was set anew ({path.name}: {one_line(error)})"
    write_whole(path, seal({"seconds": seconds, "quiet": quiet}))
    return seconds, damage


def _relative_spread(values: "np.ndarray[Any, np.dtype[np.float64]]") -> float:
    low, middle, high = np.percentile(values, [20, 50, 80])
    return float((high - low) / 2 / middle)


def _wait_for_idle_neighbours(threads: int) -> float:
    """Wait until processes that are not ours leave `threads` cores free; returns the cores they kept busy at the end.

    Trials wait for a measurement by themselves (`quiet`); this is for what knows nothing of it, such as a worker that
    is still importing.
    """
    import psutil

    deadline = time.monotonic() + _LONGEST_WAIT_FOR_IDLE
    cores = psutil.cpu_count() or 1
    while True:
        busy = psutil.cpu_percent(interval=0.1) / 100 * cores
        if busy <= IDLE_CORES or time.monotonic() > deadline:
            return round(busy, 2)
