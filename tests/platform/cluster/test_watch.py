"""A Ray that was started here: it ends with its driver, and its driver with it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from recallfront.platform.cluster import reaper
from tests.platform.sweeps import times_slower

# of a driver that has lost its Ray; of processes whose driver has ended
_ENDS_SECONDS, _GONE_SECONDS = 30, 10
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
@pytest.mark.alone
@pytest.mark.parametrize("victim", ["raylet", "gcs_server", "driver"])
def test_no_process_stays_when_ray_or_its_driver_is_killed(victim: str) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert driver.stdout is not None and driver.stdout.readline() == "up\n"
        family = psutil.Process(driver.pid).children(recursive=True)
        parts = {process.name(): process for process in family}
        (driver if victim == "driver" else parts[victim]).kill()
        _, errors = driver.communicate(timeout=_ENDS_SECONDS * times_slower())
    finally:
        driver.kill()
    if victim != "driver":
        # as the driver's last exception, or, of one that takes long to end, as its last words
        assert "Ray on this machine was killed" in errors.splitlines()[-1]
    _, alive = psutil.wait_procs(family, timeout=_GONE_SECONDS * times_slower())
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


# a part of Ray that starts another process when it is told to
_PART = """
import subprocess, sys
sys.stdin.readline()
print(subprocess.Popen(["sleep", "1000"]).pid, flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_a_process_that_ray_started_late_ends_though_its_parent_is_dead(tmp_path: Path) -> None:
    command = [sys.executable, "-P", reaper.__file__, str(os.getpid()), str(tmp_path)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE) as watch,
        subprocess.Popen(
            [sys.executable, "-c", _PART, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as part,
    ):
        try:
            assert watch.stdin and part.stdin and part.stdout
            watch.stdin.write(b"\n")  # Ray is up
            watch.stdin.flush()
            time.sleep(2.0)
            print(file=part.stdin, flush=True)
            late = psutil.Process(int(part.stdout.readline()))
            time.sleep(2 * reaper._LATER_SECONDS)
            assert late.is_running()
        finally:
            part.kill()
        part.wait()
        watch.stdin.close()  # the driver is gone
        _, alive = psutil.wait_procs([late], timeout=_GONE_SECONDS * times_slower())
        for process in alive:
            process.kill()
        assert not alive


@pytest.mark.slow
def test_a_worker_that_was_just_started_ends_and_what_is_not_of_its_session_stays(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(1000)"]
    session = "--session-name=session_{}_{}"
    with ExitStack() as stack:

        def start(*more: str) -> "subprocess.Popen[bytes]":
            process = stack.enter_context(subprocess.Popen([*sleep, *more], stdin=subprocess.PIPE))
            stack.callback(process.kill)
            return process

        driver = start()
        command = [sys.executable, "-P", reaper.__file__, str(driver.pid), str(tmp_path)]
        watch = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE))
        assert watch.stdin
        watch.stdin.write(b"\n")  # Ray is up
        watch.stdin.flush()
        time.sleep(2.0)
        began = time.time()
        now, before = reaper._moment(began), reaper._moment(began - 7200.0)
        worker = start(str(tmp_path), session.format(now, driver.pid))
        other = start(str(tmp_path), session.format(now, f"{driver.pid}0"))
        bystanders = {
            "of another driver, whose process id begins with the same digits": other,
            "of a cluster that was started by a command with the same process id": start(
                str(tmp_path), session.format(before, driver.pid)
            ),
            "no part of Ray, but of who follows a log": start(session.format(now, driver.pid)),
        }
        driver.kill()
        watch.stdin.close()
        assert watch.wait(_GONE_SECONDS * times_slower()) == 0
        assert worker.wait(_GONE_SECONDS * times_slower()) == -signal.SIGKILL
        assert not [name for name, process in bystanders.items() if process.poll() is not None]
        # a driver that began before the session, and one that began after it
        found = [
            list(reaper._of_session(int(f"{driver.pid}0"), began + later, str(tmp_path)))
            for later in (-0.01, 0.01)
        ]
        assert found == [[psutil.Process(other.pid)], []]


def test_a_process_that_may_not_be_killed_does_not_keep_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of another user, which no test can start."""

    def refuse(*_: Any) -> None:
        raise psutil.AccessDenied

    sleep = [sys.executable, "-c", "import time; time.sleep(1000)"]
    with subprocess.Popen(sleep) as one, subprocess.Popen(sleep) as two:
        try:
            first, second = psutil.Process(one.pid), psutil.Process(two.pid)
            monkeypatch.setattr(first, "kill", refuse)
            reaper._kill([first, second])
            assert two.wait(_GONE_SECONDS * times_slower()) == -signal.SIGKILL and one.poll() is None
        finally:
            one.kill()
            two.kill()
