"""A sweep's page, and what its script asks for.

FastAPI and anyio are imported where they are first used, so that reading this file costs little.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from recallfront.dashboards import actions
from recallfront.dashboards.choices import Constraint, choice, picked_before
from recallfront.dashboards.explore import Explorer
from recallfront.dashboards.logs import log_ends
from recallfront.dashboards.progress import workers_of
from recallfront.dashboards.reading import explorer_of, own_address, public_address
from recallfront.dashboards.rendering import as_json, page, render
from recallfront.dashboards.views import SweepView
from recallfront.platform.errors import UsageError
from recallfront.platform.metrics import compared
from recallfront.platform.results.budget import budget_of, end_of
from recallfront.platform.tracking.curves import read_curves
from recallfront.sweeps.spec import spelt_out

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from fastapi import APIRouter, Request
    from fastapi.responses import Response

_MOST_WHERE = 2000  # characters of a condition
_MOST_SEEDS = 16  # whose curves are drawn


def add_sweep_pages(router: "APIRouter", prefix: str, limiter: "CapacityLimiter") -> None:
    """Add the pages of one sweep to a router; each is made in one of the limiter's threads."""
    from anyio.to_thread import run_sync
    from fastapi import Request
    from fastapi.responses import Response

    async def answered(run_id: str, request: Request, answer: Callable[[Explorer], Response]) -> Response:
        """Read the sweep and answer with it, all in a thread: what takes long holds up nobody else."""
        try:
            moment = float(request.query_params.get("at", "0"))
        except ValueError:
            moment = 0.0

        def work() -> Response:
            return answer(explorer_of(own_address(request), run_id, moment))

        return await run_sync(work, limiter=limiter)

    @router.get("/sweeps/{run_id}")
    async def sweep(run_id: str, request: Request) -> Response:
        def answer(found: Explorer) -> Response:
            return page(request, "sweep.html", prefix, **_shown(found, public_address(request)))

        return await answered(run_id, request, answer)

    @router.get("/sweeps/{run_id}/live")
    async def live(run_id: str, request: Request) -> Response:
        def answer(found: Explorer) -> Response:
            shown = _shown(found, public_address(request))
            told = {name: shown[name] for name in ("figures", "explore", "at")}
            told |= {"html": render("live.html", prefix, **shown), "running": found.view.is_running}
            return as_json(request, told)

        return await answered(run_id, request, answer)

    @router.get("/sweeps/{run_id}/configurations")
    async def configurations(run_id: str, request: Request) -> Response:
        return await answered(run_id, request, lambda found: as_json(request, found.to_json()))

    @router.get("/sweeps/{run_id}/matching")
    async def matching(run_id: str, request: Request) -> Response:
        where = request.query_params.get("where", "")

        def answer(found: Explorer) -> Response:
            return _told(request, lambda: {"keys": _matching(found, where)})

        return await answered(run_id, request, answer)

    @router.get("/sweeps/{run_id}/configurations/{key}")
    async def panel(run_id: str, key: str, request: Request) -> Response:
        def answer(found: Explorer) -> Response:
            row, own = found.row(key), own_address(request)
            runs = [trial.run_id for trial in row.trials[:_MOST_SEEDS] if trial.run_id]
            curves = read_curves(own, runs, compared("curve"))
            shown = found.panel(
                row,
                curves,
                public_address(request),
                log_ends(own, found.view.record.run_id, row.trials[:_MOST_SEEDS]),
            )
            html = render("panel.html", prefix, view=found.view, token=actions.token(), **shown)
            return as_json(request, {"html": html, "curves": shown["curves"]})

        return await answered(run_id, request, answer)

    @router.get("/sweeps/{run_id}/choice")
    async def chosen(run_id: str, request: Request) -> Response:
        def answer(found: Explorer) -> Response:
            def choose() -> dict[str, Any]:
                return choice(found.view, Constraint.read(request.query_params), public_address(request))

            return _told(request, choose)

        return await answered(run_id, request, answer)

    @router.get("/sweeps/{run_id}/picked")
    async def picked(run_id: str, request: Request) -> Response:
        """What was picked from the sweep, by whom and why."""
        read = partial(picked_before, own_address(request), run_id)
        html = render("picked.html", prefix, versions=await run_sync(read, limiter=limiter))
        return as_json(request, {"html": html})

    @router.post("/sweeps/{run_id}/actions/{action}")
    async def act(run_id: str, action: str, request: Request) -> Response:
        given, own = request.query_params, own_address(request)

        def done(found: Explorer) -> str:
            if action == "pick":
                return actions.register(found.view, Constraint.read(given), given.get("key", ""), own)
            if action == "rerun":
                return actions.rerun(found.view, given.get("run", ""), own, public_address(request))
            if action == "cancel":
                return actions.cancel(found.view, own)
            raise UsageError(f"there is no action {action[:40]!r}")

        def answer(found: Explorer) -> Response:
            try:
                actions.check(request.headers.get(actions.TOKEN_HEADER))
                actions.check_origin(request.headers)
            except UsageError as error:
                return as_json(request, {"error": str(error)}, 422)
            return _told(request, lambda: {"done": done(found)})

        return await answered(run_id, request, answer)

    @router.get("/sweeps/{run_id}/rerun")
    async def run_again(run_id: str, request: Request) -> Response:
        """How a trial that was run again from the page has ended; empty as long as it runs."""
        run = request.query_params.get("run", "")
        return _told(request, lambda: {"told": actions.rerun_result(run)})

    @router.get("/sweeps/{run_id}/specification")
    async def specification(run_id: str, request: Request) -> Response:
        """The sweep's specification as a file, which `recallfront run` takes."""

        def answer(found: Explorer) -> Response:
            headers = {"Content-Disposition": f'attachment; filename="{found.view.specification_file}"'}
            text = json.dumps(spelt_out(found.view.record.spec), indent=2)
            return Response(text, media_type="application/json", headers=headers)

        return await answered(run_id, request, answer)


def _told(request: "Request", find: Callable[[], dict[str, Any]]) -> "Response":
    """The answer to a page's script, or the error that the page shows where it was asked.

    With status 200: half of a condition is not a failed request, and Chromium logs a failed one as an error.
    """
    try:
        return as_json(request, find())
    except UsageError as error:
        return as_json(request, {"error": str(error)})


def _matching(explorer: Explorer, where: str) -> list[str]:
    if len(where) > _MOST_WHERE:
        raise UsageError(f"a condition has at most {_MOST_WHERE} characters")
    return explorer.matching(where)


def _shown(explorer: Explorer, address: str) -> dict[str, Any]:
    view = explorer.view
    end = end_of(view.record)
    return {
        "view": view,
        "at": explorer.moment,
        "workers": workers_of(view.record, view.varying),
        "budget": budget_of(view.record),
        "ends": end and end // 60 * 60,  # an estimate, which changes by minutes
        "explore": explorer.to_json(),
        "figures": {"history": explorer.history},
        "commands": view.commands(address),
        "token": actions.token(),
    } | claims_of(view)


def claims_of(view: SweepView) -> dict[str, Any]:
    """The verdicts on a sweep's claims, or the sentence that says why there are none."""
    try:
        return {"judgements": view.judgements, "unjudged": ""}
    except UsageError as error:
        return {"judgements": (), "unjudged": str(error)}
