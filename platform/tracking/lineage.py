"""Lineage back from MLflow, as data."""

from pydantic import ValidationError

from recallfront.platform.errors import UsageError
from recallfront.platform.lineage.environment import LINEAGE_FILE, TrialLineage
from recallfront.platform.tracking.digests import check_digest
from recallfront.platform.tracking.ledger import UnknownRecord, read_artifact, reading


def plugin_files(tracking_uri: str, run_id: str) -> list[str]:
    """The files of plug-ins that commands for a run need. Raises as `read_lineage`."""
    return read_lineage(tracking_uri, run_id).environment.plugin_files


def read_lineage(tracking_uri: str, run_id: str) -> TrialLineage:
    """The lineage stored with a run, as data: nothing of it is executed.

    Raises:
        UsageError: the store cannot be read, or the run has no lineage, one of another version's form, or
            one that was changed.
    """
    with reading(tracking_uri) as client:
        run, text = client.get_run(run_id), read_artifact(client, run_id, LINEAGE_FILE)
    if text is None:
        raise UnknownRecord(f"run {run_id} has no lineage (artifact {LINEAGE_FILE})")
    check_digest(run, LINEAGE_FILE, text)
    try:
        return TrialLineage.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"{part}: " for part in first["loc"])
        raise UsageError(f"the lineage of run {run_id} cannot be read: {place}{first['msg']}") from error
