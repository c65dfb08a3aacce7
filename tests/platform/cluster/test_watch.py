"""A Ray that was started here: it ends with its driver, and its driver with it."""

import subprocess
import sys

import psutil
import pytest

# the main thread waits within Ray, as it does within Tune
_DRIVER = """
import time, ray
from recallfront.platform.cluster.connection import ray_cluster
with ray_cluster(None):
    task = ray.remote(lambda: time.sleep(1000)).remote()
    print("up", flush=True)
    ray.get(task)
"""


@pytest.mark.slow
def test_a_driver_whose_ray_is_killed_ends_in_one_sentence_and_leaves_no_process() -> None:
    """A driver that is killed itself is for `make attack`: agents of its Ray that have just started may outlive it."""
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert driver.stdout is not None and driver.stdout.readline() == "up\n"
        family = psutil.Process(driver.pid).children(recursive=True)
        (raylet,) = [process for process in family if process.name() == "raylet"]
        raylet.kill()
        _, errors = driver.communicate(timeout=30)
    finally:
        driver.kill()
    assert "RayLost: Ray on this machine was killed" in errors.splitlines()[-1]
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
