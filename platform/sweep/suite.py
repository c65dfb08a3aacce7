"""Running a suite: its sweeps one after another on one Ray, and a table of scores in MLflow."""

import json
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Final

from rich.console import Console

from recallfront.platform.cluster.connection import named_cluster, ray_cluster
from recallfront.platform.errors import UsageError
from recallfront.platform.front.claim_notes import doubtful
from recallfront.platform.front.claims import as_json
from recallfront.platform.front.scores import Scores, scores
from recallfront.platform.home import home_folder
from recallfront.platform.plugins import load
from recallfront.platform.results.records import TAG
from recallfront.platform.sweep.recorder import CLAIMS_FILE, claim_tags
from recallfront.platform.sweep.run import SweepResult, check_new, run_sweep
from recallfront.platform.tracking.store import find_store, prepare_store
from recallfront.platform.tracking.writer import TrackingWriter
from recallfront.sweeps.load import load_study
from recallfront.sweeps.suite import Suite

_TABLE: Final = "scores.json"


def run_suite(
    suite: Suite,
    *,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
    address: str | None = None,
    console: Console | None = None,
    plugins: Iterable[Path | str] = (),
    ended: Callable[[SweepResult], None] = lambda result: None,
) -> Scores:
    """Run the sweeps of a suite, or resume them, and log the table of their scores to a run of its own.

    Args:
        suite: what `load_study` read.
        ended: hears of each sweep that has ended.
        home, tracking_uri, address, console, plugins: as `run_sweep` takes them.

    Raises:
        UsageError: the request is not possible.
    """
    load(plugins)
    folder = home_folder(home).resolve()
    uri = prepare_store(tracking_uri, folder)
    where = named_cluster() if address is None else address
    spool = folder / "spool" / f"suite-{suite.key[:16]}.sqlite"
    for note in doubtful(suite.claims, [part.spec for part in suite.parts]):
        if console is not None:
            console.print(note, markup=False, highlight=False, soft_wrap=True)
    for part in suite.parts:
        check_new(part.spec, uri)
    with ray_cluster(where):
        for part in suite.parts:
            ended(run_sweep(part.spec, home=home, tracking_uri=tracking_uri, address=where, console=console))
            # each time: a suite may take days, and what is there can be looked at
            found = scores(suite, uri)
            with closing(TrackingWriter(uri, spool)) as writer:
                _log(suite, found, writer)
    return found


def read_scores(
    study_or_file: str,
    *,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
    plugins: Iterable[Path | str] = (),
) -> Scores:
    """The scores of a suite as far as its sweeps have come; `plugins` are files with mixers and tasks that it names.

    Raises:
        UsageError, SpecError: it is no suite, or the store cannot be read.
    """
    load(plugins)
    study = load_study(study_or_file)
    if not isinstance(study, Suite):
        raise UsageError(f"{study_or_file}: is one sweep, and scores are of a suite, which has tasks")
    return scores(study, find_store(tracking_uri, home_folder(home)))


def _log(suite: Suite, found: Scores, writer: TrackingWriter) -> None:
    """Put the scores into the suite's own run; MLflow shows what is tagged so as a table."""
    run, now = f"suite:{suite.key}", time.time_ns() // 1_000_000
    about = f"{suite.description}\n\nScores are in {_TABLE}."
    tags = {f"{TAG}kind": "suite", f"{TAG}suite_key": suite.key, f"{TAG}missing": found.missing}
    files = [_TABLE, *([CLAIMS_FILE] if found.judgements else [])]
    tags |= {"mlflow.loggedArtifacts": json.dumps([{"path": name, "type": "table"} for name in files])}
    tags |= claim_tags(found.judgements)
    writer.open_run(run, experiment=suite.name, name=suite.name, tags=tags, description=about.strip())
    reached = {
        f"score/{task}/{name}": score.recall
        for name, row in found.table.items()
        for task, score in row.items()
    }
    reached |= {f"score/mean/{name}": mean for name, mean in found.means.items()}
    # seconds for steps: they rise from run to run of a suite
    writer.metrics(run, [(name, value, now // 1000, now) for name, value in reached.items()])
    columns = found.columns()
    table = {"columns": list(columns), "data": [list(row) for row in zip(*columns.values(), strict=True)]}
    writer.text(run, json.dumps(table), _TABLE)
    if found.judgements:
        writer.text(run, as_json(found.judgements), CLAIMS_FILE)
    writer.close_run(run, "FINISHED")
