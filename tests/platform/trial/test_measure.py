"""Measuring: what a figure is cached by, what it is made of, and that a broken cache costs a measurement at most."""

import gc
from collections.abc import Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from recallfront.models.decoding.decode_graph import StaticStep
from recallfront.platform.metrics import THROUGHPUTS
from recallfront.platform.trial import figures, measure, roofline
from recallfront.platform.trial.figures import device_kind
from recallfront.platform.trial.measure import (
    in_doubt,
    measured_again,
    measurement_key,
)
from recallfront.platform.trial.quiet import Device
from recallfront.platform.trial.reference import FixedWork
from recallfront.platform.trial.workloads import Workloads
from recallfront.sweeps import TrialConfig
from recallfront.sweeps.base import unseal
from tests.platform.trial.blocks import BLOCKS
from tests.platform.trial.measurements import be_quick, config_of, figures_of, results

pytestmark = pytest.mark.usefixtures("quick_collections")


@pytest.fixture(autouse=True)
def _usual(monkeypatch: pytest.MonkeyPatch) -> None:
    be_quick(monkeypatch)


def key(config: TrialConfig, kind: str = "k", code: str = "c") -> str:
    return measurement_key(config, kind, code)


@pytest.mark.parametrize(
    "same",
    [
        {"seeds": [1]},
        {"training": {"steps": 99, "learning_rate": 1.0, "batch_size": 8}},
        {"task": {"seed": 9}},
        {"name": "other"},
        {"resources": {"time_limit_seconds": 9}},
    ],
    ids=str,
)
def test_what_does_not_move_throughput_is_no_part_of_the_key(same: dict[str, Any]) -> None:
    assert key(config_of(**same)) == key(config_of())


@pytest.mark.parametrize(
    "other",
    [
        {"space": [{"architecture": "window", "window_size": 3}]},
        {"space": [{"architecture": "hawk"}]},
        {"model": {"width": 32}},
        {"training": {"precision": "bfloat16"}},
        {"measurement": {"batch_size": 3}},
        {"measurement": {"decode_tokens": 5}},
        {"measurement": {"deployment": {"width": 32}}},
        {"resources": {"cpus": 2}},
    ],
    ids=str,
)
def test_what_moves_throughput_is_part_of_the_key(other: dict[str, Any]) -> None:
    assert key(config_of(**other)) != key(config_of())
    assert key(config_of(), kind="other") != key(config_of()) != key(config_of(), code="other")


def test_trials_of_one_deployment_share_a_measurement() -> None:
    deployment = {"deployment": {"width": 64, "num_heads": 2, "num_layers": 2}}
    small, large = (config_of(model={"width": w}, measurement=deployment) for w in (16, 32))
    assert small.key != large.key and key(small) == key(large)


def test_the_model_is_built_beside_training_and_measured_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []

    def note(where: Any, name: str) -> None:
        whole = getattr(where, name)

        def noted(*given: Any) -> Any:
            events.append(name)
            return whole(*given)

        monkeypatch.setattr(where, name, noted)

    for name in ("measured_model", "figures_of"):
        note(measure, name)
    for name in ("shared", "alone"):
        note(Device, name)
    figures_of(config_of(), tmp_path)
    assert events == ["shared", "measured_model", "alone", "figures_of"]


def test_a_measurement_is_made_once_and_anew_when_asked(tmp_path: Path) -> None:
    first = figures_of(config_of(), tmp_path)
    assert figures_of(config_of(seeds=[1]), tmp_path) == first
    assert len(results(tmp_path)) == 1
    again = figures_of(config_of(), tmp_path, fresh=True)
    assert again != first and figures_of(config_of(), tmp_path) == again
    assert set(first) == {
        *THROUGHPUTS,
        *(f"{name}_spread" for name in THROUGHPUTS),
        *(f"time_to_first_token_{part}_ms" for part in ("p50", "p95")),
        *(f"time_between_tokens_{part}_ms" for part in ("p50", "p95")),
        "state_bytes",
        "materialised_state_bytes",
        "speed_uncertainty",
        "measurement",
    }
    assert all(first[name] > 0 and first[f"{name}_spread"] >= 0 for name in THROUGHPUTS)
    assert first["measurement"]["rounds"] == 3 and first["measurement"]["threads"] == 1
    assert (
        first["measurement"]["device"] == device_kind("cpu")
        and first["measurement"]["torch"] == torch.__version__
    )


