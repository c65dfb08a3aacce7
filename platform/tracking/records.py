"""A sweep's record from the store that holds it."""

from pathlib import Path

from recallfront.platform.home import home_folder
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.platform.tracking.store import find_store


def read_record(
    sweep: str | SweepRecord, *, home: Path | str | None = None, tracking_uri: str | None = None
) -> SweepRecord:
    """A sweep's record from the ledger; a record passes through.

    Raises:
        UsageError: when there is no such sweep, or the store does not answer.
    """
    if isinstance(sweep, SweepRecord):
        return sweep
    return read_sweep(find_store(tracking_uri, home_folder(home)), sweep)
