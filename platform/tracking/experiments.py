"""The MLflow experiment of a study, found by its name.

MLflow is imported where it is first used, so that the command starts fast.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from recallfront.platform.tracking.client import pages
from recallfront.platform.tracking.places import artifact_location

if TYPE_CHECKING:
    from mlflow.entities import Experiment

    from recallfront.platform.tracking.artifacts import GuardedClient

_LONGEST_NAME: Final = 500  # that MLflow takes
# by which MLflow's pages open an experiment on traces or on runs, as long as they do not go by their reader's choice
KIND_TAG: Final = "mlflow.experimentKind"
KIND: Final = "custom_model_development"  # on runs


def experiment_of(client: "GuardedClient", uri: str, name: str) -> str:
    """The id of the experiment of this name, which is made if there is none, or no more."""
    found = _find_or_make(client, uri, name)
    show_runs(client, found)
    return found


def show_runs(client: "GuardedClient", experiment: str) -> None:
    """Say that the experiment of an id is of runs, unless somebody has said otherwise.

    Whatever the store refuses: a tag for the eye keeps no sweep from being recorded.
    """
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):
        if KIND_TAG not in client.get_experiment(experiment).tags:
            client.set_experiment_tag(experiment, KIND_TAG, KIND)


def _find_or_make(client: "GuardedClient", uri: str, name: str) -> str:
    """Find the experiment of a name, or make one.

    A deleted one stays deleted under another name: MLflow keeps its name taken, could give it back only together with
    every run that was ever deleted in it, and renames no deleted one, so that it is there again for a moment. Its
    successor is made before, and its name tells until the end what a killed process has left to do.
    """
    named = {found.name: found for found in every_experiment(client)}
    own = named.get(name)
    deleted = [found for found in named.values() if found.name == _of_deleted(name, _id(found))]
    for old in [own] if own else deleted:
        successor = named.get(_of_successor(name, _id(old)))
        if successor is not None:
            return _succeed(client, old, successor, name)
    if own is not None and _is_active(own):
        return _id(own)
    location = artifact_location(uri, name)
    if own is not None:
        made = str(client.create_experiment(_of_successor(name, _id(own)), location))
        return _succeed(client, own, client.get_experiment(made), name)
    for old in filter(_is_active, deleted):  # two processes at once can leave one
        client.delete_experiment(_id(old))
    return str(client.create_experiment(name, location))


def half_deleted(names: Mapping[str, str]) -> set[str]:
    """Of active experiments, given by id and name, those that were deleted and are there only to be renamed."""
    taken = set(names.values())
    return {
        own
        for own, name in names.items()
        if _of_successor(name.removesuffix(_mark_of_deleted(own)), own) in taken
    }


def every_experiment(client: "GuardedClient") -> "list[Experiment]":
    """The experiments of a store, the deleted ones as well."""
    from mlflow.entities import ViewType

    return list(pages(lambda at: client.search_experiments(view_type=ViewType.ALL, page_token=at)))


def _succeed(client: "GuardedClient", old: "Experiment", successor: "Experiment", name: str) -> str:
    """Give a deleted experiment's name to its successor, from wherever a killed process has got to."""
    is_named, is_back = old.name == name, _is_active(old)
    if is_named and not is_back:
        client.restore_experiment(_id(old))
    if is_named:
        client.rename_experiment(_id(old), _of_deleted(name, _id(old)))
    if is_named or is_back:
        client.delete_experiment(_id(old))
    if not _is_active(successor):
        client.restore_experiment(_id(successor))
    client.rename_experiment(_id(successor), name)
    return _id(successor)


def _of_deleted(name: str, experiment: str) -> str:
    return _marked(name, _mark_of_deleted(experiment))


def _of_successor(name: str, experiment: str) -> str:
    return _marked(name, f" (in place of {experiment})")


def _mark_of_deleted(experiment: str) -> str:
    return f" (deleted {experiment})"


def _marked(name: str, mark: str) -> str:
    return name[: _LONGEST_NAME - len(mark)] + mark


def _id(experiment: "Experiment") -> str:
    return str(experiment.experiment_id)


def _is_active(experiment: "Experiment") -> bool:
    return str(experiment.lifecycle_stage) == "active"
