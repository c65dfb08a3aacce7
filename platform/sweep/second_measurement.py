"""Measurements in doubt are made again when the trials have ended: then nothing of the sweep runs beside them.

What measures is imported where it is first used, so that the command starts fast.
"""

import json
from typing import TYPE_CHECKING

from recallfront.platform.front.candidates import doubts_of
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.conductor import Conductor
from recallfront.platform.trial.workplace import Workplace, workplace_json
from recallfront.sweeps.trial import TrialConfig

if TYPE_CHECKING:
    from recallfront.platform.workers.remeasure import Again


def measure_again(conductor: Conductor, place: Workplace, *, joined: bool) -> str | None:
    """Repeat, once, each measurement of a finished trial that missed its spread or was made beside other work.

    Where the repetition is the better one it takes the place of the first. On a cluster that was `joined` a worker
    measures, else this process does. A protocol whose `max_repeats` is its `repeats` asks for no repetition.

    Returns:
        What became of them, in a sentence; None if there was nothing to do.
    """
    spec = conductor.spec
    if spec.measurement.max_repeats == spec.measurement.repeats or conductor.out_of_budget():
        return None
    found: dict[str, Again | None] = {}
    better = left = 0
    for trial in conductor.record().with_status(Status.FINISHED):
        if not conductor.recorder.knows(trial.trial_key) or not doubts_of([trial], spec.objectives, 1):
            continue
        config = TrialConfig.model_validate(trial.config)
        # seeds share a measurement
        shape = config.model_copy(update={"seed": 0}).key
        if shape not in found:
            found[shape] = _measured(config, place, joined=joined)
        if (again := found[shape]) is not None:
            numbers, details, doubtful = again
            better += conductor.measured_again(trial, numbers, details)
            left += doubtful
    if not found:
        return None
    return f"throughput in doubt was measured again: {better} trials have better figures, {left} are still in doubt"


def _measured(config: TrialConfig, place: Workplace, *, joined: bool) -> "Again | None":
    from recallfront.platform.workers.remeasure import remeasure

    arguments = config.model_dump_json(), json.dumps(workplace_json(place))
    if not joined:
        return remeasure(*arguments)
    import ray

    asked = config.resources
    worker = ray.remote(num_cpus=asked.cpus, num_gpus=asked.gpus)(remeasure)
    again: Again | None = ray.get(worker.remote(*arguments))
    return again
