"""How fast the machine is: what corrects throughput, and what of it stays open."""

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recallfront.platform.metrics import THROUGHPUTS
from recallfront.platform.trial import figures, measure, reference
from recallfront.platform.trial.measure import in_doubt
from tests.platform.trial.measurements import be_quick, config_of, figures_of

pytestmark = pytest.mark.usefixtures("quick_collections")


@pytest.fixture(autouse=True)
def _usual(monkeypatch: pytest.MonkeyPatch) -> None:
    be_quick(monkeypatch)


def test_a_slow_machine_does_not_make_a_model_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine at half its speed: every workload, the reference too, takes twice as long by the clock."""
    spent: list[float] = []
    speed = 1.0

    def clocked(run: Any, device: torch.device) -> float:
        run()
        usual = {"prefill": 0.02, "decode": 0.04, "train": 0.05}
        seconds = usual.get(run.__name__, 0.01) * speed
        spent.append(seconds)
        return seconds

    monkeypatch.setattr(figures, "_run_seconds", clocked)
    config = config_of()
    usual = figures_of(config, tmp_path, fresh=True)
    speed = 2.0
    slow = figures_of(config, tmp_path, fresh=True)
    assert max(spent) == 0.1 and slow["measurement"]["slowdown"] == pytest.approx(2.0)
    for name in THROUGHPUTS:
        assert slow[name] == pytest.approx(usual[name])
    protocol = config.measurement
    assert usual["prefill_tokens_per_second"] == pytest.approx(2 * protocol.context_length / 0.02)
    assert usual["decode_tokens_per_second"] == pytest.approx(2 * protocol.decode_tokens / 0.04)
    assert usual["train_tokens_per_second"] == pytest.approx(2 * protocol.train_length / 0.05)


def test_a_slow_spell_does_not_set_the_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 rounds of the fixed work 15 are in it, after the three of the measurement."""
    monkeypatch.setattr(reference, "_SCALE_SECONDS", 20.0)
    ticks = count()
    monkeypatch.setattr(reference, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    rounds = 0

    def clocked(run: Any, device: torch.device) -> float:
        nonlocal rounds
        run()
        rounds += run.__name__ == "products"
        return 0.03 if rounds <= 3 + 15 else 0.01

    monkeypatch.setattr(figures, "_run_seconds", clocked)
    config = config_of(measurement={"max_repeats": 4})
    found = figures_of(config, tmp_path)
    assert rounds == 3 + 20
    assert found["measurement"]["slowdown"] == pytest.approx(3.0)
    assert found["decode_tokens_per_second"] == pytest.approx(2 * config.measurement.decode_tokens / 0.01)


@pytest.mark.parametrize("name", ["a careless one", "one beside other work"])
def test_what_sets_the_scale_only_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The first quiet measurement that may be repeated sets it for good."""
    speed, busy = 3.0, 2.0 if name == "one beside other work" else 0.0

    def clocked(run: Any, device: torch.device) -> float:
        run()
        return 0.01 * speed

    monkeypatch.setattr(figures, "_run_seconds", clocked)
    monkeypatch.setattr(figures, "_wait_for_idle_neighbours", lambda threads, patience: busy)
    careful = config_of(measurement={"max_repeats": 4})
    figures_of(config_of() if name == "a careless one" else careful, tmp_path, fresh=True)
    speed, busy = 1.0, 0.0
    assert figures_of(careful, tmp_path, fresh=True)["measurement"]["slowdown"] == 1.0
    for config in (careful, config_of()):
        speed, busy = 2.0, 2.0 - busy
        assert figures_of(config, tmp_path, fresh=True)["measurement"]["slowdown"] == pytest.approx(2.0)


def test_an_interval_contains_a_part_of_the_correction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small operations take four times as long, products as before: twice over both."""
    slow = 1.0

    def clocked(run: Any, device: torch.device) -> float:
        run()
        return 0.01 * (slow if run.__name__ == "operations" else 1.0)

    monkeypatch.setattr(figures, "_run_seconds", clocked)
    config = config_of()
    usual = figures_of(config, tmp_path, fresh=True)
    assert all(usual[f"{name}_spread"] == 0 for name in THROUGHPUTS) and not in_doubt(usual, config)
    slow = 4.0
    corrected = figures_of(config, tmp_path, fresh=True)
    assert corrected["measurement"]["slowdown"] == pytest.approx(2.0)
    for name in THROUGHPUTS:
        assert corrected[name] == pytest.approx(2 * usual[name])
        assert corrected[f"{name}_spread"] == pytest.approx(0.35 * corrected[name])
    assert not in_doubt(corrected, config), "the rounds were steady: the interval says the rest"


def test_the_scale_of_other_threads_is_another(tmp_path: Path) -> None:
    figures_of(config_of(), tmp_path)
    found = figures_of(config_of(resources={"cpus": 2}), tmp_path)
    assert len(list((tmp_path / "measurements").glob("reference-*.json"))) == 2
    assert found["measurement"]["slowdown"] == 1.0, "it is the first with so many threads"


@pytest.mark.parametrize("changed", ["torch", "protocol"])
def test_the_scale_of_another_torch_or_protocol_is_another(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures_of(config_of(), tmp_path)
    if changed == "torch":
        monkeypatch.setattr(torch, "__version__", "2.0.0+other")
    else:
        monkeypatch.setattr(measure, "_VERSION", measure._VERSION + 1)
    figures_of(config_of(), tmp_path, fresh=True)
    assert len(list((tmp_path / "measurements").glob("reference-*.json"))) == 2


def test_the_scale_is_found_once(tmp_path: Path) -> None:
    """Of two that find none, the second waits for the first one's search."""

    def scale(seconds: float) -> dict[str, float]:
        def find() -> dict[str, float]:
            time.sleep(0.3)
            return {"products": seconds}

        return reference.kept_scale(tmp_path / "scale.json", ("products",), find, final=True)[0]

    with ThreadPoolExecutor() as pool:
        one, other = pool.map(scale, (0.01, 0.02))
    assert one == other
