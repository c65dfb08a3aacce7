"""What takes long to compute and follows from what a sweep has found: shared by who looks, until more is found."""

import hashlib
import json
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.status import Status

T = TypeVar("T")


class Computed(Generic[T]):
    """Results by what they follow from. Who asks for the same at once waits for it, others do not."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: dict[Hashable, Future[T]] = {}
        self._guard = Lock()

    def of(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result that is kept under the key, or else the one that is made now."""
        with self._guard:
            found, is_first = self._found.get(key), key not in self._found
            if found is None:
                found = self._found[key] = Future()
                while len(self._found) > self._most:
                    del self._found[next(iter(self._found))]
        if is_first:
            try:
                found.set_result(make())
            except BaseException as error:
                with self._guard:
                    self._found.pop(key, None)
                found.set_exception(error)
        return found.result()


def results_of(record: SweepRecord) -> bytes:
    """A digest of what has come of a sweep so far: it stays the same while running trials go on."""
    figures = tuple((t.run_id, *t.metrics.items()) for t in record.with_status(Status.FINISHED))
    trials = tuple((t.run_id, t.status, t.end_time) for t in record.trials)
    told = tuple(record.tags.get(name) for name in ("status", "trials_planned"))
    spec = json.dumps(record.spec, sort_keys=True)
    return hashlib.sha256(repr((record.run_id, spec, told, trials, figures)).encode()).digest()
