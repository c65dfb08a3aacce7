"""What the autoscaler of the connected cluster may add: its own answers, through the head.

Ray has two. Version 2, which KubeRay uses, and other clusters with RAY_enable_autoscaler_v2=1, judges whether it can
add a node for a trial. Version 1 tells only what it is adding.
Ray is imported where it is first used, so that the command starts fast.
"""

import json
import re
import time
from collections import Counter
from typing import Any, Final

from recallfront.platform.errors import UsageError
from recallfront.sweeps.trial import ResourceConfig

UNTOLD: Final = "version 1 of Ray's autoscaler does not tell whether it can add a node"
_ANSWER_SECONDS: Final = 60.0  # it looks every 5 s, and may be starting nodes
_LOOK_SECONDS = 0.5
# what version 1 takes for the type of a node that it only watches: each node has its own
_WATCHED = re.compile(r"node_[0-9a-f]{56}")


def is_autoscaled() -> bool:
    """Whether an autoscaler looks after the connected cluster."""
    return is_judged() or bool(_told_by_version_1())


def is_judged() -> bool:
    """Whether version 2 does: it knows its nodes by the names of their types."""
    status = _status()
    nodes = status.cluster_resource_state.node_states
    has_reported = bool(status.autoscaling_state.autoscaler_state_version)
    return has_reported and any(node.ray_node_type_name for node in nodes)


def nodes_to_come() -> dict[str, int]:
    """How many nodes of which type are being added to the connected cluster."""
    state, told = _status().autoscaling_state, _told_by_version_1()
    found = Counter(
        {request.ray_node_type_name: request.count for request in state.pending_instance_requests}
    )
    found.update(instance.ray_node_type_name for instance in state.pending_instances)
    found.update(told.get("pending_launches", {}))
    found.update(node_type for _, node_type, _ in told.get("pending_nodes", []))
    return dict(found)


def may_add_room_for(resources: ResourceConfig) -> bool:
    """Whether nodes can be added to the connected cluster that hold a trial, or nobody knows before one waits for them.

    The autoscaler is asked as a trial asks: by a placement group that waits, and that is removed again.

    Raises:
        UsageError: it does not answer.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    if not is_judged():
        return bool(_told_by_version_1())
    worker = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    group = placement_group([worker] * resources.workers, strategy=resources.placement)
    try:
        return _answer(group.id.hex())
    finally:
        remove_placement_group(group)


def _answer(group: str) -> bool:
    """Whether a placement group that waits can be placed, or nodes are added for it, as the autoscaler judges."""
    seen = None  # a version of the cluster's state that has the group
    deadline = time.monotonic() + _ANSWER_SECONDS
    while time.monotonic() < deadline:
        status = _status()
        cluster, judged = status.cluster_resource_state, status.autoscaling_state
        if seen is None and any(group in one.details for one in cluster.pending_gang_resource_requests):
            seen = cluster.cluster_resource_state_version
        if seen is not None and judged.last_seen_cluster_resource_state_version >= seen:
            return not any(group in one.details for one in judged.infeasible_gang_resource_requests)
        time.sleep(_LOOK_SECONDS)
    raise UsageError(
        f"the Ray cluster's autoscaler has not answered in {_ANSWER_SECONDS:g} s: see `ray status`"
    )


def _status() -> Any:
    """A `GetClusterStatusReply`; its `autoscaling_state` has version 0 until an autoscaler has reported."""
    from ray._private.worker import global_worker
    from ray.core.generated import autoscaler_pb2

    reply = autoscaler_pb2.GetClusterStatusReply()  # type: ignore[attr-defined]  # protobuf makes it
    reply.ParseFromString(global_worker.gcs_client.get_cluster_status())  # type: ignore[attr-defined]
    return reply


def _told_by_version_1() -> dict[str, Any]:
    """What it has told last of the nodes that it adds and removes; empty if there are none."""
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray._private.worker import global_worker

    key = DEBUG_AUTOSCALING_STATUS.encode()
    told = global_worker.gcs_client.internal_kv_get(key, None)  # type: ignore[attr-defined]
    report: dict[str, Any] = json.loads(told or "{}").get("autoscaler_report", {})
    types = (report.get("node_type_mapping") or {}).values()
    return report if any(not _WATCHED.fullmatch(name) for name in types) else {}
