"""What may be done from a page where the server was started with `--allow-actions`: pick, rerun and cancel."""

import hmac
import os
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from threading import Lock
from urllib.parse import urlsplit

from recallfront.dashboards.choices import KEY_DIGITS, Constraint
from recallfront.dashboards.views import SweepView
from recallfront.platform.errors import UsageError
from recallfront.platform.front import registry
from recallfront.platform.front.next_steps import rerun_command
from recallfront.platform.home import home_folder
from recallfront.platform.sweep.cancel import request

ALLOWED = "RECALLFRONT_ALLOW_ACTIONS"  # set for the server by `recallfront ui --allow-actions`
TOKEN_HEADER = "x-recallfront-token"
_LOG = "rerun.log"
_VERDICT = "verdict: "  # begins the line in which `recallfront rerun` tells it

_started: dict[str, "subprocess.Popen[bytes]"] = {}  # reruns by their trial's run
_guard = Lock()


def token() -> str:
    """What a page must send back with an action; empty if none is allowed."""
    return _token() if os.environ.get(ALLOWED) == "1" else ""


def check(sent: str | None) -> None:
    """Raise UsageError unless actions are allowed, and the page that asks is one of this server's own."""
    if not token():
        raise UsageError("this server allows no actions: start it with `recallfront ui --allow-actions`")
    if not hmac.compare_digest((sent or "").encode(), token().encode()):
        raise UsageError("this page is of an earlier server: load it again")


def check_origin(headers: Mapping[str, str]) -> None:
    """Raise UsageError if the browser says that a page of another site or port asks.

    MLflow lets any page of this machine read what the server answers, the token too. `Sec-Fetch-Site` is the browser's
    own word, which no script can change; one that does not send it, as over plain HTTP, sends `Origin`.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    is_own = origin is None or urlsplit(origin).netloc == headers.get("host")
    if not (is_own if site is None else site in ("same-origin", "none")):
        raise UsageError("a page of another site asks for this: do it on the sweep's own page")


def register(view: SweepView, asked: Constraint, key: str, tracking_uri: str) -> str:
    """Pick and register as `recallfront pick` does -> what was done, in one sentence.

    Raises:
        UsageError: the choice is no longer the configuration whose trial's `key` the page showed, or none.
    """
    picked = asked.choose(view)
    if key not in (own[:KEY_DIGITS] for own in picked.candidate.trial_keys):
        raise UsageError(f"the choice is now {picked.candidate.label}: choose again")
    is_knee = picked.candidate is picked.front.knee and not (
        asked.where or asked.by.startswith(("max", "min"))
    )
    name, alias = picked.front.sweep, "pareto-knee" if is_knee else "pareto-pick"
    registry.check_names(name, alias)
    version = registry.register(picked, name, alias, home=home_folder(), tracking_uri=tracking_uri)
    return f"registered {name} version {version} as models:/{name}@{alias}: {picked.reason}"


def rerun(view: SweepView, run_id: str, tracking_uri: str, address: str) -> str:
    """Run a trial of the sweep again in a process of its own, one at a time -> what was started, in one sentence.

    Raises:
        UsageError: the sweep has no such trial, or it needs files of plug-ins: a person has them, and gives them to the
            command, which reaches this server at `address`; or another one is being run again.
    """
    if not re.fullmatch("[0-9a-f]{32}", run_id) or all(t.run_id != run_id for t in view.record.trials):
        raise UsageError(f"the sweep has no trial of run {run_id[:40]!r}")
    if view.plugin_files:
        command = f"{rerun_command(run_id, view.plugin_files)} --tracking-uri {shlex.quote(address)}"
        raise UsageError(f"run {run_id[:8]} needs files of plug-ins: where they are, `recallfront {command}`")
    with _guard:
        busy = [run for run, process in _started.items() if process.poll() is None]
        if busy:
            raise UsageError(f"run {busy[0][:8]} is being run again: wait until it has ended")
        folder = home_folder()
        words = [sys.executable, "-m", "recallfront", "rerun", run_id]
        words += ["--home", str(folder), "--tracking-uri", tracking_uri]
        with open(folder / _LOG, "wb") as log:
            _started.clear()
            _started[run_id] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=False
            )
    return f"run {run_id[:8]} is being run again; {folder / _LOG} has its output"


def rerun_result(run_id: str) -> str:
    """The verdict on a trial that was run again from here, or why there is none; empty as long as it runs.

    Raises:
        UsageError: it was not run again, or another one has been since.
    """
    with _guard:
        process = _started.get(run_id)
        if process is None:
            raise UsageError(f"run {run_id[:8]} is not being run again")
        if process.poll() is None:
            return ""
        lines = (home_folder() / _LOG).read_text(errors="replace").splitlines()
    told = [line for line in lines if line.startswith(_VERDICT)]
    return next(reversed(told or [line for line in lines if line.strip()]), "it ended without a word")


def cancel(view: SweepView, tracking_uri: str) -> str:
    """Ask the driver of the sweep to end it -> what was done, in one sentence."""
    sweep = request(view.record.run_id, tracking_uri=tracking_uri)
    return f"asked the driver of {sweep.name}: what trains is checkpointed and ends, and the sweep can be resumed"


@cache
def _token() -> str:
    return secrets.token_urlsafe(32)
