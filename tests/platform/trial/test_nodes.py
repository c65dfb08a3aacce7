"""Ranks on nodes without a common folder: rank 0's gets what all of them wrote, and lends it to the others."""

import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from recallfront.platform.home import check_folder
from recallfront.platform.results.status import Status
from recallfront.platform.trial import nodes
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.nodes import Nodes
from recallfront.platform.trial.workplace import Workplace
from tests.platform.specs import tiny_spec
from tests.platform.sweeps import trials_of, workplace

WORLD = 4  # two ranks on each of two nodes
CHUNK = 1000  # bytes at once
FILES = {f"part/{rank}": 700 * rank for rank in range(WORLD)}  # from an empty one to several chunks


def content(name: str) -> bytes:
    return random.Random(name).randbytes(FILES[name])


def join(file: Path, rank: int, world: int) -> None:
    """Make this process a rank of those that meet in a file."""
    store = dist.FileStore(str(file), world)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)


def rank_of_two_nodes(rank: int, folder: Path, homes: tuple[str, str]) -> None:
    """Ranks 0 and 1 are on the first node, 2 and 3 on the second."""
    nodes._CHUNK = CHUNK  # type: ignore[misc]
    join(folder / "store", rank, WORLD)
    home = folder / homes[rank // 2]
    place = Workplace(home=home, data=home, data_digest="d", code_version="c", rank=rank, world=WORLD)
    together = Nodes(place, home / "trial")
    kept = home / "trial" / "checkpoint"

    def write(new: Path) -> None:
        (new / "part").mkdir(exist_ok=True)
        (new / f"part/{rank}").write_bytes(content(f"part/{rank}"))

    for _ in range(2):  # the second takes the place of the first
        together.replace_folder(kept, write)
    if rank == 0:
        check_folder(kept)
    assert kept.exists() == (rank < 2 or homes[0] == homes[1])
    with together.lent(kept) as lent:
        assert (lent == kept) == kept.exists()
        for name in FILES:
            assert (lent / name).read_bytes() == content(name), (rank, name)
        check_folder(lent)
    dist.barrier()
    assert kept.exists() == (rank < 2 or homes[0] == homes[1])
    assert [path.name for path in (home / "trial").iterdir()] == (["checkpoint"] if kept.exists() else [])
    dist.destroy_process_group()


def together(rank: Callable[..., None], world: int, *arguments: Any) -> None:
    """Run so many ranks, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=rank, args=(number, *arguments)) for number in range(world)]
    deadline = time.monotonic() + 200
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        assert [process.exitcode for process in processes] == [0] * world
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("homes", [("a", "b"), ("a", "a")], ids=["apart", "shared"])
def test_a_checkpoint_of_all_ranks_is_on_the_node_of_the_first(
    tmp_path: Path, homes: tuple[str, str]
) -> None:
    together(rank_of_two_nodes, WORLD, tmp_path, homes)


def rank_of_a_trial(rank: int, folder: Path, stage: int, name: str, stops: bool) -> None:
    """One of two ranks with homes of their own; rank 0 writes down at which steps it reported, and its losses."""
    os.environ.update(RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE="2")
    join(folder / name, rank, 2)
    spec = tiny_spec(
        space=[{"architecture": "window", "window_size": 4, "training.zero_stage": stage}],
        resources={"workers": 2},
        training={"steps": 30, "gradient_clipping": 0.0},
    )
    (config,) = trials_of(spec)
    place = replace(workplace(spec, folder / f"home-{rank}"), rank=rank, world=2)
    reports = run_trial(config, place)
    steps, losses = [], []
    for report in reports:
        steps.append(report.step)
        losses += [(step, value) for metric, value, step, _ in report.rows if metric == "loss"]
        if stops and report.step == 20:
            reports.close()
    assert stops or report.status is Status.FINISHED, report.failure
    left = {path.name for path in place.folder(config).iterdir() if path.name != "lock"}
    assert left == (set() if rank else {"checkpoint"} if stops else {"model", "result.json"}), left
    if rank == 0:
        (folder / f"{name}.json").write_text(json.dumps([steps, losses]))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [3])
def test_ranks_with_homes_apart_go_on_from_the_checkpoint_of_the_first(tmp_path: Path, stage: int) -> None:
    found = {}
    for name, folder, stops in (("whole", "a", False), ("first", "b", True), ("second", "b", False)):
        (tmp_path / folder).mkdir(exist_ok=True)
        together(rank_of_a_trial, 2, tmp_path / folder, stage, name, stops)
        found[name] = json.loads((tmp_path / folder / f"{name}.json").read_text())
    (steps, whole), (_, first), (resumed, second) = found["whole"], found["first"], found["second"]
    assert steps == [0, 10, 20, 30] and [step for step, _ in whole] == list(range(1, 31))
    assert resumed == [0, 20, 30], "it trains from step 20 on, and reports first what was found before"
    assert second == whole and first == whole[:20]


def test_a_trial_of_one_rank_needs_no_group(tmp_path: Path) -> None:
    alone = Nodes(Workplace(home=tmp_path, data=tmp_path, data_digest="d", code_version="c"), tmp_path)
    alone.replace_folder(tmp_path / "checkpoint", lambda new: (new / "file").touch())
    with alone.lent(tmp_path / "checkpoint") as lent:
        check_folder(lent)
    assert alone.leads
