"""A second measurement of a trial's throughput, in whichever process has its device."""

import json
from contextlib import closing
from typing import Any

import torch

from recallfront.platform.plugins import receive
from recallfront.platform.trial.measure import as_metrics, in_doubt, measured_again
from recallfront.platform.trial.quiet import Device
from recallfront.platform.trial.workplace import read_workplace
from recallfront.sweeps.trial import TrialConfig

Again = tuple[dict[str, float], dict[str, Any], bool]


def remeasure(trial: str, place: str) -> Again | None:
    """Measure again with a trial's threads -> metrics, what describes the measurement, whether it is still in doubt.

    Both arguments are JSON text, as `TrialActor` takes them. None if this kind of device has not measured it before.
    """
    where = read_workplace(json.loads(place))
    receive(where.plugins, where.home)
    config = TrialConfig.model_validate_json(trial)
    before = torch.get_num_threads()
    torch.set_num_threads(config.resources.threads)
    try:
        with closing(Device("cuda:0" if config.resources.gpus else "cpu")) as device:
            figures = measured_again(
                config,
                device=device,
                folder=where.measurements,
                code_version=where.code_version,
                precise=where.precise,
            )
    finally:
        torch.set_num_threads(before)
    return None if figures is None else (*as_metrics(figures), in_doubt(figures, config))
