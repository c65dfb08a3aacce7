"""Notices: a trial whose process is told to leave, or whose node is drained, is saved and goes on elsewhere."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from recallfront.platform.sweep.cancel import cancel
from tests.platform.cluster.endless import ACTOR, RANK, Endless, endless, processes
from tests.platform.clusters import Cluster
from tests.platform.sweeps import steps_in, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that trials have no place on, and nodes of one CPU each; each trial loses one of them."""
    with Cluster(nodes=6, head_cpus=0) as started:
        yield started


@pytest.mark.parametrize("workers", [2, 1])
def test_a_notice_to_a_process_and_one_to_a_node_move_a_trial_and_cost_no_retry(
    cluster: Cluster, workers: int, tmp_path: Path
) -> None:
    """With no retries at all: a crash would be the trial's end. It is saved only because it was told to leave."""
    name = RANK if workers > 1 else ACTOR
    sweep = Endless(endless(resources={"workers": workers}, retries=0), tmp_path)
    with sweep.running(cluster):
        sweep.trains_beyond(0)
        # between two of its methods Ray may name one otherwise
        wait_for(lambda: len(processes(cluster, name)) == workers, pause=0.1)
        processes(cluster, name)[-1][1].terminate()
        sweep.becomes("moves", "1")
        saved = max(sweep.steps())
        sweep.trains_beyond(saved)

        number, process = processes(cluster, name)[-1]
        cluster.nodes[number].give_notice()
        sweep.becomes("moves", "2")
        sweep.trains_beyond(max(sweep.steps()))
        wait_for(lambda: not process.is_running(), pause=0.1)
        assert number not in {found for found, _ in processes(cluster, name)}
        cancel("endless", home=tmp_path)
    assert_every_step_is_there_once(sweep)
    # MLflow has a repeated step once; the log shows that none is trained again
    evaluated = steps_in(sweep.log())
    assert evaluated == sorted(evaluated)


def test_a_trial_whose_drained_node_is_gone_before_it_is_saved_goes_on_and_costs_no_retry(
    cluster: Cluster, tmp_path: Path
) -> None:
    """A rank that is stopped cannot leave; its peer sees no more than a connection that is closed."""
    spec = endless(resources={"workers": 2}, retries=0)
    spec["training"]["checkpoint_seconds"] = 0.1
    every = spec["training"]["evaluate_every"]
    sweep = Endless(spec, tmp_path)
    with sweep.running(cluster):
        sweep.trains_beyond(2 * every)  # so that a checkpoint of a later evaluation than the first is there
        number, rank = processes(cluster, RANK)[-1]
        rank.suspend()
        cluster.drain(cluster.nodes[number])
        cluster.nodes[number].kill()
        sweep.becomes("moves", "1")
        sweep.trains_beyond(max(sweep.steps()))
        cancel("endless", home=tmp_path)
    assert_every_step_is_there_once(sweep)
    assert steps_in(sweep.log()).count(every) == 1, "it does not begin again"


def assert_every_step_is_there_once(sweep: Endless) -> None:
    steps = sweep.steps()
    assert steps == list(range(1, len(steps) + 1)), "no step is missing or doubled"
    assert not sweep.tag("attempts")
