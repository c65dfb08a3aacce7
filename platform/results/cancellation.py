"""A request to cancel a sweep, as a tag of its run tells it."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final, Self

from recallfront.platform.errors import printable

DRIVER: Final = "driver"  # tag: which process drives the sweep, or was the last to
BEAT: Final = "beat"  # tag: a driver that lives changes it every 10 s
CANCEL: Final = "cancel"  # tag: the last request
_LONGEST = 200  # characters of a name


@dataclass(frozen=True)
class CancelRequest:
    """Who asked for the end of a sweep's run, and when."""

    driver: str  # that is asked: a request of old is none of a later driver's
    by: str
    at: float  # seconds since the epoch

    @classmethod
    def read(cls, tags: Mapping[str, str]) -> Self | None:
        """The request that a sweep's tags (without their prefix) hold to its present or last driver; else None."""
        try:
            raw = json.loads(tags.get(CANCEL, ""))
            found = cls(str(raw["driver"]), printable(str(raw["by"]))[:_LONGEST], float(raw["at"]))
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            return None
        # a moment that no calendar has was not written by us
        known = found.driver == tags.get(DRIVER) and 0 <= found.at < 2**35
        return found if known else None

    def to_json(self) -> str:
        """What `read` reads."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        return f"cancelled by {self.by}, {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.at))}"
