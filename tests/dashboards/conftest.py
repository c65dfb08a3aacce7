"""One server for all tests of the pages."""

import signal
from collections.abc import Callable, Iterator

import pytest

from recallfront.platform.results.records import SweepRecord
from tests.dashboards.served import EVIL, OTHERS, Served, write
from tests.platform.stores import ready_store


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory, make_record: Callable[..., SweepRecord]
) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    uri = ready_store(home)
    running = make_record(17, OTHERS, name="running-study", sweep_key="beef".ljust(64, "0"))
    for trial in running.trials[:2]:
        trial.config["model"]["window_size"] = EVIL
    sweeps = {
        "finished": write(make_record(), uri, "finished"),
        "running": write(running, uri, "running"),
        "new": write(make_record(0, name="new-study", spec={}), uri, "running"),
    }
    found = Served(home, sweeps)
    yield found
    assert found.stop(signal.SIGINT) == 0
