"""A sweep's state as metrics of Ray, which Prometheus reads from Ray's nodes; deploy/grafana/ shows them.

Ray is imported where it is first used, so that the command starts fast.
"""

import time
from collections.abc import Callable
from typing import Final

from recallfront.platform.sweep.background import Companion
from recallfront.platform.sweep.conductor import Conductor

_TELL_SECONDS = 5.0

# name -> description; Prometheus knows them with the prefix `ray_`
GAUGES: Final = {
    "recallfront_trials": "Trials of a sweep, by status",
    "recallfront_hypervolume": "Hypervolume of a sweep's front",
    "recallfront_steps_per_second": "Training steps a second, of all trials of a sweep that run",
    "recallfront_spool_backlog": "Events of a sweep that wait for the tracking server",
}


class Gauges(Companion):
    """Tells Ray, for as long as it is entered, how a sweep stands; `backlog` counts the events that wait."""

    def __init__(self, conductor: Conductor, backlog: Callable[[], int]) -> None:
        super().__init__("gauges")
        self._conductor, self._backlog = conductor, backlog
        self._before = (time.monotonic(), conductor.steps())

    def values(self, *, is_over: bool = False) -> list[tuple[str, float, dict[str, str]]]:
        """Each metric's name, value and tags beside `sweep` and `sweep_key`; of a sweep that is over no trial runs."""
        now, steps = time.monotonic(), self._conductor.steps()
        then, before = self._before
        self._before = now, steps
        counts, speed = self._conductor.counts(), (steps - before) / max(now - then, 1e-9)
        return [
            *(
                ("recallfront_trials", float(number), {"status": status})
                for status, number in (counts | {"running": 0} if is_over else counts).items()
            ),
            ("recallfront_hypervolume", self._conductor.growth().hypervolume, {}),
            ("recallfront_steps_per_second", 0.0 if is_over else speed, {}),
            ("recallfront_spool_backlog", float(self._backlog()), {}),
        ]

    def _run(self) -> None:
        from ray.util.metrics import Gauge

        spec = self._conductor.spec
        sweep = {"sweep": spec.name, "sweep_key": spec.key[:8]}
        keys = {name: (*sweep, *(["status"] if name == "recallfront_trials" else [])) for name in GAUGES}
        gauges = {name: Gauge(name, about, keys[name]) for name, about in GAUGES.items()}
        is_over = False
        while not is_over:
            is_over = self._done.wait(_TELL_SECONDS)  # what is told last stays: it is the end
            for name, value, tags in self.values(is_over=is_over):
                gauges[name].set(value, sweep | tags)
