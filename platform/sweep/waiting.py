"""What trials of a sweep wait for on their cluster, in words, for `status`."""

import time
from collections.abc import Mapping

import ray

from recallfront.platform.results.records import TAG
from recallfront.platform.sweep.recorder import Recorder
from recallfront.sweeps.trial import ResourceConfig

_LOOK_SECONDS = 5.0  # between two looks; a trial whose actor starts waits for less


class Waiting:
    """Notes with the sweep how many of its trials wait, and for what."""

    def __init__(self, recorder: Recorder, resources: ResourceConfig) -> None:
        self._recorder, self._resources = recorder, resources
        self._due_at, self._told = time.monotonic() + _LOOK_SECONDS, ""

    def look(self, number: int) -> None:
        """To be called again and again, with the number of trials that have no process yet."""
        if time.monotonic() < self._due_at:
            return
        self._due_at = time.monotonic() + _LOOK_SECONDS
        told = what_waits(number, self._resources, ray.available_resources()) if number else ""
        if told != self._told:
            self._told = told
            self._recorder.sweep_tags({f"{TAG}waiting": told})


def what_waits(number: int, resources: ResourceConfig, free: Mapping[str, float]) -> str:
    """How many trials wait, and what the cluster lacks for them; that a process starts, if it lacks nothing."""
    asked = {"CPU": resources.cpus * resources.workers, "GPU": resources.gpus * resources.workers}
    trials = f"{number} trial waits" if number == 1 else f"{number} trials wait"
    lacks = [
        f"{amount:g} {name} each, of which {free.get(name, 0.0):g} are free"
        for name, amount in asked.items()
        if amount > free.get(name, 0.0) + 1e-9
    ]
    return f"{trials} for {' and '.join(lacks) or 'a process to start'}"
