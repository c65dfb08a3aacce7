"""A sweep of very many trials, or very many sweeps, in seconds: a driver writes the first, the others copy their rows.

Written as a driver writes them, 2,000 trials would take longer than everything that is measured of them.
"""

import json
import sqlite3
import uuid
from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

from recallfront.benchmarks.platform.scale import fill, synthetic_figures
from recallfront.benchmarks.platform.trials import trials_of
from recallfront.platform.results.records import TAG
from recallfront.platform.tracking.digests import FIGURES, figures_tag
from recallfront.platform.tracking.ledger import CONFIG_TAG, read_sweep
from recallfront.sweeps.base import text_digest
from recallfront.sweeps.spec import SweepSpec
from recallfront.sweeps.trial import TrialConfig

_WRITTEN: Final = 15  # by the driver
_APART: Final = 400  # ms between the starts of two copies
_TABLES: Final = ("runs", "tags", "params", "metrics", "latest_metrics")


def fill_with_copies(home: Path, spec: SweepSpec, trials: int) -> str:
    """Write a sweep of `trials` trials into the SQLite store in `home` -> the id of its run."""
    run = fill(home, spec, min(_WRITTEN, trials))
    store = home / "mlflow.db"
    written = read_sweep(f"sqlite:///{store}", run).trials
    known = {trial.trial_key for trial in written}
    others = islice((c for c in trials_of(spec) if c.key not in known), trials - len(written))
    connection = sqlite3.connect(store)
    with connection:
        for number, (config, trial) in enumerate(zip(others, cycle(written), strict=False), start=1):
            _copy_trial(connection, trial.run_id, config, _APART * number)
    connection.close()
    return run


def copy_sweep(home: Path, run: str, times: int) -> None:
    """Copy a sweep's own run in the SQLite store in `home` as those of so many others, which have no trials."""
    connection = sqlite3.connect(home / "mlflow.db")
    with connection:
        for number in range(1, times + 1):
            _copy(connection, run, _APART * number, {TAG + "sweep_key": text_digest(f"{run} {number}")}, {})
    connection.close()


def _copy_trial(connection: sqlite3.Connection, run: str, config: TrialConfig, later: int) -> None:
    """Copy a trial's rows as those of another configuration, so many ms later."""
    plain, figures = config.model_dump(mode="json"), synthetic_figures(config.key)
    texts = {TAG + "trial_key": config.key, CONFIG_TAG: json.dumps(plain, separators=(",", ":"))}
    texts |= {"training.learning_rate": str(config.training.learning_rate)}
    texts |= {TAG + FIGURES: figures_tag(figures)}
    _copy(connection, run, later, texts, figures)


def _copy(
    connection: sqlite3.Connection,
    run: str,
    later: int,
    texts: Mapping[str, str],
    figures: Mapping[str, float],
) -> None:
    """Copy a run's rows as those of another, so many ms later, with other params, tags and figures if named."""
    own = uuid.uuid4().hex
    # the curve of the loss stays that of the trial which is copied
    told = {"latest_metrics": figures, "metrics": {k: v for k, v in figures.items() if k != "loss"}}
    for table in _TABLES:
        cursor = connection.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (run,))
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
        for row in rows:
            row["run_uuid"] = own
            known: Mapping[str, Any] = told.get(table, texts)
            if row.get("key") in known:
                row["value"] = known[row["key"]]
            for moment in row.keys() & {"start_time", "end_time", "timestamp"}:
                row[moment] += later
        asked = ", ".join(f":{name}" for name in names)
        connection.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({asked})", rows)
