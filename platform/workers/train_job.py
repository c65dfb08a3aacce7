"""A trial of several workers: Ray Train's TorchTrainer, one DeepSpeed rank a worker, launched from the trial's actor.

The trainer's placement group goes with the trainer where that ends in order; where the trial's actor is killed, the
driver removes it (`release_placement_group`), as a group may outlive who made it: the first report names it.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from threading import Event
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray._raylet import PlacementGroupID
from ray.exceptions import RayActorError
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.constants import (
    ENABLE_CONTROLLER_STRUCTURED_LOGGING_ENV_VAR,
    ENABLE_PREEMPTION_WATCHER_ENV_VAR,
)
from ray.train.v2._internal.execution.callback import WorkerCallback
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

# What `ray.train` gives at run time; its stubs show the old ones.
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from recallfront.platform.errors import one_line
from recallfront.platform.plugins import receive
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status, TrialFailure
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.engine import environment
from recallfront.platform.trial.leaving import LEFT
from recallfront.platform.trial.watchdog import Watchdog
from recallfront.platform.trial.workplace import Workplace, read_workplace, workplace_json
from recallfront.platform.workers.mailbox import Mailbox
from recallfront.platform.workers.notices import drained_nodes, told_to_leave
from recallfront.sweeps.trial import TrialConfig

PLACEMENT_GROUP = "placement_group"  # key in the first report's details

_PATIENCE_SECONDS = 0.5  # for a report, until it is asked again whether the workers have ended
_LISTEN_SECONDS = 1.0
_STOP_SECONDS = 120.0  # for the workers to reach their next report and leave
_END_SECONDS = 60.0  # for the trainer to end after the last report
# The ranks learn of drained nodes themselves; and a controller's logging would take over that of the actor's process.
_PLAIN = {ENABLE_PREEMPTION_WATCHER_ENV_VAR: "0", ENABLE_CONTROLLER_STRUCTURED_LOGGING_ENV_VAR: "0"}
# They remove the placement group of a killed trainer, which the driver does here; and share out data of Ray Data.
_NEEDLESS = frozenset({"PlacementGroupCleanerCallback", "DatasetsCallback"})
# What a rank says that only lost its peer: the peer's own death or failure is the cause.
_PEER_IS_GONE = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")


class WorkersLost(TrialFailure):
    """A trial's workers died, or never came up: the trial is to be run again from its checkpoint."""

    status = Status.LOST


def run_distributed_trial(
    config: TrialConfig, place: Workplace, leave: Event | None = None
) -> Generator[Report, None, None]:
    """The reports of a trial that Ray Train runs; closing the generator stops its workers at their next report.

    Once `leave` is set, or any worker has a notice of its own, they leave together: they save the trial, and its last
    report is lost.
    The last report comes when the workers have left and what they held is free.

    Raises:
        WorkersLost: a worker died, or the workers did not come up.
    """
    mailbox: Any = ray.remote(num_cpus=0)(Mailbox).remote()
    run = _TrainRun(config, place, mailbox)
    ends: list[Report] = []
    try:
        give_up = float("inf")
        running = True
        while running and time.monotonic() < give_up:
            if leave is not None and leave.is_set():
                mailbox.leave.remote()
            running = run.is_alive()  # asked before the mailbox is emptied: nothing can be posted after that
            taken = ray.get(mailbox.take.remote(_PATIENCE_SECONDS if running else 0.0))
            for report in (Report.from_json(json.loads(text)) for text in taken):
                if PLACEMENT_GROUP in report.details:
                    run.placed(report.details[PLACEMENT_GROUP])
                if report.status is Status.RUNNING:
                    yield report
                else:
                    ends.append(report)
                    give_up = time.monotonic() + _END_SECONDS
    finally:
        with contextlib.suppress(RayActorError):  # its node is gone
            ray.get(mailbox.stop.remote())
        run.join(timeout=_STOP_SECONDS)
        release_placement_group(run.placement_group)
        ray.kill(mailbox)
    yield _verdict(ends, run)


def release_placement_group(hexadecimal: str | None) -> None:
    """Remove a trainer's placement group if it is still there."""
    if hexadecimal is not None:
        remove_placement_group(_group(hexadecimal))


def _group(hexadecimal: str) -> PlacementGroup:
    return PlacementGroup(PlacementGroupID(bytes.fromhex(hexadecimal)))


class _Trainer(TorchTrainer):
    """With ranks that heed notices, and without the processes of Ray's that it can do without.

    Each of them imports Ray Train, some seconds of the cores that the ranks wait for.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]  # stubs of the old one
        return [one for one in callbacks if type(one).__name__ not in _NEEDLESS] + [_Heed()]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        parts["scaling_policy"] = _Fixed(self.scaling_config)  # type: ignore[arg-type]  # stubs of the old one
        if ray.get_runtime_context().get_actor_id() is None:
            return super()._initialize_and_run_controller(**parts)  # type: ignore[misc]
        with environment(**_PLAIN):
            controller = TrainController(**parts)  # in the trial's actor, which has imported all
        asyncio.run(controller.run())
        return controller.get_result()


class _Fixed(FixedScalingPolicy):
    """Asks no coordinator of autoscaling: it would stay on its node after the sweep, as if that were in use.

    An autoscaler sees the placement group that waits.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nothing is asked for."""

    def _maybe_send_resource_request(self) -> None:
        """Nor again."""


class _Heed(WorkerCallback):
    """Called in a rank's main thread, which alone takes signals; the trial runs in another one."""

    def after_init_train_context(self) -> None:
        told_to_leave()


