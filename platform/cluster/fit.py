"""Whether a sweep's trials fit the cluster that they are to run on, and how many at once.

Ray is imported where it is first used, so that the command starts fast.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.cuda import device_count

from recallfront.platform.cluster.autoscaling import UNTOLD, is_autoscaled, is_judged, may_add_room_for
from recallfront.platform.errors import UsageError
from recallfront.sweeps.trial import ResourceConfig

_LOOK_SECONDS = 5.0  # between two looks at the nodes of a cluster that grows


def check_resources(resources: ResourceConfig) -> str | None:
    """Refuse trials that the joined cluster, or this machine if Ray is yet to be started, cannot hold.

    Returns:
        A sentence to print if no node holds one, and nobody knows whether one that does can be added; else None.

    Raises:
        UsageError: not one fits, nor would one fit nodes that may be added.
    """
    import ray

    if ray.is_initialized():
        nodes, where = _nodes()
        try:
            _refuse_misfit(resources, nodes, where)
        except UsageError as refusal:
            if may_add_room_for(resources):
                return None if is_judged() else f"{refusal}: trials wait, and {UNTOLD} that holds one"
            adds = ", and its autoscaler can add no node that holds one" if is_autoscaled() else ""
            raise UsageError(f"{refusal}{adds}") from None
        has = max(node.get("memory", 0.0) + node.get("object_store_memory", 0.0) for node in nodes)
    else:
        here = {"CPU": float(os.cpu_count() or 1)}
        if resources.gpus:
            here |= {"GPU": float(device_count()), **_other_accelerators()}
        where, has = "this machine", float(_machine_memory())
        _refuse_misfit(resources, [here], where)
    if resources.memory_gb is not None and resources.memory_gb * 2**30 > has:
        raise UsageError(f"resources: memory_gb={resources.memory_gb:g}: {where} has {has / 2**30:.1f} GiB")
    return None


class Room:
    """How many trials of a sweep run at once: what the connected cluster holds, at most `concurrent`.

    A cluster that an autoscaler looks after gets one more: the trial that waits is what it adds a node for.

    Raises:
        UsageError: it does not hold one, and does not grow.
    """

    def __init__(self, resources: ResourceConfig, concurrent: int | None) -> None:
        nodes, where = _nodes()
        self.grows = is_autoscaled()
        if not self.grows:
            _refuse_misfit(resources, nodes, where)
        self._resources, self._most = resources, concurrent or 10**6
        self._number, self._due_at = trials_that_fit(resources, nodes), time.monotonic() + _LOOK_SECONDS

    def trials(self) -> int:
        """The number now."""
        if self.grows and time.monotonic() >= self._due_at:
            self._due_at = time.monotonic() + _LOOK_SECONDS
            self._number = trials_that_fit(self._resources, _nodes()[0])
        return min(self._number + self.grows, self._most)


def trials_that_fit(resources: ResourceConfig, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many trials nodes hold at once, of what each has or has free."""
    return sum(_workers_that_fit(resources, nodes)) // resources.workers


def _nodes() -> tuple[list[dict[str, float]], str]:
    """What each node of the connected cluster has, and what to call the largest one."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return nodes, "the Ray cluster" if len(
        nodes
    ) == 1 else f"the largest of the Ray cluster's {len(nodes)} nodes"


def _other_accelerators() -> dict[str, float]:
    """This machine's accelerators besides GPUs, as a Ray that is started here would find them."""
    from ray._private.accelerators import get_all_accelerator_managers

    managers = {manager.get_resource_name(): manager for manager in get_all_accelerator_managers()}
    return {
        name: float(managers[name].get_current_node_num_accelerators()) for name in managers.keys() - {"GPU"}
    }


def _refuse_misfit(resources: ResourceConfig, nodes: Sequence[Mapping[str, float]], where: str) -> None:
    """Raise UsageError if nodes do not hold one trial, with what the largest has."""
    from ray._private.accelerators import get_all_accelerator_resource_names

    fits, asked, workers = _workers_that_fit(resources, nodes), _asked(resources), resources.workers
    if sum(fits) >= workers:
        return
    largest = max(nodes, key=lambda node: [node.get(name, 0.0) for name in reversed(asked)], default={})
    has = ", ".join(f"{largest.get(name, 0.0):g} {name}" for name in ("CPU", "GPU"))
    found = {name for node in nodes for name, amount in node.items() if amount}
    others = sorted(found & get_all_accelerator_resource_names() - {"GPU"})
    if asked.get("GPU") and others:
        has += f"; it has {' and '.join(others)} as well, which recallfront does not compute on"
    wants = ", ".join(f"{amount:g} {name}" for name, amount in asked.items())
    if workers == 1:
        raise UsageError(f"resources: a trial asks for {wants}; {where} has {has}")
    raise UsageError(
        f"resources: a trial asks for {workers} workers of {wants} each; {where} has {has}, and there is room for "
        f"{sum(fits)}"
    )


def _workers_that_fit(resources: ResourceConfig, nodes: Sequence[Mapping[str, float]]) -> list[int]:
    """How many workers each node holds: a worker is a process, its CPUs and GPUs are those of one node."""
    asked = _asked(resources)
    return [
        min(_times(name, node.get(name, 0.0), amount) for name, amount in asked.items()) for node in nodes
    ]


def _asked(resources: ResourceConfig) -> dict[str, float]:
    """What a worker asks for."""
    asked = {"CPU": float(resources.cpus), "GPU": float(resources.gpus)}
    return {name: amount for name, amount in asked.items() if amount}


def _times(name: str, has: float, amount: float) -> int:
    """How often a node has an amount: a fraction of a GPU is of one device."""
    if name != "GPU" or amount >= 1:
        return int(has / amount + 1e-9)
    return int(has) * int(1 / amount + 1e-9) + int((has - int(has)) / amount + 1e-9)


def _machine_memory() -> int:
    """Bytes of this machine, or of the container that it is."""
    import psutil

    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    total = int(psutil.virtual_memory().total)
    return min(total, int(text)) if text.isdecimal() else total
