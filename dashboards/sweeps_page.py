"""The list of sweeps: searched, sorted and filtered, read off their runs alone so that a thousand answer at once.

FastAPI and anyio are imported where they are first used, so that reading this file costs little.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from recallfront.dashboards.reading import now, own_address, own_store
from recallfront.dashboards.rendering import as_json, page
from recallfront.dashboards.views import STATES
from recallfront.platform.home import home_folder
from recallfront.platform.metrics import show
from recallfront.platform.results.records import counts_of, planned, say_counts
from recallfront.platform.sweep.driverless import driverless
from recallfront.platform.tracking.curves import read_curves
from recallfront.platform.tracking.ledger import SweepSummary, list_sweeps

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from fastapi import APIRouter

ON_A_PAGE = 50
SORTS = {
    "started": "newest first",
    "name": "by name",
    "hypervolume": "by hypervolume",
    "trials": "by finished trials",
}
_MOST_SPARK = 120  # points of a small picture


@dataclass(frozen=True)
class SweepLine:
    """One sweep in the list."""

    run_id: str
    name: str
    sweep_key: str
    state: str
    counts: dict[str, int]
    planned: int
    started: float  # seconds since the epoch
    seconds: float | None  # that it has taken
    volume: float | None

    @property
    def told(self) -> str:
        return say_counts(self.counts, self.planned)

    @property
    def hypervolume(self) -> str:
        return "–" if self.volume is None else show("hypervolume", self.volume)


@dataclass(frozen=True)
class Listing:
    """What the reader wants to see of the list."""

    search: str = ""
    state: str = ""
    sort: str = "started"
    page: int = 1

    def address(self, **changes: Any) -> str:
        """The list's address with some of it changed; what is as usual is left out."""
        wanted = vars(self) | changes
        usual = vars(Listing())
        return "?" + urlencode({name: value for name, value in wanted.items() if value != usual[name]})

    def of(self, lines: Sequence[SweepLine]) -> list[SweepLine]:
        """The lines that match, in the order asked for; all pages of them."""
        words = self.search.lower().split()
        found = [
            line
            for line in lines
            if self.state in ("", line.state)
            and all(word in f"{line.name} {line.sweep_key} {line.run_id}".lower() for word in words)
        ]
        if self.sort == "name":
            found.sort(key=lambda line: line.name.lower())
        elif self.sort == "hypervolume":
            found.sort(key=lambda line: -(line.volume or 0.0))
        elif self.sort == "trials":
            found.sort(key=lambda line: -line.counts["finished"])
        return found


def add_sweeps_page(router: "APIRouter", prefix: str, limiter: "CapacityLimiter") -> None:
    """Add the list to a router; it reads the store in one of the limiter's threads."""
    from anyio.to_thread import run_sync
    from fastapi import Request
    from fastapi.responses import Response

    @router.get("/")
    async def sweeps(request: Request) -> Response:
        lines = await run_sync(partial(read_lines, own_address(request)), limiter=limiter)
        return page(request, "sweeps.html", prefix, **listed(lines, read_listing(request.query_params)))

    @router.get("/sparklines")
    async def sparklines(request: Request) -> Response:
        """How the hypervolume of some sweeps grew."""
        runs = request.query_params.getlist("sweep")[:ON_A_PAGE]
        read = partial(_sparks, own_address(request), tuple(runs), now())
        return as_json(request, await run_sync(read, limiter=limiter))


def read_lines(uri: str) -> list[SweepLine]:
    """Every sweep of the store, the newest first."""
    return _read_lines(own_store(uri), now())


def lines_of(sweeps: Sequence[SweepSummary], uri: str) -> list[SweepLine]:
    """The lines of sweeps that were just read from a store."""
    killed = driverless(sweeps, uri, home_folder(), wait=False, by_clock=True)
    return [line_of(sweep, is_killed=sweep.run_id in killed) for sweep in sweeps]


def line_of(sweep: SweepSummary, *, is_killed: bool = False) -> SweepLine:
    """A sweep's line, read off its run."""
    state = "killed" if is_killed else STATES.get(sweep.tags.get("status", ""), "unknown")
    counts = counts_of(sweep.tags, driverless=is_killed)
    elapsed = sweep.tags.get("elapsed_seconds", "")
    return SweepLine(
        run_id=sweep.run_id,
        name=sweep.name,
        sweep_key=sweep.sweep_key,
        state=state,
        counts=counts,
        planned=max(planned(sweep.tags), sum(counts.values()), 1),
        started=sweep.start_time,
        seconds=float(elapsed) if elapsed.isdecimal() else None,
        # told again when throughputs were measured again, which "hypervolume", by trials, is not
        volume=sweep.metrics.get("hypervolume_by_elapsed_seconds", sweep.metrics.get("hypervolume")),
    )


@lru_cache(maxsize=4)
def _read_lines(uri: str, moment: float) -> list[SweepLine]:
    return lines_of(list_sweeps(uri), uri)


@lru_cache(maxsize=16)
def _sparks(uri: str, runs: tuple[str, ...], moment: float) -> dict[str, list[float]]:
    found = {}
    for run_id, curves in read_curves(uri, runs, ["hypervolume"]).items():
        found[run_id] = thinned([value for _, value in curves["hypervolume"]])
    return found


def thinned(values: Sequence[float]) -> list[float]:
    """Of a small picture's points as many as are seen, the latest among them."""
    step = len(values) // _MOST_SPARK + 1
    kept = [*values[::step], *([] if (len(values) - 1) % step == 0 else values[-1:])]
    return [float(f"{value:.4g}") for value in kept]


def read_listing(given: Any) -> Listing:
    """What is wanted of the list, off a request's parameters."""
    sort, number = given.get("sort", "started"), given.get("page", "1")
    return Listing(
        search=given.get("search", "")[:200],
        state=given.get("state", "")[:20],
        sort=sort if sort in SORTS else "started",
        page=max(int(number), 1) if number.isdecimal() and len(number) < 7 else 1,
    )


def listed(lines: list[SweepLine], asked: Listing) -> dict[str, Any]:
    """One page of the list, and what its controls show."""
    found = asked.of(lines)
    pages = max(-(-len(found) // ON_A_PAGE), 1)
    asked = replace(asked, page=min(asked.page, pages))
    first = (asked.page - 1) * ON_A_PAGE
    return {
        "asked": asked,
        "lines": found[first : first + ON_A_PAGE],
        "count": len(found),
        "total": len(lines),
        "pages": pages,
        "states": sorted({line.state for line in lines}),
        "sorts": SORTS,
    }
