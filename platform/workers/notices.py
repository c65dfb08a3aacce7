"""How a process with a trial hears that it must leave its node: by SIGTERM, or because Ray drains the node."""

import threading
from functools import lru_cache

import ray
from ray._private.state import state

from recallfront.platform.trial.leaving import heed_termination

_LOOK_SECONDS = 3.0  # a spot node is given 30 s and more


def told_to_leave() -> threading.Event:
    """An event of this process that is set once it must leave; to be called first by the process's main thread."""
    return _watch().told


def draining_nodes() -> set[str]:
    """Ray's ids of the nodes that are being drained: they take no further work, and go."""
    return set(state.get_draining_nodes())


def drained_nodes() -> set[str]:
    """Ray's ids of the nodes that are being drained, and of those that were when this process looked before."""
    watch = _watch()
    watch.look()
    return set(watch.drained)


@lru_cache(maxsize=1)
def _watch() -> "_DrainWatch":
    watch = _DrainWatch(heed_termination())
    watch.start()
    return watch


class _DrainWatch(threading.Thread):
    """Sets an event once this process's node is being drained."""

    def __init__(self, told: threading.Event) -> None:
        super().__init__(name="drain-watch", daemon=True)
        self.told, self.drained = told, frozenset[str]()
        self._node = ray.get_runtime_context().get_node_id()

    def run(self) -> None:
        while not self.told.wait(_LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        self.drained |= draining_nodes()
        if self._node in self.drained:
            self.told.set()
