"""Two homes write into one study of one tracking server at once, while others read it."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest

from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import list_sweeps, read_sweep
from recallfront.platform.tracking.writer import TrackingWriter
from tests.platform.servers import MlflowServer
from tests.platform.tracking.conftest import NOW, WAIT

TRIALS, STEPS = 12, 40


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with MlflowServer(tmp_path / "server") as server:
        yield server.uri


def write(uri: str, home: Path) -> None:
    """A sweep with its trials, as the driver of a home tells it."""
    sweep = {"recallfront.kind": "sweep", "recallfront.sweep_key": home.name * 64}
    trial = {"recallfront.kind": "trial", "recallfront.status": "finished", "recallfront.config": "{}"}
    with closing(TrackingWriter(uri, home / "spool.db")) as writer:
        writer.open_run(home.name, experiment="study", name=home.name, tags=sweep)
        for number in range(TRIALS):
            key = f"{home.name}/{number}"
            tags = trial | {
                "recallfront.trial_key": f"{number:064x}",
                "recallfront.sweep_key": home.name * 64,
            }
            writer.open_run(key, experiment="study", name=key, parent_key=home.name, is_new=True, tags=tags)
            writer.metrics(key, [("loss", float(step), step, NOW + step) for step in range(STEPS)])
            writer.text(key, key, "config.json")
            writer.close_run(key, "FINISHED")
        assert writer.flush(5 * WAIT) and writer.rejected() == 0


@pytest.mark.slow
def test_two_homes_at_once_lose_and_double_nothing(server: str, tmp_path: Path) -> None:
    """The study's experiment was deleted before, so that both are to give its name to one new experiment."""
    client, done = open_client(server), Event()
    old = client.create_experiment("study")
    client.delete_experiment(old)

    def read() -> None:
        while not done.is_set():
            list_sweeps(server)

    with ThreadPoolExecutor() as pool:
        readers = [pool.submit(read) for _ in range(2)]
        writers = [pool.submit(write, server, tmp_path / home) for home in "ab"]
        try:
            for writer in writers:
                writer.result()
        finally:
            done.set()
        for reader in readers:
            reader.result()
    assert sorted(sweep.sweep_key[0] for sweep in list_sweeps(server)) == ["a", "b"]
    assert [found.name for found in client.search_experiments()].count("study") == 1
    for home in "ab":
        record = read_sweep(server, home * 64, spec={})
        assert Counter(int(trial.trial_key, 16) for trial in record.trials) == Counter(range(TRIALS))
        for trial in record.trials:
            points = client.get_metric_history(trial.run_id, "loss")
            assert sorted(point.step for point in points) == list(range(STEPS))
            assert [file.path for file in client.list_artifacts(trial.run_id)] == ["config.json"]