class _TrainRun(threading.Thread):
    """`TorchTrainer.fit` in a thread of the trial's actor."""

    def __init__(self, config: TrialConfig, place: Workplace, mailbox: Any) -> None:
        super().__init__(name="train-run", daemon=True)
        self.error: Exception | None = None
        self.placement_group: str | None = None
        self._nodes: set[str] = set()  # Ray's ids of those that the ranks are on
        resources = config.resources
        per_worker = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
        self._trainer = _Trainer(
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
                placement_strategy=resources.placement,
            ),
            run_config=RunConfig(
                name=f"train-{config.key[:16]}",
                storage_path=str(place.home / "train"),
                # A starved worker group is otherwise retried for ever; lost trials, and those that move, are the
                # sweep's to begin again.
                failure_config=FailureConfig(
                    max_failures=0, max_preemption_failures=0, controller_failure_limit=3
                ),
            ),
        )
        self.start()

    def placed(self, placement_group: str) -> None:
        """The ranks are up, in this placement group."""
        self.placement_group = placement_group
        self._nodes = set(placement_group_table(_group(placement_group))["bundles_to_node_id"].values())

    @property
    def lost_a_worker(self) -> bool:
        """Whether a worker died, as against raised."""
        failures = self.error.worker_failures if isinstance(self.error, WorkerGroupError) else {}
        return any("HealthCheck" in type(failure).__name__ for failure in failures.values())

    @property
    def lost_a_node(self) -> bool:
        """Whether a worker died with a node that was being drained: Train may have heard of its peers only."""
        failures = self.error.worker_failures if isinstance(self.error, WorkerGroupError) else {}
        causes = (getattr(failure, "health_check_failure", None) for failure in failures.values())
        preempted = any(isinstance(cause, RayActorError) and cause.preempted for cause in causes)
        return preempted or not self._nodes.isdisjoint(drained_nodes())

    def run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # judged when the reports are known
            self.error = error


def _verdict(ends: list[Report], run: _TrainRun) -> Report:
    """How the trial ended, of what its ranks said last: the first that has a reason of its own."""
    for report in ends:
        if report.status is not Status.ERROR or not (run.lost_a_worker or _blames_a_peer(report)):
            return report
    reason = one_line(run.error or "they left without a last report")
    if run.lost_a_node:
        return Report(step=0, status=Status.LOST, failure=f"its node is gone: {reason}", details={LEFT: True})
    raise WorkersLost(f"its workers were lost: {reason}")


def _blames_a_peer(report: Report) -> bool:
    return any(sign in (report.failure or "").lower() for sign in _PEER_IS_GONE)


def _worker(loop: dict[str, Any]) -> None:
    """One rank of the trial: rank 0 posts its reports, every rank its failure; all stop together when asked to."""
    context = ray.train.get_context()
    place = read_workplace(loop["place"])
    receive(place.plugins, place.home)
    config = TrialConfig.model_validate(loop["trial"])
    place = replace(
        place,
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        local_rank=context.get_local_rank(),
    )
    if place.device.startswith("cuda"):
        place = replace(place, device=str(ray.train.torch.get_device()))
        torch.cuda.set_device(place.device)  # objects that ranks tell each other go through it
    post = loop["mailbox"].post.remote
    reports = run_trial(config, place, told_to_leave())
    if place.rank == 0:
        _Listener(loop["mailbox"]).start()
        group = ray.util.get_current_placement_group()
        details = {PLACEMENT_GROUP: group.id.hex()} if group else {}
        ray.get(post(json.dumps(Report(step=0, details=details).to_json())))
        reports = Watchdog(config, place).guard(reports)
    for report in reports:
        stop = False
        if place.rank == 0 or report.status.is_failure:
            stop = ray.get(post(json.dumps(report.to_json())))
        if report.status.is_failure:
            raise RuntimeError(report.failure)  # the other ranks may wait in a collective: ends the group
        if report.status is Status.RUNNING and _agree(stop, place, dist.get_backend()):
            reports.close()
            return


class _Listener(threading.Thread):
    """Tells this rank to leave once the trial's actor does."""

    def __init__(self, mailbox: Any) -> None:
        super().__init__(name="listener", daemon=True)
        self._mailbox = mailbox

    def run(self) -> None:
        with contextlib.suppress(RayActorError):  # the trial is over
            while not ray.get(self._mailbox.must_leave.remote()):
                time.sleep(_LISTEN_SECONDS)
            told_to_leave().set()


def _agree(stop: bool, place: Workplace, backend: str) -> bool:
    """What rank 0 says, on every rank."""
    flag = torch.tensor([float(stop)], device=place.device if backend == "nccl" else "cpu")
    dist.broadcast(flag, src=0)
    return bool(flag.item())
