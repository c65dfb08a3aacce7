"""What tags of runs tell in numbers and JSON: whoever may write to the store may have edited them."""

import json
import math
from contextlib import suppress
from functools import lru_cache
from typing import Any

from recallfront.platform.errors import UsageError, printable
from recallfront.platform.results.records import TAG, SweepRecord, TrialRecord

_SHAPE = {"number": int, "block": str, "knobs": dict, "parameters": dict}  # of a proposal


def elapsed_seconds(sweep: SweepRecord) -> float:
    """How long the sweep has taken, in all its runs. Raises UsageError if the tag was edited."""
    text = sweep.tags.get("elapsed_seconds", "0")
    with suppress(ValueError):
        if 0 <= (seconds := float(text)) < math.inf:
            return seconds
    raise _edited(sweep.run_id, "elapsed_seconds", text, "a number of seconds")


def training_steps(sweep: SweepRecord) -> int:
    """How many steps its trials have trained, in all its runs. Raises UsageError if the tag was edited."""
    text = sweep.tags.get("training_steps", "0")
    if text.isdecimal() and len(text) < 20:
        return int(text)
    raise _edited(sweep.run_id, "training_steps", text, "a number of steps")


def proposed(sweep: SweepRecord) -> dict[str, Any]:
    """How many configurations the search has proposed (`number`), and for which code and data; empty if it has none.

    Raises UsageError if the tag was edited.
    """
    text = sweep.tags.get("proposed", "{}")
    found = read_object(text, f"run {sweep.run_id}: its tag {TAG}proposed")
    if found and not _counts(found.get("number")):
        raise _edited(sweep.run_id, "proposed", text, "JSON with a number")
    return found


def proposal(trial: TrialRecord, blocks: list[str]) -> dict[str, Any]:
    """The proposal that a trial belongs to, of one of these blocks. Raises UsageError if the tag was edited."""
    text = trial.tags.get("proposal", "")
    found = read_object(text, f"run {trial.run_id}: its tag {TAG}proposal")
    fits = all(isinstance(found.get(key), kind) for key, kind in _SHAPE.items())
    seeds = found.get("seeds", [])
    fits = fits and isinstance(seeds, list) and all(map(_counts, seeds))
    if not fits or not _counts(found["number"]) or found["block"] not in blocks:
        raise _edited(trial.run_id, "proposal", text, "a proposal of this sweep")
    return found


@lru_cache(maxsize=1024)  # the trials of a sweep have the same
def own_name(key: str) -> str:
    """What a tag of ours is called, as a terminal may be given it; empty if the tag is another's."""
    own = key.removeprefix(TAG)
    return "" if own == key else printable(own)


def read_object(text: str, where: str) -> dict[str, Any]:
    """The JSON object that a store holds. Raises UsageError, which begins with `where`, if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{where} is not a JSON object: it was edited, or another program wrote it")
    return found


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _edited(run_id: str, tag: str, text: str, wanted: str) -> UsageError:
    return UsageError(
        f"run {run_id}: its tag {TAG}{tag} is {text[:60]!r}, not {wanted}: it was edited, or another program wrote it"
    )
