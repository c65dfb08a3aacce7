import sys
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch

from recallfront.benchmarks.models import released
from recallfront.benchmarks.models.costs import (
    _step_on_answers,
    _step_on_every_logit,
    answers_costs,
    benchmark_configs,
    decoding_costs,
    in_turns,
    training_costs,
)
from recallfront.benchmarks.models.released import comparisons, why_not
from recallfront.models.building import build
from recallfront.models.configs import architectures, parse_config
from recallfront.models.configs.compositions import HYBRID
from recallfront.models.mixers import registry
from recallfront.models.mixers.retnet import RetNetConfig
from recallfront.sweeps.tasks.mqar import mqar


def test_every_architecture_is_measured() -> None:
    costs = training_costs(["griffin", "grouped"], batch=1, length=16, repeats=1)
    assert [cost.architecture for cost in costs] == ["griffin", "grouped"]
    assert all(cost.tokens_per_second > 0 and cost.over_matrices > 1 for cost in costs)


def test_a_mixer_is_benchmarked_without_a_line_of_its_own() -> None:
    class Fading(RetNetConfig):
        letter: ClassVar[str] = "F"
        mixer: Literal["fading"] = "fading"  # type: ignore[assignment]

    registry.register(Fading)
    try:
        configs = benchmark_configs()
    finally:
        registry.unregister("fading")
    assert configs.keys() == {*architectures(), "fading"} - {HYBRID}
    assert (configs["fading"].layers, configs["griffin"].layers, configs["based"].layers) == (
        "FFFFFF",
        "RRWRRW",
        "CLWCLW",
    )


def test_states_are_measured_as_the_context_grows() -> None:
    names = ["griffin", "attention"]
    costs = decoding_costs(names, contexts=(16, 160), batch=2, steps=2, chunk=64)
    assert [(cost.architecture, cost.context) for cost in costs] == [
        (name, context) for name in names for context in (16, 160)
    ]
    configs = benchmark_configs()
    for cost in costs:
        assert cost.state_bytes == 2 * 4 * configs[cost.architecture].state_elements(cost.context)


def test_tasks_take_turns() -> None:
    calls: list[str] = []
    seconds = in_turns([lambda: calls.append("a"), lambda: calls.append("b")], repeats=2)
    assert calls == ["a", "b"] * 3
    assert len(seconds) == 2


def test_the_released_code_is_compared_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in under the released names that answers with our own logits."""
    reason = why_not(tmp_path)
    assert reason is not None and "holds no recurrentgemma/torch/griffin.py" in reason
    write_stand_in(tmp_path)
    monkeypatch.setattr(released, "_NEEDS", ("a_module_that_nobody_has",))
    assert (
        why_not(tmp_path)
        == "the released code needs a_module_that_nobody_has: pip install a_module_that_nobody_has"
    )
    monkeypatch.setattr(released, "_NEEDS", ())
    found = comparisons(tmp_path, architectures=("griffin",), batch=2, length=12, steps=2, repeats=1)
    assert [(row.work, row.tokens) for row in found] == [("training", 24), ("decoding", 4)]
    assert all(row.ratio > 0 for row in found)
    assert not any(name.startswith("recurrentgemma") for name in sys.modules)


def write_stand_in(folder: Path) -> None:
    (folder / "recurrentgemma" / "torch").mkdir(parents=True)
    (folder / "recurrentgemma" / "common.py").write_text(
        "import enum\nfrom typing import NamedTuple\n"
        "class TemporalBlockType(enum.Enum):\n    RECURRENT = 1\n    ATTENTION = 2\n"
        "class GriffinConfig(NamedTuple):\n    vocab_size: int\n    width: int\n    mlp_expanded_width: int\n"
        "    num_heads: int\n    block_types: tuple\n    embeddings_scale_by_sqrt_dim: bool\n"
        "    attention_window_size: int\n    logits_soft_cap: float\n"
    )
    (folder / "recurrentgemma" / "torch" / "griffin.py").write_text(
        "import torch\nfrom recallfront.models import load_recurrentgemma\n"
        "class Griffin(torch.nn.Module):\n"
        "    def __init__(self, config, gradient_checkpointing):\n"
        "        super().__init__()\n        self.config = config\n"
        "    def load_state_dict(self, weights):\n"
        "        self.model = load_recurrentgemma(weights, attention_window_size=self.config.attention_window_size,\n"
        "            embeddings_scale_by_sqrt_dim=False, logits_soft_cap=0.0)\n"
        "    def forward(self, tokens, positions, cache=None, return_cache=True):\n"
        "        return self.model(tokens), cache\n"
    )


def test_steps_on_answers_alone_are_those_on_every_logit() -> None:
    inputs, labels = mqar(vocab_size=80, num_examples=3, input_seq_len=64, num_kv_pairs=8, seed=0)
    model = build(parse_config({"architecture": "window", "vocab_size": 80, "width": 16}))
    every, answers = _step_on_every_logit(model, inputs, labels), _step_on_answers(model, inputs, labels)
    torch.testing.assert_close(answers(), every())
    (cost,) = answers_costs(["window"], vocab_size=80, batch=3, repeats=1)
    assert cost.architecture == "window" and cost.times == cost.every_logit_seconds / cost.answers_seconds
