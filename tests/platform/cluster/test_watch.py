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
@pytest.mark.parametrize("victim", ["raylet", "driver"])
def test_no_process_stays_when_ray_or_its_driver_is_killed(victim: str) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert driver.stdout is not None and driver.stdout.readline() == "up\n"
        family = psutil.Process(driver.pid).children(recursive=True)
        (raylet,) = [process for process in family if process.name() == "raylet"]
        (raylet if victim == "raylet" else driver).kill()
        _, errors = driver.communicate(timeout=30)
    finally:
        driver.kill()
    if victim == "raylet":
        assert "RayLost: Ray on this machine was killed" in errors.splitlines()[-1]
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
