"""What a server keeps of sweeps is bounded."""

from types import SimpleNamespace
from typing import Any

from recallfront.dashboards.kept import Kept


def test_each_sweep_once_is_kept_and_only_so_many_trials() -> None:
    kept, read = Kept(most_trials=10), list[str]()

    def sweep(name: str, trials: int = 4) -> Any:
        read.append(name)
        record = SimpleNamespace(trials=range(trials))
        return SimpleNamespace(view=SimpleNamespace(record=record))

    first = kept.get("a", 1.0, lambda: sweep("a"))
    assert kept.get("a", 1.0, lambda: sweep("a")) is first and read == ["a"]
    assert kept.get("a", 2.0, lambda: sweep("a")) is not first, "a later moment is read"
    kept.get("b", 1.0, lambda: sweep("b"))
    kept.get("a", 2.0, lambda: sweep("a"))
    kept.get("c", 1.0, lambda: sweep("c"))
    assert read == ["a", "a", "b", "c"]
    kept.get("a", 2.0, lambda: sweep("a"))
    assert read == ["a", "a", "b", "c"], "b was asked for longest ago, and made room"
    kept.get("b", 1.0, lambda: sweep("b"))
    assert read == ["a", "a", "b", "c", "b"]
    large = kept.get("d", 1.0, lambda: sweep("d", 50))
    assert kept.get("d", 1.0, lambda: sweep("d", 50)) is large, "the latest stays, however large"
