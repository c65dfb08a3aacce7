"""MLflow's client as we use it: loaded late, quiet, with explicit run ids, never the fluent API.

MLflow is imported where it is first used, so that the command starts fast.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recallfront.platform.tracking.artifacts import GuardedClient

# `mlflow.store.db.utils` logs a traceback for every lost connection; our callers report it in a sentence.
_CHATTER = {"alembic": logging.WARNING, "mlflow.store.db.utils": logging.CRITICAL}
_PREFERENCES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # usage statistics would leave the cluster
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def open_client(tracking_uri: str) -> "GuardedClient":
    """A client of the store at `tracking_uri`; imports MLflow (1-2 s the first time in a process).

    It follows the store to no folder of this machine that is not the store's own: see `artifacts`.
    """
    for name, value in _PREFERENCES.items():
        os.environ.setdefault(name, value)
    from recallfront.platform.tracking.artifacts import GuardedClient

    for logger, level in _CHATTER.items():
        logging.getLogger(logger).setLevel(level)
    return GuardedClient(tracking_uri)


def pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    """What a search of MLflow's finds, page after page; `ask` takes a page's token."""
    token = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return


_patience_lock = threading.Lock()
_patience_stack: list[tuple[object, dict[str, str]]] = []
_patience_before: dict[str, str | None] = {}


@contextmanager
def fail_fast(timeout_s: int) -> Iterator[None]:
    """Within it MLflow tries an HTTP request once and waits at most `timeout_s` seconds for the answer.

    By default MLflow repeats a request for about four minutes, POSTs included: that holds up its caller and
    can create a run twice. Its only switch is the process's environment: of overlapping uses the latest
    rules.
    """
    wanted = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s),
    }
    entry = (object(), wanted)
    with _patience_lock:
        if not _patience_stack:
            _patience_before.update({name: os.environ.get(name) for name in wanted})
        _patience_stack.append(entry)
        os.environ.update(wanted)
    try:
        yield
    finally:
        with _patience_lock:
            _patience_stack.remove(entry)
            restored = _patience_stack[-1][1] if _patience_stack else dict(_patience_before)
            for name, value in restored.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
