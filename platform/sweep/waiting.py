"""What trials of a sweep wait for on their cluster, in words, for `status`."""

import time
from collections.abc import Callable, Mapping, Sequence

from ray._private.state import available_resources_per_node

from recallfront.platform.cluster.autoscaling import UNTOLD, is_judged, nodes_to_come
from recallfront.platform.cluster.fit import trials_that_fit
from recallfront.platform.sweep.conductor import Conductor
from recallfront.sweeps.trial import ResourceConfig

_LOOK_SECONDS = 5.0  # between two looks; a trial whose actor starts waits for less


class Waiting:
    """Tells the conductor how many of its trials wait, and for what."""

    def __init__(self, conductor: Conductor, *, may_grow: bool) -> None:
        self._conductor, self._may_grow = conductor, may_grow
        self._due_at = time.monotonic() + _LOOK_SECONDS

    def look(self, count: Callable[[], int]) -> None:
        """To be called again and again, with what counts the trials that have no process yet."""
        if time.monotonic() < self._due_at:
            return
        self._due_at = time.monotonic() + _LOOK_SECONDS
        number = count()
        if number == 0:
            self._conductor.waits("")
            return
        free = list(available_resources_per_node().values())
        coming, judged = (nodes_to_come(), is_judged()) if self._may_grow else (None, True)
        resources = self._conductor.spec.resources
        self._conductor.waits(what_waits(number, resources, free, coming, judged=judged))


def what_waits(
    number: int,
    resources: ResourceConfig,
    free: Sequence[Mapping[str, float]],
    coming: Mapping[str, int] | None = None,
    *,
    judged: bool = True,
) -> str:
    """How many trials wait, and what the cluster lacks for them; that a process starts, if it lacks nothing.

    Args:
        number: of trials.
        resources: of each.
        free: what each node has free.
        coming: nodes that are being added, by type; None if no autoscaler adds any.
        judged: whether the autoscaler has said that it can add a node that holds a trial, if none is there.
    """
    trials = f"{number} trial waits" if number == 1 else f"{number} trials wait"
    if trials_that_fit(resources, free):
        return f"{trials} for a process to start"
    asked = {"CPU": resources.cpus * resources.workers, "GPU": resources.gpus * resources.workers}
    total = {name: sum(node.get(name, 0.0) for node in free) for name in asked}
    lacks = [
        f"{amount:g} {name} each, of which {total[name]:g} are free"
        for name, amount in asked.items()
        if amount > total[name] + 1e-9
    ]
    lack = " and ".join(lacks) or "a node that has enough of it free"
    if coming is None:
        return f"{trials} for {lack}"
    added = ", ".join(f"{count} of type {name}" for name, count in sorted(coming.items()))
    if added:
        return f"{trials} for {lack}; nodes are being added: {added}"
    return f"{trials} for {lack}; " + ("a node may be added" if judged else UNTOLD)
