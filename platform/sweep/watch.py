"""For how long this process has seen a sign of life stay the same: no clock of two machines is compared."""

import threading
import time

_LONGEST_READ = 5.0  # seconds: after a longer one, the store may have been away for the driver as well


class Watch:
    """Counts the seconds in which a driver's sign of life stays the same.

    Between two looks no more than a beat counts, and nothing before one that failed or took long: while the store is
    away, a driver that lives cannot write.
    """

    def __init__(self, beat_seconds: float) -> None:
        self._beat_seconds = beat_seconds
        self._lock = threading.Lock()  # several readers of a page look at once
        self._sign: object = None
        self._seen_at: float | None = None  # None: nothing has been seen, or what was seen does not count
        self.seconds = 0.0

    def saw(self, sign: object, *, took: float = 0.0) -> None:
        """Note the sign that was read just now; `took`: the seconds of reading it."""
        with self._lock:
            now = time.monotonic()
            if self._seen_at is None or sign != self._sign or took > _LONGEST_READ:
                self.seconds = 0.0
            else:
                self.seconds += min(now - self._seen_at, self._beat_seconds)
            self._sign, self._seen_at = sign, now

    def missed(self) -> None:
        """Note that the store did not answer."""
        self._seen_at = None
