"""recallfront's pages inside MLflow's own server, through its plug-in point `mlflow.app`.

MLflow's server and what the pages need are imported where they are first used, so that reading this file costs little.
"""

import os
import threading
from typing import TYPE_CHECKING

from recallfront.dashboards.compare_page import add_compare_page
from recallfront.dashboards.rendering import PREFIX, SCRIPT, as_json, page, plotly_script, static_file, warm
from recallfront.dashboards.sweep_pages import add_sweep_pages
from recallfront.dashboards.sweeps_page import add_sweeps_page
from recallfront.dashboards.understand_page import add_understand_page
from recallfront.platform.errors import UsageError
from recallfront.platform.front.pictures.figures import history_figure
from recallfront.platform.tracking.garbage import collect_seldom
from recallfront.platform.tracking.ledger import StoreFailure

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI
    from fastapi.responses import Response

_READERS = 4  # pages that are read from the store at once
_EXPLAINERS = 2  # and that explain one, which may take long


def create_app() -> "FastAPI":
    """MLflow's server with our pages below `/recallfront/`: what `mlflow server --app-name recallfront` runs."""
    from fastapi import FastAPI, Request
    from mlflow.server.fastapi_app import create_fastapi_app

    collect_seldom()
    threading.Thread(target=_warm, daemon=True).start()
    app: FastAPI = create_fastapi_app()
    prefix = os.environ.get("_MLFLOW_STATIC_PREFIX", "").rstrip("/")  # of `mlflow server --static-prefix`
    theirs = list(app.router.routes)
    app.include_router(_router(prefix), prefix=prefix)
    ours = [route for route in app.router.routes if route not in theirs]
    # MLflow mounts its older server on every path that no earlier route takes
    app.router.routes[:] = ours + theirs

    @app.exception_handler(UsageError)
    async def answer_error(request: Request, error: UsageError) -> "Response":
        status = 503 if isinstance(error, StoreFailure) else 404
        if SCRIPT in request.headers.get("accept", ""):
            return as_json(request, {"error": str(error)}, status)
        return page(request, "message.html", prefix, status_code=status, message=str(error))

    return app


def _warm() -> None:
    """Import what a sweep's page draws with, and read what it is made of: the first one would wait seconds for it."""
    history_figure([]).to_json()
    warm()


def _router(prefix: str) -> "APIRouter":
    import anyio
    from anyio.to_thread import run_sync
    from fastapi import APIRouter
    from fastapi.responses import RedirectResponse, Response

    router = APIRouter(prefix=PREFIX)
    # reading asks this very server, whose own threads must stay free to answer
    limiter = anyio.CapacityLimiter(_READERS)

    @router.get("")
    async def without_slash() -> RedirectResponse:
        return RedirectResponse(f"{prefix}{PREFIX}/")

    add_sweeps_page(router, prefix, limiter)
    add_sweep_pages(router, prefix, limiter)
    add_compare_page(router, prefix, limiter)
    add_understand_page(router, prefix, anyio.CapacityLimiter(_EXPLAINERS))
    alone = anyio.CapacityLimiter(1)

    @router.get("/static/plotly.js")
    async def plotly() -> Response:
        return await run_sync(plotly_script, limiter=alone)

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        return static_file(name)

    return router
