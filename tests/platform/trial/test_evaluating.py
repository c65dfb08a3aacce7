"""Evaluation: shared between ranks it finds, to the last bit, what one rank finds; long rows take no more memory."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from recallfront.models import build
from recallfront.platform.trial.evaluating import evaluated
from recallfront.platform.trial.largest_batch import peak_bytes
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.data import load_or_rebuild, prepare
from tests.platform.specs import SEGMENT, tiny, tiny_spec


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


@pytest.mark.parametrize("text", [True, False], ids=["positions restart", "ZeRO-3"])
def test_of_long_rows_that_are_read_whole_fewer_are_read_at_once(
    text: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("\n".join(f"{n} is the square of {n * n}, " * 40 for n in range(40)))
    rows = [{"length": 64, "tokens": 600}, {"length": 512, "stride": 64, "tokens": 600}]
    task = {
        "name": "text",
        "source": {"files": str(tmp_path / "text.txt"), "documents": "line"},
        "length": 64,
        "held_out": 0.2,
        "validation": rows,
        "restart_positions": text,
    }
    training = {"evaluation_batch_size": 8, "zero_stage": 1 if text else 3}
    spec = SweepSpec.model_validate(
        tiny(space=[{"architecture": "hawk"}], training=training) | {"task": task}
    )
    config = spec.trial(spec.blocks[0], {}, 0)
    path, digest = prepare(config.task, tmp_path / "data")
    data, _ = load_or_rebuild(config.task, path, digest)
    model = build(config.model, seed=0)
    shapes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    engine: Any = SimpleNamespace(module=model, eval=model.eval, train=model.train)

    def found() -> dict[str, float]:
        shapes.clear()
        return evaluated(engine, config, data, "validation", Workplace(tmp_path, path, digest, "c"))

    together = found()
    assert shapes == [(8, 64), (2, 64), (8, 512), (2, 512)]
    monkeypatch.setattr("recallfront.platform.trial.evaluating.PIECE", 128)
    assert found() == pytest.approx(together, rel=1e-6)
    assert shapes == [(8, 64), (2, 64), *[(2, 512)] * 5], "as many tokens as of rows of a piece"
    monkeypatch.setattr("recallfront.platform.trial.evaluating.PIECE", 16)
    found()
    assert set(shapes) == {(2, 64), (1, 512)}, "one row at least"


@pytest.mark.parametrize(
    "model",
    [{"architecture": "hawk"}, {"architecture": "griffin", "window_size": 16}, {"architecture": "based"}],
    ids=lambda model: str(model["architecture"]),
)
def test_evaluating_rows_of_any_length_takes_the_same_memory(model: dict[str, Any], tmp_path: Path) -> None:
    lengths = [64, 1024, 4096, 16_384]
    task = {
        "name": "induction_heads",
        "vocab_size": 16,
        "train": [{"length": 64, "examples": 16}],
        "validation": [{"length": 64, "examples": 2}],
        "test": [{"length": length, "examples": 2} for length in lengths],
    }
    spec = SweepSpec.model_validate(tiny(space=[model]) | {"task": task})
    config = spec.trial(spec.blocks[0], {}, 0)
    path, digest = prepare(config.task, tmp_path)
    data, _ = load_or_rebuild(config.task, path, digest)
    place = Workplace(tmp_path, path, digest, "c")
    built = build(config.model, seed=0)
    engine: Any = SimpleNamespace(module=built, eval=built.eval, train=built.train)

    def peak(length: int) -> int:
        (rows,) = [segment for segment in data.splits["test"] if segment.inputs[:1].shape[1] == length]
        own = replace(data, splits={"test": [rows]})
        found = peak_bytes(lambda: evaluated(engine, config, own, "test", place), torch.device("cpu"))
        # what says which places are labelled grows with the rows: two rows of at most 12 bytes a token
        return (found or 0) - 2 * 12 * length

    # the process keeps one table of rotary angles, as long as the longest row, whatever is evaluated
    peak(lengths[-1])
    peaks = {length: peak(length) for length in lengths}
    assert peaks[64] < peaks[1024], "longer than a piece alone is read in pieces"
    assert peaks[16_384] <= 1.05 * peaks[4096], peaks
