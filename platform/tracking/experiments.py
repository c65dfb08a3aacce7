"""The MLflow experiment of a study, found by its name."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from recallfront.platform.tracking.artifacts import GuardedClient

_LONGEST_NAME: Final = 500  # that MLflow takes


def find_experiment(client: "GuardedClient", name: str) -> str | None:
    """The id of the experiment of this name; None if there is none, or no more.

    A deleted one stays deleted under another name: MLflow keeps its name taken, and could give it back only together
    with every run that was ever deleted in it.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        return None
    experiment = str(found.experiment_id)
    if found.lifecycle_stage == "active":
        return experiment
    mark = f" (deleted {experiment})"
    client.restore_experiment(experiment)  # a deleted one cannot be renamed
    client.rename_experiment(experiment, name[: _LONGEST_NAME - len(mark)] + mark)
    client.delete_experiment(experiment)
    return None
