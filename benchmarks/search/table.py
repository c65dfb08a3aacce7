"""`recallfront bench search`: what each search method needs of a grid's training steps, as a table."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.table import Table

from recallfront.benchmarks.search.curves import RecordedCurves, curves, space
from recallfront.benchmarks.search.moasha import Moasha, is_installed
from recallfront.benchmarks.search.simulate import Point, Simulated, Truth, simulate
from recallfront.platform.search.rules import Rules
from recallfront.platform.search.samplers import make_search
from recallfront.platform.search.stopping import make_rules
from recallfront.sweeps.spec import SweepSpec

SEEDS: Final = 10
_FEWER: Final = {"gp": 2}  # sweeps of what takes a minute for each
# Share of the grid's configurations that a slow sampler may try: its time grows with the square of them, or faster.
_MOST: Final = {"tpe": 0.5, "gp": 1 / 3}
_MOASHA: Final = {"first_rung_steps": 60, "reduction": 3}
_HALVING: Final = {"early_stopping": {"first_rung_steps": 60, "reduction": 3}}
_SKIP: Final = {"skip_dominated": True}
_SOLVED: Final = {"stop_at": {"recall": 0.99}}
METHODS: Final[dict[str, dict[str, Any]]] = {
    "grid": {"method": "grid"},
    "grid, halving": {"method": "grid", "search": _SKIP, **_HALVING},
    "random": {"method": "random"},
    "random, halving": {"method": "random", "search": _SKIP, **_HALVING},
    "tpe": {"method": "tpe"},
    "nsga2": {"method": "nsga2"},
    "gp": {"method": "gp"},
    "random, MOASHA": {"method": "random", "moasha": _MOASHA},
    "front": {"method": "front"},
    "front, stop_at 0.99": {"method": "front", "training": _SOLVED},
    "front, stop_at 0.99, by seconds": {"method": "front", "training": _SOLVED, "tells_seconds": True},
    "front, stop_at 0.99, all seeds": {"method": "front", "training": _SOLVED, "seeds": "all"},
    "front, stop_at 0.99, seeds as needed": {"method": "front", "training": _SOLVED, "seeds": "as_needed"},
}


@dataclass(frozen=True)
class MethodRow:
    """A method's sweeps, one a seed."""

    method: str
    sweeps: tuple[Simulated, ...]

    def until(self, reached: Callable[[Point], bool]) -> float | None:
        """The median share of the grid's steps until a point is reached; None where half of the sweeps never do."""
        return _median(sweep.share_until(reached) for sweep in self.sweeps)

    def seconds_until(self, reached: Callable[[Point], bool]) -> float | None:
        """The same of the grid's seconds."""
        return _median(sweep.seconds_until(reached) for sweep in self.sweeps)

    def at(self, share: float) -> tuple[float, float]:
        """Median hypervolume and share of members after a share of the grid's steps."""
        points = [sweep.at(share) for sweep in self.sweeps]
        return statistics.median(p.hypervolume for p in points), statistics.median(p.members for p in points)


def rows(methods: Iterable[str] = METHODS, seeds: int = SEEDS) -> Iterable[MethodRow]:
    """Simulate `seeds` sweeps of each method, fewer of slow ones; recorded seeds serve those of one seed in turn.

    Raises:
        ValueError: a method needs several recorded seeds, and there are fewer.
    """
    recorded = curves()
    truths: dict[str, Truth] = {}
    for method in methods:
        number = min(seeds, _FEWER.get(method, seeds))
        yield MethodRow(method, tuple(_sweep(method, seed, recorded, truths) for seed in range(number)))