@pytest.mark.parametrize("content", ["", "{", "{}", "null", "[1, 2]", '"text"', "\x00"])
def test_a_broken_cache_is_measured_again(tmp_path: Path, content: str) -> None:
    figures_of(config_of(), tmp_path)
    (result,) = results(tmp_path)
    (nominal,) = (tmp_path / "measurements").glob("reference-*.json")
    result.write_text(content)
    nominal.write_text(content)
    again = figures_of(config_of(), tmp_path)
    assert again["decode_tokens_per_second"] > 0
    assert "damaged measurement" in again["measurement"].pop("notice")
    assert unseal(result.read_text()) == again
    assert unseal(nominal.read_text())["seconds"] == again["measurement"]["reference_seconds"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", BLOCKS)
def test_the_state_is_as_large_as_the_formula_says(name: str, precision: str, tmp_path: Path) -> None:
    config = config_of(space=[BLOCKS[name]], training={"precision": precision})
    found = figures_of(config, tmp_path)
    elements = config.model.state_elements(config.measurement.context_length)
    if precision == "float32":
        assert found["state_bytes"] == elements * torch.float32.itemsize
    else:  # recurrent states stay in float32, what is cached of the tokens does not
        assert elements * torch.bfloat16.itemsize <= found["state_bytes"] <= elements * torch.float32.itemsize
    # Based's code holds each product of two of its 16 Taylor features twice, for a head of 16 values and the normaliser
    doubled = 16 * 15 // 2 * (16 + 1) * torch.float32.itemsize if name == "based" else 0
    assert found["materialised_state_bytes"] == found["state_bytes"] + doubled


def test_rounds_go_on_while_the_spread_is_wide_and_the_spread_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: dict[str, list[float]] = {}

    def clocked(run: Any, device: torch.device) -> float:
        run()
        seen = times.setdefault(run.__name__, [])
        seen.append(1.0 if run.__name__ != "decode" else [1.0, 2.0, 4.0, 2.0, 2.0, 2.0, 2.0][len(seen)])
        return seen[-1]

    monkeypatch.setattr(figures, "_run_seconds", clocked)
    steady = config_of(measurement={"max_repeats": 7, "target_spread": 0.3})
    found = figures_of(steady, tmp_path)
    assert 3 < found["measurement"]["rounds"] <= 7
    assert len({len(times[name]) for name in ("prefill", "decode", "train")}) == 1
    rates = 2 * steady.measurement.decode_tokens / np.array(times["decode"])
    low, middle, high = np.percentile(rates, [20, 50, 80])
    assert found["decode_tokens_per_second"] == pytest.approx(middle)
    assert found["decode_tokens_per_second_spread"] == pytest.approx((high - low) / 2)


def test_only_a_measurement_that_may_be_repeated_waits_for_idle_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def waited(threads: int, patience: float) -> float:
        waits.append(patience)
        return 0.0

    monkeypatch.setattr(figures, "_wait_for_idle_neighbours", waited)
    for most in (3, 4):
        figures_of(config_of(measurement={"max_repeats": most}), tmp_path)
    assert waits == [0.0, 2.0]


def test_what_is_no_objective_is_measured_roughly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(measurement={"repeats": 7, "max_repeats": 7})
    places = dict.fromkeys(("products", "operations"), FixedWork) | dict.fromkeys(
        ("prefill", "decode", "train"), Workloads
    )
    counts = dict.fromkeys(places, 0)
    for name, place in places.items():
        real = getattr(place, name)

        def counted(self: Any, name: str = name, real: Any = real) -> None:
            counts[name] += 1
            real(self)

        monkeypatch.setattr(place, name, counted)
    figures_of(config, tmp_path, precise=("decode_tokens_per_second",))
    fixed = dict.fromkeys(("products", "operations"), 1 + 2 * 7)
    assert counts == fixed | {"prefill": 4, "decode": 8, "train": 4}, (
        "seven rounds, each twice, and one before; of the model a warm-up"
    )
    figures_of(config, tmp_path, precise=("train_tokens_per_second",))
    assert counts == {name: 2 * count for name, count in fixed.items()} | {
        "prefill": 8,
        "decode": 12,
        "train": 12,
    }
    assert len(results(tmp_path)) == 2, "another protocol is another measurement"


def test_what_is_not_asked_for_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workloads, "train", lambda self: pytest.fail("training is measured"))
    protocol: dict[str, Any] = {"also": [], "contexts": [8]}
    monkeypatch.setitem(roofline._COPIED, "cpu", 1 << 16)
    decode = figures_of(config_of(measurement=protocol), tmp_path, precise=("decode_tokens_per_second_at_8",))
    assert {name for name in decode if name.endswith(("second", "_share", "_ms"))} == set()
    assert {name for name in decode if name.endswith("_at_8")} == {
        "decode_tokens_per_second_at_8",
        "decode_roofline_share_at_8",
        "time_between_tokens_p50_ms_at_8",
        "time_between_tokens_p95_ms_at_8",
        "speed_uncertainty_at_8",
        "state_bytes_at_8",
    }
    assert decode["decode_tokens_per_second_at_8"] > 0 and decode["state_bytes"] > 0
    protocol["also"] = ["prefill_tokens_per_second"]
    both = figures_of(config_of(measurement=protocol), tmp_path, precise=("decode_tokens_per_second",))
    assert {"prefill_tokens_per_second", "prefill_tokens_per_second_at_8", "decode_tokens_per_second"} <= set(
        both
    )
    assert "decode_tokens_per_second_at_8" not in both
    again = figures_of(config_of(measurement=protocol), tmp_path, precise=("decode_tokens_per_second",))
    assert again == both, "it is cached"


