"""A cluster that grows: a trial waits for a node that can be added, and one that fits none is refused."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

from recallfront.platform.status import sweep_table
from recallfront.platform.sweep.cancel import cancel
from tests.platform.cluster.endless import Endless, endless
from tests.platform.cluster.late_nodes import SIGN, LateNodes
from tests.platform.clusters import Cluster
from tests.platform.sweeps import wait_for

# what Ray asks of every configuration, and needs for none of these nodes
_LISTS = (
    *("setup_commands", "head_setup_commands", "worker_setup_commands", "worker_start_ray_commands"),
    "cluster_synced_files",
)

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(params=["1", "2"])
def version(request: pytest.FixtureRequest) -> str:
    """Of Ray's autoscaler."""
    return str(request.param)


@pytest.fixture
def cluster(tmp_path: Path, version: str) -> Iterator[Cluster]:
    """A head that trials have no place on; one node of two CPUs can be added."""
    cluster = Cluster(nodes=1, head_cpus=0)
    config = cluster.folder / "autoscaling.yaml"
    node_types = {
        FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "large": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 1},
    }
    provider = {
        "type": "external",
        "module": f"{LateNodes.__module__}.{LateNodes.__name__}",
        "head_node_id": FAKE_HEAD_NODE_ID,
        "gcs_address": f"127.0.0.1:{cluster.port}",
        "launch_multiple": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "use_node_id_as_ip": True,  # version 1 tells nodes apart by their addresses
    }
    text = {
        "cluster_name": "grows",
        "max_workers": 1,
        "idle_timeout_minutes": 5,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "provider": provider,
        "available_node_types": node_types,
        **{name: [] for name in _LISTS},
        **{name: {} for name in ("auth", "file_mounts")},
    }
    config.write_text(yaml.safe_dump(text))
    cluster.head_arguments.append(f"--autoscaling-config={config}")
    cluster.environment |= {
        "RAY_enable_autoscaler_v2": str(int(version == "2")),
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE,
        "PYTHONPATH": str(Path(__file__).parents[3]),
        SIGN: str(tmp_path / "nodes may come"),
    }
    with cluster as started:
        yield started


def test_a_trial_waits_for_a_node_that_can_be_added_and_one_that_fits_none_is_refused(
    cluster: Cluster, version: str, tmp_path: Path
) -> None:
    too_large = Endless(endless(resources={"cpus": 3}), tmp_path / "too-large")
    if version == "2":
        is_refused(too_large, cluster)
    else:
        unknown = "version 1 of Ray's autoscaler does not tell whether it can add a node"
        with too_large.running(cluster):
            wait_for(
                lambda: too_large.trial() and unknown in too_large.log(), driver=too_large.driver, pause=0.5
            )
            told = (too_large.home / "driver.log").read_text().splitlines()
            assert any(line.endswith(f"{unknown} that holds one") for line in told), told
            cancel(too_large.key, home=too_large.home)

    sweep = Endless(endless(resources={"workers": 2}), tmp_path / "waits")
    waits = "1 trial waits for 2 CPU each, of which 0 are free; nodes are being added: 1 of type large"
    with sweep.running(cluster):
        wait_for(lambda: sweep.trial() and waits in sweep.log(), driver=sweep.driver, pause=0.5)
        wait_for(
            lambda: waits in str(sweep_table(sweep.key, home=sweep.home).caption),
            driver=sweep.driver,
            pause=0.5,
        )
        Path(cluster.environment[SIGN]).touch()
        sweep.trains_beyond(0)
        wait_for(
            lambda: "waits" not in str(sweep_table(sweep.key, home=sweep.home).caption),
            driver=sweep.driver,
            pause=0.5,
        )
        cancel(sweep.key, home=sweep.home)


def is_refused(sweep: Endless, cluster: Cluster) -> None:
    command = [sys.executable, "-m", "recallfront", "run", str(sweep.file), "--home", str(sweep.home)]
    command += ["--address", f"127.0.0.1:{cluster.port}"]
    refused = subprocess.run(command, env=cluster.environment, capture_output=True, text=True)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("recallfront: ")]
    assert line == (
        "recallfront: resources: a trial asks for 3 CPU; the Ray cluster has 0 CPU, 0 GPU, and its autoscaler can add "
        "no node that holds one"
    )
