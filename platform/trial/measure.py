"""Throughput of an architecture: measured alone on its device, interleaved with a fixed reference, cached."""

import gc
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from recallfront.platform.errors import one_line
from recallfront.platform.home import write_whole
from recallfront.platform.home.vault import fetch_file, keep_file
from recallfront.platform.metrics import (
    BUSY_CORES,
    IDLE_CORES,
    SPREAD,
    THROUGHPUTS,
    most_rate_spread,
    rate_spread,
)
from recallfront.platform.trial.energy import require_energy
from recallfront.platform.trial.figures import device_kind, figures_of, measured_model
from recallfront.platform.trial.quiet import Device
from recallfront.platform.trial.reference import SIZES, share_scale
from recallfront.sweeps.base import seal, text_digest, unseal
from recallfront.sweeps.trial import TrialConfig

_VERSION = 3  # of the protocol; older cached figures are not comparable


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
    return text_digest(json.dumps(identity, sort_keys=True))


def measured(
    config: TrialConfig,
    *,
    device: Device,
    folder: Path,
    code_version: str,
    fresh: bool = False,
    precise: Collection[str] = THROUGHPUTS,
    energies: Sequence[str] = (),
) -> dict[str, Any]:
    """The throughput figures of a trial: from the cache unless `fresh`, else measured now with the device held alone.

    The protocol's repeats and spread hold for the figures in `precise`, a sweep's objectives; the others get the least
    that gives a median. A cached measurement that lacks a figure in `energies` is made again.

    Returns:
        `THROUGHPUTS` in tokens/s (medians, at the speed that the home's scale is of: see `kept_scale`) and
        `<name>_spread` (half the p20..p80 width and what the correction leaves open, tokens/s), `state_bytes` a row at
        the measured context length, `materialised_state_bytes`, what the authors' code holds of it, and what describes
        the measurement itself under `measurement`.

    Raises:
        NoEnergy: the device does not tell what is in `energies`.
    """
    path = folder / f"{measurement_key(config, device_kind(device.name), code_version, precise)}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        cached, damage = (None, None) if fresh else _read_cached(path, config)
        if cached is not None and cached.keys() >= set(energies):
            return cached
        require_energy(torch.device(device.name), energies)
        figures = _measure(config, device, folder, code_version, precise)
        _keep(figures, path)
    if damage:
        told = figures["measurement"].get("notice")
        figures["measurement"]["notice"] = "; ".join(filter(None, [damage, told]))
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

    Only what has to be precise is measured again, if no other work falsified the rest, which takes most of the time.

    None if this kind of device has none in the cache: figures of another are not comparable. A cached one that is not
    in doubt, as a second sweep may have left it, is the answer as it is.
    """
    path = folder / f"{measurement_key(config, device_kind(device.name), code_version, precise)}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        before, _ = _read_cached(path, config)
        if before is None or not in_doubt(before, config):
            return before
        protocol = config.measurement
        # at several contexts or in a largest batch figures belong together
        if not (_is_busy(before) or protocol.contexts or protocol.batch_size == "max"):
            protocol = protocol.model_copy(update={"also": ()})
        asked = config.model_copy(update={"measurement": protocol})
        figures = before | _measure(asked, device, folder, code_version, precise)
        if _width(figures) >= _width(before):
            return before
        _keep(figures, path)
    return figures


def _measure(
    config: TrialConfig, device: Device, folder: Path, code_version: str, precise: Collection[str]
) -> dict[str, Any]:
    """The figures as they are found now; under `measurement` a `notice` if the scale was damaged."""
    kind = device_kind(device.name)
    scale = folder / f"reference-{_reference_key(config, kind)}.json"
    share_scale(scale)  # as the first quiet measurement on any node set it
    # beside training, so that nobody waits for it
    with device.shared():
        model = measured_model(config)
    with device.alone():
        figures = figures_of(config, model, device.name, scale, precise)
    share_scale(scale)
    del model
    gc.collect()
    details = figures["measurement"]
    details |= {"device": kind, "torch": torch.__version__, "code_version": code_version}
    return figures


def _keep(figures: dict[str, Any], path: Path) -> None:
    """Write figures to the cache, without what was amiss as they were found."""
    details = {name: value for name, value in figures["measurement"].items() if name != "notice"}
    write_whole(path, seal(figures | {"measurement": details}))
    keep_file(path)


def as_metrics(figures: dict[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """A measurement as the metrics of a trial, and what describes the measurement itself."""
    details = figures["measurement"]
    numbers = figures | {BUSY_CORES: details["neighbours_cores_busy"]}
    return {name: float(value) for name, value in numbers.items() if name != "measurement"}, details


def in_doubt(figures: Mapping[str, Any], config: TrialConfig) -> bool:
    """Whether a measurement was made beside other work, or missed the spread that its protocol asks for."""
    spreads = [rate_spread(figures, name) for name in figures["measurement"]["precise"]]
    limit = most_rate_spread(config.measurement.target_spread)
    return _is_busy(figures) or max(spreads, default=0.0) > limit


def _is_busy(figures: Mapping[str, Any]) -> bool:
    """Whether other work ran beside a measurement, as the cache has it or the metrics of a trial."""
    busy = figures[BUSY_CORES] if BUSY_CORES in figures else figures["measurement"]["neighbours_cores_busy"]
    return bool(busy > IDLE_CORES)


def _width(figures: Mapping[str, Any]) -> tuple[bool, float]:
    """Whether other work ran beside, and the widest relative interval: the less of both, the better."""
    widths = [figures[f"{name}{SPREAD}"] / figures[name] for name in figures["measurement"]["precise"]]
    return _is_busy(figures), max(widths, default=0.0)


def _reference_key(config: TrialConfig, kind: str) -> str:
    """What the times of the reference depend on, besides the load of its machine."""
    identity: dict[str, Any] = {
        "device": kind,
        "threads": config.resources.threads,
        "protocol": [_VERSION, SIZES],
        "torch": torch.__version__,
    }
    return text_digest(json.dumps(identity, sort_keys=True))[:16]


def _read_cached(path: Path, config: TrialConfig) -> tuple[dict[str, Any] | None, str | None]:
    """A cached measurement, or None; and if there is a damaged one, a sentence on it."""
    if not path.exists():
        fetch_file(path)  # of another node
    try:
        figures = unseal(path.read_bytes())
        also = config.measurement.also
        rates = {*(THROUGHPUTS if also is None else also), *figures["measurement"]["precise"]}
        wanted = [name for figure in rates for name in (figure, f"{figure}_spread")]
        if not all(math.isfinite(figures[name]) for name in (*wanted, "state_bytes")):
            raise ValueError("a figure is not finite")
        return figures, None
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, TypeError, KeyError) as error:
        return None, f"a damaged measurement was made again ({path.name[:12]}: {one_line(error)})"
