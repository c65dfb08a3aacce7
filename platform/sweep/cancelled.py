"""The driver's side of `recallfront cancel`: a thread that looks for a request, and the end of what runs.

Ray is imported where it is first used, so that the command starts fast.
"""

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from recallfront.platform.errors import UsageError
from recallfront.platform.results.cancellation import CancelRequest
from recallfront.platform.results.records import TAG
from recallfront.platform.sweep.background import Companion
from recallfront.platform.sweep.conductor import Conductor
from recallfront.platform.tracking.ledger import reading

LOOK_SECONDS: Final = 2.0
# for a trial's process to reach its next step, save and end; then it is ended by force
LEAVE_SECONDS: Final = 8.0


class Cancelled(KeyboardInterrupt):
    """Another process has asked for the end of the sweep's run: as if Ctrl-C were pressed here."""


class Cancellation(Companion):
    """Looks, for as long as it is entered, whether somebody asks for the sweep's end, and tells the conductor."""

    def __init__(self, conductor: Conductor, tracking_uri: str) -> None:
        super().__init__("cancellation")
        self._conductor, self._uri = conductor, tracking_uri

    def _run(self) -> None:
        while not self._done.wait(LOOK_SECONDS):
            request = None
            # a store that is away has no request, and may have one later
            with (
                self._survives("the driver cannot see whether it is asked to end, and looks again"),
                suppress(UsageError),
            ):
                request = self._look()
            if request is not None:
                self._conductor.cancel(request)
                return

    def _look(self) -> CancelRequest | None:
        recorder = self._conductor.recorder
        run_id = recorder.sweep_run_id()
        if not run_id:
            return None
        with reading(self._uri) as client:
            tags = client.get_run(run_id).data.tags
        own = {name.removeprefix(TAG): value for name, value in tags.items() if name.startswith(TAG)}
        request = CancelRequest.read(own)
        return request if request is not None and request.driver == recorder.driver else None


@dataclass(frozen=True)
class Worker:
    """The process of a trial."""

    node: str  # Ray's id of it
    pid: int

    def tell_to_leave(self) -> None:
        """Send SIGTERM: the process checkpoints its trial and ends."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if self.node == ray.get_runtime_context().get_node_id():
            _terminate(self.pid)
            return
        there = NodeAffinitySchedulingStrategy(self.node, soft=False)
        ray.remote(num_cpus=0, max_retries=0)(_terminate).options(scheduling_strategy=there).remote(self.pid)


class Farewell:
    """Ends what runs of a sweep that is cancelled: gently, and after `LEAVE_SECONDS` by force."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self._deadline: float | None = None

    def step(self, workers: dict[str, Worker]) -> None:
        """To be called again and again while trials run, with the processes that have one to save.

        Raises:
            Cancelled: all have left, or the time for it is over.
        """
        request = self._conductor.cancellation
        if request is None:
            return
        if self._deadline is None:
            self._deadline = time.monotonic() + LEAVE_SECONDS
            for worker in workers.values():
                worker.tell_to_leave()
        if not workers or time.monotonic() > self._deadline:
            raise Cancelled(str(request))


def _terminate(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
