"""A trial of several workers: Ray Train's TorchTrainer, one DeepSpeed rank a worker, launched from the trial's actor.

The trainer's placement group belongs to the job, not to the trial's actor: it is removed here, or by the driver where
the actor is killed (`release_placement_group`).
"""

import threading
from collections import deque
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.config import (
    FailureConfig,  # what `ray.train` gives at run time; its stubs show the old one
)

from recallfront.platform.records import Status
from recallfront.platform.reports import Report, Workplace
from recallfront.sweeps.trial import TrialConfig

_POLL_SECONDS = 0.05
_STOP_SECONDS = 120.0  # for the workers to reach their next report and leave
PLACEMENT_GROUP = "placement_group"  # key in a report's details


@ray.remote(num_cpus=0)
class Mailbox:
    """Between rank 0 and the trial's actor: reports one way, the wish to stop the other."""

    def __init__(self) -> None:
        self._reports: deque[dict[str, Any]] = deque()
        self._stopped = False

    def post(self, report: dict[str, Any]) -> bool:
        """Leave a report; returns whether the trial shall stop."""
        self._reports.append(report)
        return self._stopped

    def take(self) -> list[dict[str, Any]]:
        taken = list(self._reports)
        self._reports.clear()
        return taken

    def stop(self) -> None:
        self._stopped = True


def run_distributed_trial(config: TrialConfig, place: Workplace) -> Generator[Report, None, None]:
    """The reports of a trial that Ray Train runs; closing the generator stops its workers at their next report."""
    mailbox = Mailbox.remote()  # type: ignore[attr-defined]
    run = _TrainRun(config, place, mailbox)
    try:
        ended = False
        while not ended:
            running = run.is_alive()  # asked before the mailbox is emptied: nothing can be posted after that
            for raw in ray.get(mailbox.take.remote()):
                report = Report.from_json(raw)
                run.placement_group = report.details.get(PLACEMENT_GROUP, run.placement_group)
                ended = report.status is not Status.RUNNING
                yield report
            if not running and not ended:
                ended = True
                yield Report(step=0, status=Status.LOST, failure=f"its workers were lost: {run.error}")
            run.join(timeout=_POLL_SECONDS)
    finally:
        ray.get(mailbox.stop.remote())
        run.join(timeout=_STOP_SECONDS)
        release_placement_group(run.placement_group)
        ray.kill(mailbox)


def release_placement_group(hexadecimal: str | None) -> None:
    """Remove a trainer's placement group if it is still there."""
    if hexadecimal is None:
        return
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(hexadecimal))))


class _TrainRun(threading.Thread):
    """`TorchTrainer.fit` in a thread of the trial's actor."""

    def __init__(self, config: TrialConfig, place: Workplace, mailbox: Any) -> None:
        super().__init__(name="train-run", daemon=True)
        self.error: str | None = None
        self.placement_group: str | None = None
        resources = config.resources
        per_worker = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
        from recallfront.platform.actor import workplace_json

        self._trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "trial": config.model_dump(mode="json"),
                "place": workplace_json(place),
                "mailbox": mailbox,
            },
            scaling_config=ScalingConfig(
                num_workers=resources.workers,
                use_gpu=resources.gpus > 0,
                resources_per_worker=per_worker,
            ),
            run_config=RunConfig(
                name=f"train-{config.key[:16]}",
                storage_path=str(place.home / "train"),
                # A starved worker group is otherwise retried for ever; lost trials are the sweep's to retry.
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=3),
            ),
        )
        self.start()

    def run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # reaches the ledger as the failure of the trial
            self.error = " ".join(str(error).split())[:500]


def _worker(loop: dict[str, Any]) -> None:
    """One rank: runs the trial's body; rank 0 posts its reports, and all ranks stop together when asked to."""
    import torch
    import torch.distributed as dist

    from recallfront.platform.actor import read_workplace
    from recallfront.platform.trial import run_trial

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    place = replace(
        read_workplace(loop["place"]), rank=rank, world=world, local_rank=context.get_local_rank()
    )
    if place.device.startswith("cuda"):
        place = replace(place, device=str(ray.train.torch.get_device()))
    reports = run_trial(TrialConfig.model_validate(loop["trial"]), place)
    for report in reports:
        stop = torch.zeros(1)
        if rank == 0:
            group = ray.util.get_current_placement_group()
            report.details[PLACEMENT_GROUP] = group.id.hex() if group else None
            stop[0] = ray.get(loop["mailbox"].post.remote(report.to_json()))
        if report.status.is_failure:
            raise RuntimeError(report.failure)  # the other ranks may wait in a collective: ends the group
        if report.status is Status.RUNNING:
            device = place.device if dist.get_backend() == "nccl" else "cpu"
            stop = stop.to(device)
            dist.broadcast(stop, src=0)
            if stop.item():
                reports.close()
                return
