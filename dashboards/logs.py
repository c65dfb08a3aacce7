"""The ends of failed trials' logs, which their configuration's panel shows."""

from collections.abc import Iterable
from contextlib import suppress

from recallfront.platform.errors import UsageError
from recallfront.platform.home import home_folder
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.log_ends import last_lines
from recallfront.platform.tracking.ledger import read_artifact, reading

_LINES, _LETTERS = 30, 8000
_DIGITS = 12  # of a trial's key, by which a line of the sweep's log names it


def log_ends(uri: str, sweep_run_id: str, trials: Iterable[TrialRecord]) -> dict[str, str]:
    """The last lines that each failed trial left, its traceback or else what it printed: run id -> text.

    What cannot be read is left out: the panel has more to show.
    """
    # an invalid one has printed nothing
    failed = [t for t in trials if t.status.is_failure and t.status is not Status.INVALID and t.run_id]
    texts = {trial.run_id: _traceback(uri, trial.run_id) for trial in failed}
    if silent := [trial for trial in failed if not texts[trial.run_id]]:
        texts |= _printed(uri, sweep_run_id, silent)
    return {run: "\n".join(text[-_LETTERS:].splitlines()[-_LINES:]) for run, text in texts.items() if text}


def _traceback(uri: str, run_id: str) -> str:
    with suppress(UsageError), reading(uri) as client:
        return read_artifact(client, run_id, "traceback.txt") or ""
    return ""


def _printed(uri: str, sweep_run_id: str, trials: Iterable[TrialRecord]) -> dict[str, str]:
    """The last lines of these trials in the sweep's log: run id -> text."""
    keys = {trial.run_id: trial.trial_key[:_DIGITS] for trial in trials}
    with suppress(UsageError):
        found = last_lines(sweep_run_id, set(keys.values()), _LINES, home=home_folder(), tracking_uri=uri)
        return {run: "\n".join(found[key]) for run, key in keys.items() if key in found}
    return {}