def test_measuring_holds_the_device_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl
    import os

    held = []

    def clocked(run: Any, device: torch.device) -> float:
        run()
        lock = os.open(tmp_path / "locks" / "cpu.use", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            held.append(False)
        except BlockingIOError:
            held.append(True)
        finally:
            os.close(lock)
        return 1.0

    monkeypatch.setattr(figures, "_run_seconds", clocked)
    figures_of(config_of(), tmp_path)
    assert held and all(held)


@pytest.mark.parametrize("busy", [0.0, 2.0])
def test_a_second_measurement_is_of_the_objectives_unless_others_falsified_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: float
) -> None:
    now, unsteady = busy, cycle([0.01, 0.02, 0.04])
    ran: set[str] = set()

    def noted(run: Any, device: torch.device) -> float:
        run()
        ran.add(run.__name__)
        steady = {"prefill": 0.05, "train": 0.07}.get(run.__name__, 0.01)
        return next(unsteady) if is_first else steady

    monkeypatch.setattr(figures, "_run_seconds", noted)
    monkeypatch.setattr(figures, "_wait_for_idle_neighbours", lambda threads, patience: now)
    config, precise, is_first = config_of(), ("decode_tokens_per_second",), True
    first = figures_of(config, tmp_path, precise=precise)
    assert in_doubt(first, config)
    now, is_first = 0.0, False
    ran.clear()
    with closing(Device("cpu", tmp_path / "locks")) as device:
        where: dict[str, Any] = {"device": device, "folder": tmp_path / "measurements", "code_version": "c"}
        again = measured_again(config, precise=precise, **where)
    assert again is not None and not in_doubt(again, config)
    assert ran == {"products", "operations", "decode"} | ({"prefill", "train"} if busy else set())
    for name in ("train_tokens_per_second", "time_to_first_token_p50_ms"):
        assert (again[name] == first[name]) == (not busy)
    assert again == figures_of(config, tmp_path, precise=precise), "it is kept"


