"""How many trials fit: a worker is a process, and has its CPUs and GPUs on one node."""

import warnings
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private.accelerators import (
    HPUAcceleratorManager,
    NPUAcceleratorManager,
    TPUAcceleratorManager,
)
from ray.util.placement_group import placement_group

from recallfront.platform.cluster import autoscaling, fit
from recallfront.platform.cluster.autoscaling import may_add_room_for
from recallfront.platform.cluster.connection import set_environment
from recallfront.platform.cluster.fit import Room, _refuse_misfit, check_resources, trials_that_fit
from recallfront.platform.errors import UsageError
from recallfront.sweeps.trial import ResourceConfig

FOUR = [{"CPU": 4.0}] * 4


@pytest.mark.parametrize(
    ("asked", "nodes", "fits"),
    [
        ({"cpus": 4}, FOUR, 4),
        ({"cpus": 3}, FOUR, 4),
        ({"cpus": 1}, FOUR, 16),
        ({"cpus": 4, "workers": 2}, FOUR, 2),
        ({"cpus": 3, "workers": 3}, FOUR, 1),
        ({"cpus": 0.4}, [{"CPU": 2.0}], 5),
        ({"cpus": 1, "gpus": 0.25}, [{"CPU": 8.0, "GPU": 1.0}], 4),
        ({"cpus": 1, "gpus": 0.4}, [{"CPU": 8.0, "GPU": 2.0}], 4),
        ({"cpus": 2, "gpus": 1}, [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], 2),
    ],
)
def test_what_fits(asked: dict[str, Any], nodes: list[dict[str, float]], fits: int) -> None:
    _refuse_misfit(ResourceConfig(**asked), nodes, "here")
    assert trials_that_fit(ResourceConfig(**asked), nodes) == fits


@pytest.mark.parametrize(
    ("asked", "nodes", "has"),
    [
        ({"cpus": 8}, FOUR, "has 4 CPU"),
        ({"cpus": 3, "workers": 5}, FOUR, "there is room for 4"),
        ({"cpus": 1, "gpus": 1}, [{"CPU": 8.0}, {"CPU": 1.0, "GPU": 0.5}], "has 1 CPU, 0.5 GPU"),
        ({"cpus": 1}, [], "has 0 CPU"),
        (
            {"cpus": 1, "gpus": 1},
            [{"CPU": 8.0, "TPU": 4.0}],
            "has TPU as well, which recallfront does not",
        ),
    ],
)
def test_what_never_fits_is_refused_with_what_the_largest_node_has(
    asked: dict[str, Any], nodes: list[dict[str, float]], has: str
) -> None:
    with pytest.raises(UsageError, match=has):
        _refuse_misfit(ResourceConfig(**asked), nodes, "the largest node")


def test_accelerators_of_this_machine_are_named_before_ray_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for manager, number in (
        (TPUAcceleratorManager, 4),
        (HPUAcceleratorManager, 1),
        (NPUAcceleratorManager, 0),
    ):
        monkeypatch.setattr(manager, "get_current_node_num_accelerators", lambda number=number: number)
    with pytest.raises(
        UsageError, match="this machine has .* GPU; it has HPU and TPU as well, which recallfront"
    ):
        check_resources(ResourceConfig(cpus=1, gpus=4096))


@pytest.mark.parametrize("placement", ["PACK", "SPREAD"])
def test_the_autoscaler_is_asked_for_workers_that_are_placed_as_a_trial_s(
    monkeypatch: pytest.MonkeyPatch, placement: str
) -> None:
    asked: list[Any] = []
    group = SimpleNamespace(id=SimpleNamespace(hex=lambda: "ab"))

    def waiting(bundles: list[dict[str, float]], strategy: str) -> Any:
        asked.append((bundles, strategy))
        return group

    groups = import_module("ray.util.placement_group")  # of that name `ray.util` has a function
    monkeypatch.setattr(groups, "placement_group", waiting)
    monkeypatch.setattr(groups, "remove_placement_group", asked.append)
    monkeypatch.setattr(autoscaling, "is_judged", lambda: True)
    monkeypatch.setattr(autoscaling, "_answer", lambda name: name == "ab")
    assert may_add_room_for(ResourceConfig.model_validate({"workers": 3, "cpus": 2, "placement": placement}))
    assert asked == [([{"CPU": 2}] * 3, placement), group], "and what was asked with is taken back"


@pytest.mark.parametrize("judged", [True, False])
def test_what_no_node_holds_is_told_at_once_if_the_autoscaler_does_not_judge(
    monkeypatch: pytest.MonkeyPatch, judged: bool
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(fit, "_nodes", lambda: ([{"CPU": 2.0}], "the Ray cluster"))
    monkeypatch.setattr(fit, "may_add_room_for", lambda _: True)
    monkeypatch.setattr(fit, "is_judged", lambda: judged)
    unknown = (
        "resources: a trial asks for 3 CPU; the Ray cluster has 2 CPU, 0 GPU: trials wait, and version 1 of Ray's "
        "autoscaler does not tell whether it can add a node that holds one"
    )
    assert check_resources(ResourceConfig(cpus=3)) == (None if judged else unknown)
    assert check_resources(ResourceConfig(cpus=2)) is None


@pytest.mark.slow
def test_fractions_of_gpus_are_counted_as_ray_gives_them_away() -> None:
    """By Ray's own bookkeeping, which needs no GPU: of 0.4, two go on each of two, not five on both."""
    asked = ResourceConfig(cpus=1, gpus=0.4)
    set_environment()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(num_cpus=8, num_gpus=2, include_dashboard=False, log_to_driver=False)
    try:
        groups = [placement_group([{"CPU": asked.cpus, "GPU": asked.gpus}]) for _ in range(5)]
        at_once = Room(asked, None).trials()
        assert at_once == 4 and all(group.wait(30) for group in groups[:4]) and not groups[4].wait(1)
    finally:
        ray.shutdown()
