"""Sweeps as the pages read them: from this server's own store, shared by who looks within two seconds.

MLflow is imported where it is first used, so that reading this file costs little.
"""

import os
import sys
import time
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from recallfront.dashboards.explore import Explorer
from recallfront.dashboards.kept import Kept
from recallfront.dashboards.views import SweepView, view_of
from recallfront.platform.home import home_folder
from recallfront.platform.sweep.driverless import driverless
from recallfront.platform.tracking.ledger import find_sweep, read_sweep, reading
from recallfront.platform.tracking.lineage import plugin_files
from recallfront.platform.tracking.sqlite import store_state

if TYPE_CHECKING:
    from fastapi import Request

_FRESH_SECONDS = 2.0  # within these, viewers of one sweep share what was read

_kept = Kept()


def explorer_of(uri: str, run_id: str, moment: float) -> Explorer:
    """A sweep as it stood at the moment that its page shows or later, or, for 0, as it is now; raises UsageError."""
    begun = time.time()
    since = moment if 0 < moment <= begun else begun - _FRESH_SECONDS

    def read() -> Explorer:
        read_at, state = time.time(), store_state(own_store(uri))
        return Explorer(_read(uri, run_id), read_at, state)

    def unchanged(earlier: Explorer) -> Explorer | None:
        read_at = time.time()
        # whether a driver that has not ended is there, the clock and its home's lock tell
        goes_on = earlier.view.record.tags.get("status") == "running"
        if goes_on or earlier.state is None or earlier.state != store_state(own_store(uri)):
            return None
        return earlier.at(read_at)

    return _kept.get((uri, run_id), since, read, unchanged)


def now() -> float:
    """This moment, as coarse as pages are fresh."""
    return time.time() // _FRESH_SECONDS * _FRESH_SECONDS


def own_address(request: "Request") -> str:
    """This server's address as it reaches itself: through it artifacts are read as well, wherever they are kept."""
    host, port = request.scope["server"]
    # the scheme of a request is its proxy's where there is one
    return f"{'https' if _speaks_tls() else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _speaks_tls() -> bool:
    """Whether this process's uvicorn has a certificate, as its command line or its own variables say."""
    return any(word.startswith("--ssl-") for word in sys.argv) or "UVICORN_SSL_CERTFILE" in os.environ


def public_address(request: "Request") -> str:
    """This server's address as the person who reads the page reaches it."""
    return str(request.base_url).rstrip("/")


def own_store(uri: str) -> str:
    """Where this server is asked for runs: its own SQLite file, which answers at once, or its address."""
    from mlflow.server.constants import BACKEND_STORE_URI_ENV_VAR

    backend = os.environ.get(BACKEND_STORE_URI_ENV_VAR, "")
    return backend if backend.startswith("sqlite:") else uri


@lru_cache(maxsize=1024)  # what was read: the lineage of a run never changes
def _plugin_files(uri: str, run_id: str) -> tuple[str, ...]:
    return tuple(plugin_files(uri, run_id))


def _read(uri: str, run_id: str) -> SweepView:
    store = own_store(uri)
    sweep = find_sweep(store, run_id)
    with reading(store) as client:
        run = client.get_run(sweep.run_id)
    # what a sweep wrote through this server is asked of it
    through = (run.info.artifact_uri or "").startswith("mlflow-artifacts:")
    place = uri if through else store
    record = read_sweep(place, sweep.run_id)
    owner = run.data.tags.get("mlflow.user", "")
    is_killed = bool(driverless([record], store, home_folder(), wait=False, by_clock=True))
    return view_of(
        record,
        run.info.experiment_id,
        owner=owner,
        driverless=is_killed,
        plugins_of=partial(_plugin_files, place),
    )
