"""recallfront's pages inside MLflow's own server, through its plug-in point `mlflow.app`.

MLflow's server and what the pages need are imported where they are first used, so that reading this file costs little.
"""

import gzip
import json
import os
import time
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recallfront.dashboards.kept import Kept
from recallfront.dashboards.views import SweepView, view_of
from recallfront.platform.errors import UsageError
from recallfront.platform.front.history import hypervolume_history
from recallfront.platform.front.pictures.figures import front_figure, history_figure
from recallfront.platform.home import home_folder
from recallfront.platform.metrics import duration
from recallfront.platform.sweep.lock import driver_is_gone
from recallfront.platform.tracking.ledger import list_sweeps, read_sweep, reading

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI, Request
    from fastapi.responses import HTMLResponse
    from jinja2 import Environment

PREFIX = "/recallfront"
PAGES = Path(__file__).with_name("pages")
_STATIC = {"style.css": "text/css", "page.js": "text/javascript"}
_READERS = 4  # pages that are read from the store at once
_FRESH_SECONDS = 2.0  # within these, viewers of one sweep share what was read
# nothing but our own files runs or is fetched; Plotly sets styles on elements and draws pictures of its own
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'"
)


def create_app() -> "FastAPI":
    """MLflow's server with our pages below `/recallfront/`: what `mlflow server --app-name recallfront` runs."""
    from fastapi import FastAPI, Request
    from mlflow.server.fastapi_app import create_fastapi_app

    app: FastAPI = create_fastapi_app()
    prefix = os.environ.get("_MLFLOW_STATIC_PREFIX", "").rstrip("/")  # of `mlflow server --static-prefix`
    theirs = list(app.router.routes)
    app.include_router(_router(prefix), prefix=prefix)
    ours = [route for route in app.router.routes if route not in theirs]
    # MLflow mounts its older server on every path that no earlier route takes
    app.router.routes[:] = ours + theirs

    @app.exception_handler(UsageError)
    async def explain(request: Request, error: UsageError) -> "HTMLResponse":
        return _page("message.html", prefix, status_code=404, message=str(error))

    return app


def _router(prefix: str) -> "APIRouter":
    import anyio
    from anyio.to_thread import run_sync
    from fastapi import APIRouter, Request
    from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

    router = APIRouter(prefix=PREFIX)
    # reading asks this very server, whose own threads must stay free to answer
    limiter = anyio.CapacityLimiter(_READERS)

    @router.get("")
    async def without_slash() -> RedirectResponse:
        return RedirectResponse(f"{prefix}{PREFIX}/")

    @router.get("/")
    async def sweeps(request: Request) -> HTMLResponse:
        views, unreadable = await run_sync(partial(_all_sweeps, _own_address(request)), limiter=limiter)
        return _page("sweeps.html", prefix, views=views, unreadable=unreadable)

    @router.get("/sweeps/{run_id}")
    async def sweep(run_id: str, request: Request) -> HTMLResponse:
        shown = await run_sync(partial(_one_sweep, run_id, request), limiter=limiter)
        return _page("sweep.html", prefix, **shown)

    @router.get("/sweeps/{run_id}/live")
    async def live(run_id: str, request: Request) -> JSONResponse:
        shown = await run_sync(partial(_one_sweep, run_id, request), limiter=limiter)
        html = _templates().get_template("live.html").render(prefix=prefix, **shown)
        return JSONResponse({"html": html, "figures": shown["figures"], "running": shown["view"].is_running})

    @router.get("/static/plotly.js")
    async def plotly() -> Response:
        headers = {"Content-Encoding": "gzip", "Cache-Control": "max-age=86400"}
        return Response(_plotly(), media_type="text/javascript", headers=headers)

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in _STATIC:
            return Response(status_code=404)
        return Response((PAGES / name).read_bytes(), media_type=_STATIC[name])

    return router


def _all_sweeps(uri: str) -> tuple[list[SweepView], list[tuple[Any, str]]]:
    """Every sweep of the store, the newest first, and those that cannot be read with the reason."""
    views, unreadable = [], []
    for summary in list_sweeps(uri):
        try:
            views.append(_read(uri, summary.run_id, summary.end_time))
        except UsageError as error:
            unreadable.append((summary, str(error)))
    return views, unreadable


def _one_sweep(run_id: str, request: "Request") -> dict[str, Any]:
    view = _read(_own_address(request), run_id)
    figures = {
        "front": json.loads(front_figure(view.front).to_json()),
        "history": json.loads(history_figure(hypervolume_history(view.record)).to_json()),
    }
    address = str(request.base_url).rstrip("/")  # as the person who reads the page reaches it
    return {"view": view, "figures": figures, "commands": view.commands(address)}


_kept = Kept()


def _read(uri: str, run_id: str, ended: float | None = None) -> SweepView:
    """A sweep as it stands, or as it stood when it ended; raises UsageError."""
    moment = time.time() // _FRESH_SECONDS if ended is None else ended
    return _kept.get((uri, run_id, ended is None), moment, lambda: _read_now(uri, run_id))


def _read_now(uri: str, run_id: str) -> SweepView:
    record = read_sweep(uri, run_id)
    with reading(uri) as client:
        experiment_id = client.get_run(record.run_id).info.experiment_id
    return view_of(record, experiment_id, driverless=driver_is_gone(record.sweep_key, home_folder()))


def _own_address(request: "Request") -> str:
    """This server's address as it reaches itself: through it artifacts are read as well, wherever they are kept."""
    host, port = request.scope["server"]
    return f"{request.url.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _page(template: str, prefix: str, status_code: int = 200, **values: Any) -> "HTMLResponse":
    from fastapi.responses import HTMLResponse

    html = _templates().get_template(template).render(prefix=prefix, **values)
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
    return HTMLResponse(html, status_code=status_code, headers=headers)


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["duration"] = duration
    return templates


@cache
def _plotly() -> bytes:
    """Plotly's script as the Python package brings it, compressed."""
    from plotly.offline import get_plotlyjs

    return gzip.compress(get_plotlyjs().encode(), mtime=0)
