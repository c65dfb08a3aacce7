"""Energy of a decoded token: what is counted, and what tells it."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from recallfront.platform.results.status import Status
from recallfront.platform.trial import energy, figures
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.energy import NoEnergy, energy_counter
from recallfront.platform.trial.workloads import Workloads
from tests.platform.trial import trials
from tests.platform.trial.measurements import be_quick, config_of, figures_of, results
from tests.platform.trial.trials import setting

pytestmark = trials.MARKS
JOULES = "decode_joules_per_token"
GPU = torch.device("cuda")

Library = Callable[[Callable[[object], int]], None]


class FailedCall(Exception):
    """What the library raises."""


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    """Installs an NVML of one GPU, whose counter is the function that is given."""

    def install(counter: Callable[[object], int]) -> None:
        made: Any = ModuleType("pynvml")
        made.NVMLError, made.nvmlInit = FailedCall, lambda: None
        made.nvmlDeviceGetHandleByUUID = lambda uuid: {"GPU-1f-2e": "handle"}[uuid]
        made.nvmlDeviceGetTotalEnergyConsumption = counter
        monkeypatch.setitem(sys.modules, "pynvml", made)

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1f-2e"))
    return install


@pytest.mark.parametrize("rows", [2, 3])
def test_the_joules_of_a_token_are_those_of_all_decoding_by_its_tokens(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_quick(monkeypatch)
    decode, tokens = Workloads.decode, 0

    def counted(self: Workloads, steps: int | None = None) -> None:
        nonlocal tokens
        decode(self, steps)
        tokens += self.batch_size * (steps or self.decode_tokens)

    monkeypatch.setattr(Workloads, "decode", counted)
    monkeypatch.setattr(figures, "energy_counter", lambda device: lambda: 1e3 + 0.25 * tokens)
    monkeypatch.setattr(figures, "_ENERGY_SECONDS", 0.05)
    config = config_of(measurement={"batch_size": rows})
    assert figures_of(config, tmp_path)[JOULES] == pytest.approx(0.25)
    one = config_of(measurement={"batch_size": rows, "also": []})
    assert JOULES not in figures_of(one, tmp_path, precise=("prefill_tokens_per_second",))


def test_a_gpu_tells_joules_since_its_driver_was_loaded(library: Library) -> None:
    told = iter([7_000, 7_500, 9_250])
    library(lambda handle: next(told))
    counter = energy_counter(GPU)
    assert counter is not None and (counter(), counter()) == (7.5, 9.25)


def test_what_does_not_count_tells_none(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(handle: object) -> int:
        raise FailedCall("Not Supported")

    library(unsupported)
    assert energy_counter(GPU) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy_counter(GPU) is None, "the package is not installed"
    library(lambda handle: 1)
    assert energy_counter(torch.device("cpu")) is None


def test_a_trial_that_is_compared_by_energy_ends_before_it_is_measured_where_none_is_told(
    tmp_path: Path,
) -> None:
    """Another node, or a later run of the sweep, may tell it: such a trial is lost, not failed for good."""
    config, place = setting(tmp_path)
    (last,) = run_trial(config, replace(place, energies=(JOULES,)))
    assert last.status is Status.LOST and last.failure == (
        "objectives: metric='decode_joules_per_token': this GPU does not report its energy (recallfront[gpu] is not "
        "installed, or it is a part of a GPU)"
    )
    assert not results(tmp_path)


def test_a_measurement_without_energy_is_made_again_once_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_quick(monkeypatch)
    config = config_of(measurement={"also": []})
    asked: dict[str, Any] = {"precise": ("decode_tokens_per_second",)}
    assert JOULES not in figures_of(config, tmp_path, **asked)
    asked["energies"] = (JOULES,)
    with pytest.raises(NoEnergy):
        figures_of(config, tmp_path, **asked)
    monkeypatch.setattr(figures, "_ENERGY_SECONDS", 0.05)
    with monkeypatch.context() as telling:
        for module in (energy, figures):
            telling.setattr(module, "energy_counter", lambda device: lambda: 1.0)
        found = figures_of(config, tmp_path, **asked)
    assert found[JOULES] == 0.0
    assert figures_of(config, tmp_path, **asked) == found, "a node that tells none uses what is kept"