def test_the_better_of_two_measurements_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: Iterator[float] = cycle([0.01])
    busy = 2.0
    monkeypatch.setattr(figures, "_run_seconds", lambda run, device: run() or next(seconds))
    monkeypatch.setattr(figures, "_wait_for_idle_neighbours", lambda threads, patience: busy)
    config = config_of()

    def again() -> dict[str, Any] | None:
        with closing(Device("cpu", tmp_path / "locks")) as device:
            return measured_again(config, device=device, folder=tmp_path / "measurements", code_version="c")

    assert again() is None, "there is none on this kind of device"
    first = figures_of(config, tmp_path)
    assert in_doubt(first, config)
    seconds = cycle([0.01] * 5 + [0.05] * 5 + [0.02] * 5)
    assert again() == first == figures_of(config, tmp_path), "the second varied, too"
    busy, seconds = 0.0, cycle([0.01])
    second = again()
    assert second is not None and not in_doubt(second, config) and figures_of(config, tmp_path) == second
    seconds = iter(())
    assert again() == second, "and that is not measured again"


def test_the_largest_batch_falls_with_the_context_as_the_state_formula_says(tmp_path: Path) -> None:
    cap = 2.0**-9  # GiB
    protocol = {"batch_size": "max", "memory_gb": cap, "contexts": [64, 256], "train_length": 4}
    found, models = {}, {}
    for name in ("attention", "hawk"):
        config = config_of(name, measurement=protocol)
        models[name] = config.model
        found[name] = figures_of(config, tmp_path)
    model = models["attention"]
    # the cache has room for the tokens that are decoded
    states = [4 * model.state_elements(context + 4) for context in (64, 256)]
    batches = [found["attention"][f"max_batch_size_at_{context}"] for context in (64, 256)]
    free = cap * 2**30 - 4 * model.parameter_count()
    # a step needs more than state and weights, by at most a kilobyte a row: logits over 32 tokens, and width 16
    for batch, state in zip(batches, states, strict=True):
        assert free / (state + 1024) <= batch <= free / state, (batch, state)
    assert batches[0] > 3 * batches[1]
    first, last = (found["hawk"][f"max_batch_size_at_{context}"] for context in (64, 256))
    assert first == last > batches[0]
    for context in (64, 256):
        rate = found["attention"][f"decode_tokens_per_second_at_{context}"]
        assert rate > 0 and found["attention"][f"decode_tokens_per_second_at_{context}_spread"] >= 0
    described = found["attention"]["measurement"]["contexts"]
    assert set(described) == {"64", "256"} and all(own["rounds"] == 3 for own in described.values())


class FixedPlaces(Workloads):
    """Decodes over tensors that stay from round to round, as a GPU's graph does; counts those as large as a batch."""

    beside: ClassVar[dict[str, list[int]]]

    @torch.no_grad()
    def begin_decoding(self) -> None:
        super().begin_decoding()
        if self._graph is None:
            assert self._state is not None
            step = StaticStep(self.model, self._state, self._state.longest + self.decode_tokens)
            self._graph, self._state = step, None  # type: ignore[assignment]

    @torch.no_grad()
    def decode(self, steps: int | None = None) -> None:
        for _ in range(steps or self.decode_tokens):
            self._graph.run()  # type: ignore[union-attr]
        self._count("decode")

    def try_batch(self, batch_size: int) -> None:
        super().try_batch(batch_size)
        self._count("a probe")

    def prefill(self) -> None:
        self._count("prefill")
        super().prefill()

    def train(self) -> None:
        self._count("train")
        super().train()

    def _count(self, beside: str) -> None:
        live = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
        self.beside.setdefault(beside, []).append(sum(one.shape[:1] == (self.batch_size,) for one in live))


def test_nothing_of_a_largest_batch_is_held_beside_what_else_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FixedPlaces, "beside", {}, raising=False)
    monkeypatch.setattr(figures, "Workloads", FixedPlaces)
    protocol = {"batch_size": "max", "memory_gb": 2.0**-9, "train_length": 4}
    found = figures_of(config_of("window", measurement=protocol), tmp_path)
    live = FixedPlaces.beside
    assert found["max_batch_size"] > 100 and min(live["decode"]) > 0
    # of the first probes, a row or two, other tensors have the shape
    assert not any(live["prefill"] + live["train"] + live["a probe"][3:]), live
