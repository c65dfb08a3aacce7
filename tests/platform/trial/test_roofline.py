"""The least time of a workload by what the device can do at best."""

from pathlib import Path

import pytest
import torch

from recallfront.models import parse_config
from recallfront.platform.trial import roofline
from recallfront.platform.trial.roofline import (
    Cost,
    Roofs,
    measured_roofs,
    prefill_cost,
    step_cost,
    train_cost,
)

CPU = torch.device("cpu")


def test_the_share_is_the_least_time_over_the_time_taken() -> None:
    roofs = Roofs(bytes_per_second=100.0, flops_per_second=1000.0)
    assert roofs.share(Cost(bytes=50, flops=100), seconds=2.0) == pytest.approx(0.25), "bytes need 0.5 s"
    assert roofs.share(Cost(bytes=5, flops=100), seconds=2.0) == pytest.approx(0.05), "operations need 0.1 s"


def test_costs_by_hand() -> None:
    model = parse_config({"architecture": "attention", "pattern": "A", "vocab_size": 10, "width": 4})
    # the embedding is also the last matrix
    matrices, norms = 16 * 4 + 10 * 4, 2 * 4
    assert model.parameter_count() == matrices + norms
    apart = parse_config(model.model_dump() | {"tied_embeddings": False})
    sizes = {"rows": 1, "context": 5, "state_bytes": 0, "number_bytes": 4}
    assert step_cost(apart, **sizes) == step_cost(model, **sizes), "the embedding is then a table"
    step = step_cost(model, rows=3, context=5, state_bytes=160, number_bytes=4)
    assert step.bytes == 4 * (matrices + norms) + 3 * 160
    # a token meets every matrix, and 6 keys and values of width 4
    assert step.flops == 3 * (2 * matrices + 4 * 4 * 6)
    prefill = prefill_cost(model, rows=3, context=5, state_bytes=160, number_bytes=4)
    assert prefill.flops == 3 * (5 * 2 * 64 + 4 * 4 * 15 + 2 * 40), "one token's logits"
    assert train_cost(model, rows=3, length=5, number_bytes=4).flops == 9 * model.forward_flops(5)


def test_roofs_are_measured_once_a_home_and_again_if_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(roofline._COPIED, "cpu", 1 << 16)
    monkeypatch.setitem(roofline._MATRIX, "cpu", 64)
    first = measured_roofs(tmp_path, CPU, "kind", torch.float32)
    assert first.bytes_per_second > 0 and first.flops_per_second > 0
    assert measured_roofs(tmp_path, CPU, "kind", torch.float32) == first
    (file,) = tmp_path.iterdir()
    file.write_text("damaged")
    assert measured_roofs(tmp_path, CPU, "kind", torch.float32) != first
    measured_roofs(tmp_path, CPU, "other", torch.float32)
    measured_roofs(tmp_path, CPU, "kind", torch.bfloat16)
    assert len(list(tmp_path.iterdir())) == 3
