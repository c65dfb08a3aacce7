"""Measurements in doubt are made again when the trials have ended: then nothing of the sweep runs beside them.

What measures is imported where it is first used, so that the command starts fast.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from recallfront.platform.cluster.watch import RayLost
from recallfront.platform.errors import one_line
from recallfront.platform.front.candidates import doubts_of
from recallfront.platform.results.labels import trial_label, varying_in
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.cancelled import Cancelled
from recallfront.platform.sweep.conductor import Conductor
from recallfront.platform.trial.workplace import Workplace, workplace_json
from recallfront.sweeps.trial import TrialConfig

if TYPE_CHECKING:
    from recallfront.platform.workers.remeasure import Again


def measure_again(
    conductor: Conductor, place: Workplace, *, joined: bool, tell: Callable[[str], None]
) -> str | None:
    """Repeat, once, each measurement of a finished trial that missed its spread or was made beside other work.

    Where the repetition is the better one it takes the place of the first. On a cluster that was `joined` a worker
    measures, else this process does. A protocol whose `max_repeats` is its `repeats` asks for no repetition.

    Args:
        tell: hears, in a sentence, which one is under way.

    Returns:
        What became of them, in a sentence; None if there was nothing to do.

    Raises:
        Cancelled: somebody has asked for the sweep's end.
    """
    spec = conductor.spec
    if spec.measurement.max_repeats == spec.measurement.repeats or conductor.out_of_budget():
        return None
    in_doubt: dict[str, list[tuple[TrialRecord, TrialConfig]]] = {}
    for trial in conductor.record().with_status(Status.FINISHED):
        if conductor.recorder.knows(trial.trial_key) and doubts_of([trial], spec.objectives, 1):
            config = TrialConfig.model_validate(trial.config)
            in_doubt.setdefault(_shared(config), []).append((trial, config))
    if not in_doubt:
        return None
    better = left = 0
    varying = varying_in(spec)
    for number, trials in enumerate(in_doubt.values(), start=1):
        trial, config = trials[0]
        if conductor.cancellation is not None:
            raise Cancelled(str(conductor.cancellation))
        what = trial_label(trial, varying)
        tell(f"throughput in doubt is measured again, {number} of {len(in_doubt)}: {what}")
        try:
            again = _measured(config, place, joined=joined)
        except RayLost:
            raise
        except Exception as error:  # of the device or the home; the figures that there are stay as they are
            tell(f"it could not be measured: {one_line(error)}")
            left += len(trials)
            continue
        if again is not None:
            numbers, details, doubtful = again
            better += sum(conductor.measured_again(trial, numbers, details) for trial, _ in trials)
            left += doubtful * len(trials)
    return f"throughput in doubt was measured again: {better} trials have better figures, {left} are still in doubt"


def _shared(config: TrialConfig) -> str:
    """What the trials of one measurement have in common: their figures stay one, or a front would choose by chance."""
    from recallfront.platform.trial.measure import measurement_key

    return measurement_key(config, "gpu" if config.resources.gpus else "cpu", "this")


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
