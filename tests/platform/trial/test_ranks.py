"""Trials on text of two ranks: they train on the rows that one trains on."""

from dataclasses import replace
from pathlib import Path

import pytest

from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.results.status import Status
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.data import prepare
from recallfront.sweeps.trial import ResourceConfig, TrialConfig
from tests.platform.specs import tiny
from tests.platform.trial.ranks import run_with_ranks
from tests.sweeps.texts import documents


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning")
def test_two_ranks_train_on_the_text_that_one_trains_on(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(documents(400)) + "\n")
    task = {
        "name": "text",
        "source": {"files": str(tmp_path / "lines.txt"), "documents": "line"},
        "length": 32,
        "train": {"tokens": 20_000},
        "validation": [{"tokens": 600}],
        "test": [{"tokens": 600}],
    }
    # the task's own keys are not those of the tiny one
    tiny_one = tiny(
        space=[{"architecture": "window", "window_size": 4}],
        training={"steps": 12, "gradient_clipping": 0.0, "evaluate_every": 6},
        resources={"workers": 2},
    )
    spec = SweepSpec.model_validate(tiny_one | {"task": task})
    config = spec.trial(spec.blocks[0], {}, 0)
    path, digest = prepare(config.task, tmp_path / "data")
    place = Workplace(tmp_path, path, digest, code_version(), scratch="two")
    both = {(name, step): value for name, value, step in run_with_ranks(config, place, 2)}
    alone = _alone(config, replace(place, scratch="one"))
    halves = config.training.model_copy(update={"accumulation": 2})
    in_halves = _alone(config.model_copy(update={"training": halves}), replace(place, scratch="halves"))
    # what another order of the same sums does to this trial; ranks add up in yet another
    losses = [key for key in alone if key[0] in ("loss", "validation_loss")]
    noise = max(abs(alone[key] - in_halves[key]) for key in losses)
    tolerance = 10 * max(noise, 32 * 2.0**-23 * max(alone[key] for key in losses))
    assert tolerance < 0.01 < abs(alone["loss", 1] - alone["loss", 2]), "other rows would be seen"
    assert len(losses) == 12 + 2
    for key in losses:
        assert both[key] == pytest.approx(alone[key], abs=tolerance, rel=0), key


def _alone(config: TrialConfig, place: Workplace) -> dict[tuple[str, int], float]:
    reports = list(run_trial(config.model_copy(update={"resources": ResourceConfig()}), place))
    assert reports[-1].status is Status.FINISHED, reports[-1].traceback
    return {(name, step): value for report in reports for name, value, step, *_ in report.rows}
