"""The order of the tests, and a sweep as it could have been, with every kind of trial in it."""

import gc
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status

# Ray gives a part of itself 30 s to start, which a busy machine may not be done in
os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "120")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The platform's long tests first: of two processes one has them, with a Ray at a time, the other the rest.

    Those of several workers, the longest, lead: what comes last is short, and the process that is done takes some.
    """

    def is_late(item: pytest.Item) -> tuple[bool, bool]:
        parts = item.path.relative_to(item.config.rootpath).parts
        return "platform" not in parts, "workers" not in parts

    items.sort(key=is_late)


# what a trial sets in its process, which here is pytest's own
_OF_A_TRIAL = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "DS_ACCELERATOR", "OMP_NUM_THREADS")


@pytest.fixture(scope="module", autouse=True)
def process_as_it_was() -> Iterator[None]:
    """No module's trials decide how the next one's tests compute."""
    before = {name: os.environ.get(name) for name in _OF_A_TRIAL}
    torch = sys.modules.get("torch")  # not imported for those that need none
    threads = torch.get_num_threads() if torch else None
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    if torch:
        torch.set_num_threads(threads)


@pytest.fixture
def no_such_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names below `.invalid` are unknown at once: a machine without a name server waits for each."""
    ask = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ask(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture(scope="module")
def quick_collections() -> Iterator[None]:
    """Every measurement collects garbage: not through all of torch, Ray and MLflow, which takes half a second."""
    gc.freeze()
    yield
    gc.unfreeze()


SPEC = {
    "name": "quickstart",
    "objectives": [
        {"metric": "recall", "direction": "max", "reference": 0.0},
        {"metric": "decode_tokens_per_second", "direction": "max", "reference": 0.0},
    ],
    "seeds": [0, 1],
}
# architecture, knobs, validation recall, tokens/s, bytes of state: of the size of the real quickstart's
ROWS: list[tuple[str, dict[str, Any], float, float, int]] = [
    ("attention", {}, 0.992, 1450, 1_048_576),
    ("window", {"window_size": 8}, 0.431, 4350, 16_384),
    ("window", {"window_size": 16}, 0.752, 4160, 32_768),
    ("hawk", {}, 0.605, 6020, 3_072),
    ("griffin", {"window_size": 8}, 0.792, 5130, 19_456),
    ("griffin", {"window_size": 16}, 0.853, 4880, 35_840),
    ("based", {"window_size": 4, "feature_dim": 4}, 0.662, 3900, 21_504),
    ("based", {"window_size": 4, "feature_dim": 8}, 0.874, 3820, 66_560),
    ("based", {"window_size": 8, "feature_dim": 4}, 0.741, 3810, 29_696),
    ("based", {"window_size": 8, "feature_dim": 8}, 0.921, 3700, 74_752),
    ("grouped", {"group_size": 8}, 0.951, 2240, 57_344),
    ("grouped", {"group_size": 16}, 0.963, 2105, 57_344),
]


def make_trial(row: int, seed: int, status: Status, start: float) -> TrialRecord:
    architecture, knobs, recall, speed, state = ROWS[row]
    noise = np.random.default_rng([row, seed]).normal(size=2)
    recall = float(np.clip(recall + 0.008 * noise[0], 0, 1))
    metrics = {"state_bytes": float(state), "parameters": 50_000.0 + row}
    metrics |= {"decode_tokens_per_second": speed, "decode_tokens_per_second_spread": 0.02 * speed}
    if status is Status.FINISHED:
        metrics |= {"validation_recall": recall, "recall": recall - 0.004, "train_seconds": 11.0}
    return TrialRecord(
        run_id=f"{row:02d}{seed}".ljust(32, "a"),
        trial_key=f"{row:02d}{seed}".ljust(64, "b"),
        status=status,
        config={
            "model": {"architecture": architecture, "width": 64} | knobs,
            "training": {"steps": 300, "learning_rate": 3e-3},
            "resources": {"workers": 1, "cpus": 1.0, "gpus": 0.0},
            "seed": seed,
        },
        metrics=metrics,
        failure=FAILURES.get(status),
        start_time=start,
        end_time=None if status is Status.RUNNING else start + 15.0,
    )


FAILURES = {
    Status.DIVERGED: "loss is nan at step 120",
    Status.ERROR: "RuntimeError: <script>alert('no')</script> & more",
    Status.PRUNED: None,
}


@pytest.fixture(scope="session")
def make_record() -> Callable[..., SweepRecord]:
    """Builds a record: `finished` of its trials finished, then one of each `others`."""

    def make(finished: int = 2 * len(ROWS), others: tuple[Status, ...] = (), **fields: Any) -> SweepRecord:
        start = 1_790_000_000.0
        pairs = [(row, seed) for seed in (0, 1) for row in range(len(ROWS))]
        statuses = [Status.FINISHED] * finished + list(others)
        trials = tuple(
            make_trial(row, seed, status, start + 8.0 * order)
            for order, ((row, seed), status) in enumerate(zip(pairs, statuses, strict=False))
        )
        known: dict[str, Any] = {
            "run_id": "c0ffee".ljust(32, "0"),
            "sweep_key": "5eed".ljust(64, "0"),
            "name": "quickstart",
            "spec": SPEC,
            "trials": trials,
        }
        return SweepRecord(**known | fields)

    return make


@pytest.fixture
def record(make_record: Callable[..., SweepRecord]) -> SweepRecord:
    return make_record()
