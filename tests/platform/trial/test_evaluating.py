"""Evaluation shared between ranks finds, to the last bit, what one rank finds."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from recallfront.models import build
from recallfront.platform.trial.evaluating import evaluated
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps.data import load_or_rebuild, prepare
from tests.platform.specs import SEGMENT, tiny_spec


@pytest.mark.parametrize("world", [2, 3, 7])
@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("over", ["positions", "classes"])
def test_any_number_of_ranks_finds_the_same_bits(
    world: int, stage: int, over: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = {"input_seq_len": 20, "num_kv_pairs": 3, "examples": 11}
    spec = tiny_spec(
        task={"validation": [SEGMENT | {"examples": 30}, longer]},
        training={"evaluation_batch_size": 8, "zero_stage": stage, "recall_over": over},
    )
    config = spec.trial(spec.blocks[0], {}, 0)
    path, digest = prepare(config.task, tmp_path)
    data, _ = load_or_rebuild(config.task, path, digest)
    place = Workplace(tmp_path, path, digest, "c")
    model = build(config.model, seed=0)
    forwards: list[int] = []
    model.register_forward_hook(lambda *_: forwards.append(1))

    engine: Any = SimpleNamespace(module=model, eval=model.eval, train=model.train)

    def rank(number: int) -> dict[str, float]:
        forwards.clear()
        return evaluated(engine, config, data, "validation", replace(place, rank=number, world=world))

    alone = evaluated(engine, config, data, "validation", place)
    assert len(forwards) == 4 + 2, "batches of 8 rows"
    said: list[Any] = []

    # the ranks run one after the other here; tests/platform/workers/test_train_job.py has real ones
    def gathered(into: list[Any], own: Any) -> None:
        said.append(own)
        into[: len(said)] = said

    monkeypatch.setattr(dist, "all_gather_object", gathered)
    counts = []
    for number in range(world - 1):
        with suppress(KeyError):  # not all are there yet
            rank(number)
        counts.append(len(forwards))
    assert rank(world - 1) == alone
    counts.append(len(forwards))
    # under ZeRO-3 each forward takes all ranks
    assert sum(counts) == 6 or stage == 3
    assert max(counts) == -(-6 // world) and (stage != 3 or len(set(counts)) == 1)
    assert sum(map(len, said)) == 6
