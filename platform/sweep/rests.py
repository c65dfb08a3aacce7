"""When trials rest: between an end that was early, or an interruption, and the moment they go on."""

import time
from collections.abc import Iterable
from typing import Final

from recallfront.platform.results.records import RESTS, TAG, TrialRecord

_MOST: Final = 200  # rests of one trial, which a tag holds


class Rests:
    """Notes when trials end, so that those that go on say how long they have rested."""

    def __init__(self, earlier: Iterable[TrialRecord] = ()) -> None:
        """`earlier`: the trials of earlier runs of the sweep."""
        trials = list(earlier)
        self._ended = {t.trial_key: t.end_time for t in trials if t.end_time is not None}
        self._told = {t.trial_key: t.tags[RESTS].split() for t in trials if RESTS in t.tags}

    def ended(self, trial_key: str) -> None:
        """A trial has ended, for now or for good."""
        self._ended[trial_key] = time.time()

    def goes_on(self, trial_key: str) -> dict[str, str]:
        """A trial begins, or goes on -> the tag that tells all its rests, in seconds since the epoch."""
        since = self._ended.pop(trial_key, None)
        if since is None:
            return {}
        told = self._told.setdefault(trial_key, [])
        told.append(f"{since:.1f}-{time.time():.1f}")
        return {f"{TAG}{RESTS}": " ".join(told[-_MOST:])}
