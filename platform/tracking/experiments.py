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
        _delete_again(client, name)
        return None
    experiment = str(found.experiment_id)
    if found.lifecycle_stage == "active":
        return experiment
    client.restore_experiment(experiment)  # a deleted one cannot be renamed
    client.rename_experiment(experiment, _name_of_deleted(name, experiment))
    client.delete_experiment(experiment)
    return None


def _name_of_deleted(name: str, experiment: str) -> str:
    mark = f" (deleted {experiment})"
    return name[: _LONGEST_NAME - len(mark)] + mark


def _delete_again(client: "GuardedClient", name: str) -> None:
    """Delete what a process that was killed between the calls of `find_experiment` has left under another name."""
    for found in client.search_experiments():
        if found.name == _name_of_deleted(name, str(found.experiment_id)):
            client.delete_experiment(found.experiment_id)
