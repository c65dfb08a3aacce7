"""A trial of several DeepSpeed ranks over gloo, without Ray: each rank is a process of its own."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps.trial import TrialConfig
from tests.platform.servers import free_port

Row = tuple[str, float, int]  # metric, value, step


def run_with_ranks(config: TrialConfig, place: Workplace, world: int) -> list[Row]:
    """The metrics that the first of `world` ranks reports; all have to finish."""
    told = place.home / f"{world}-ranks.json"
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    spawn(_rank, (world, config, place, told, environment), nprocs=world)
    return [(name, value, step) for name, value, step in json.loads(told.read_text())]


def _rank(
    rank: int, world: int, config: TrialConfig, place: Workplace, told: Path, environment: dict[str, Any]
) -> None:
    os.environ.update(environment | {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)})
    dist.init_process_group("gloo", rank=rank, world_size=world)
    reports = list(run_trial(config, replace(place, rank=rank, world=world, local_rank=rank)))
    if failure := reports[-1].failure:
        raise RuntimeError(failure)
    if rank == 0:
        rows = [(name, value, step) for report in reports for name, value, step, *_ in report.rows]
        told.write_text(json.dumps(rows))
    dist.destroy_process_group()
    # as Ray ends its workers: without the interpreter's own end, at which a library's thread may abort the process
    os._exit(0)