def search_table(methods: Iterable[str] = METHODS, seeds: int = SEEDS) -> Table:
    """One row a method, medians over its sweeps; the caption names those that cannot be run here."""
    recorded, methods = curves(), list(methods)
    number = recorded.recall.shape[1]
    table = Table(
        title="search: training steps as a share of the whole grid's, median of the sweeps",
        title_justify="left",
        caption_justify="left",
        box=None,
    )
    headings = (
        "",
        "sweeps",
        "99 % of hypervolume",
        "in seconds",
        "with all members",
        "at 1/10",
        "at 1/3",
        "members stopped",
        "late ones",
    )
    for column in headings:
        table.add_column(column, justify="right" if column else "left")
    left_out = {method: reason for method in methods if (reason := _obstacle(method, recorded))}
    for row in rows([method for method in methods if method not in left_out], seeds):
        early, third = row.at(0.1), row.at(1 / 3)
        lost = sum(bool(sweep.lost) for sweep in row.sweeps)
        table.add_row(
            row.method,
            str(len(row.sweeps)),
            _share(row.until(_nearly_all)),
            _share(row.seconds_until(_nearly_all)),
            _share(row.until(lambda point: _nearly_all(point) and point.members == 1.0)),
            f"{early[0]:.3f}, {early[1]:.0%}",
            f"{third[0]:.3f}, {third[1]:.0%}",
            f"in {lost}",
            f"in {sum(bool(sweep.lost_late) for sweep in row.sweeps)}",
        )
    table.caption = (
        f"sweeps of 4 trials at once on recorded curves of {number} configurations and "
        f"{len(recorded.whole)} seed{'s' * (len(recorded.whole) > 1)}; in seconds: share of the grid's until the same "
        "hypervolume; at 1/10 and at 1/3 of the grid's steps: share of its hypervolume, and of its front's members "
        "found within noise; members stopped, and among them those that bloom late, without anything as good in their "
        f"place; {_cuts()}"
        + "".join(f"; {method} is left out: {reason}" for method, reason in left_out.items())
    )
    return table


def _cuts() -> str:
    """What slow samplers have less of than the others."""
    shares = ", ".join(f"{method} {share:.0%}" for method, share in _MOST.items())
    fewer = ", ".join(f"{method} {number}" for method, number in _FEWER.items())
    return f"samplers whose own time is long try a part of the configurations ({shares}) or have fewer sweeps ({fewer})"


def _obstacle(method: str, recorded: RecordedCurves) -> str:
    """What a method needs and there is not; empty if it can be run."""
    settings = METHODS[method]
    if "moasha" in settings and not is_installed():
        return "syne-tune is not installed"
    if "seeds" in settings and len(recorded.whole) < 2:
        return "it needs curves of several seeds"
    return ""


def specification(method: str, seed: int, seeds: Sequence[int] = (0,)) -> SweepSpec:
    """The recorded space with these seeds, searched by a method of `METHODS`."""
    changes = METHODS[method]
    plain = space().model_dump(mode="json")
    search = {"method": changes["method"], "seed": seed, **changes.get("search", {})}
    as_needed = changes.get("seeds") == "as_needed"
    if as_needed:
        search["seeds"] = "as_needed"
    if changes["method"] != "grid":
        each = len(seeds) if as_needed else 1
        search["trials"] = int(_MOST.get(method, 1) * each * sum(block.size for block in space().blocks))
    more = {"early_stopping": changes.get("early_stopping"), "search": search, "seeds": list(seeds)}
    return SweepSpec.model_validate(
        plain | more | {"training": plain["training"] | changes.get("training", {})}
    )


def _sweep(method: str, seed: int, recorded: RecordedCurves, truths: dict[str, Truth]) -> Simulated:
    settings, whole = METHODS[method], recorded.whole
    seeds = whole if "seeds" in settings else (whole[seed % len(whole)],)
    if "seeds" in settings and len(seeds) < 2:
        raise ValueError(
            f"{method}: needs curves of several seeds; all configurations were recorded with {whole}"
        )
    spec = specification(method, seed, seeds)
    tells = settings.get("tells_seconds", False)
    # a trial's identity, and with it the truth's, depends on when it stops
    key = f"{spec.training.model_dump_json()} {seeds} {tells}"
    if key not in truths:
        truths[key] = Truth(spec, recorded, tells_seconds=tells)
    search = make_search(spec)
    rules = make_rules(spec, search)
    if moasha := settings.get("moasha"):
        rules = Rules(spec, [Moasha(spec, **moasha)])
    return simulate(spec, truths[key], search, rules, seed=seed)


def _nearly_all(point: Point) -> bool:
    return point.hypervolume >= 0.99


def _median(shares: Iterable[float | None]) -> float | None:
    median = statistics.median(float("inf") if share is None else share for share in shares)
    return median if median < float("inf") else None


def _share(share: float | None) -> str:
    return "never" if share is None else f"{share:.3f}"
