"""`make gpu`: the kernels' tests and benchmarks on a GPU, and a whole decode step of a deep model.

python -m recallfront.benchmarks.models.decode_step [--output ROWS.jsonl]
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from recallfront.benchmarks.kernels.cases import OURS, Candidates, Case, Setting, Tensors, forward
from recallfront.benchmarks.kernels.run import CASE_SUITES, main
from recallfront.models.building import assemble
from recallfront.models.configs import Architecture, parse_config
from recallfront.models.decoding.decode_graph import DecodeGraph, StaticStep
from recallfront.models.language_model import LanguageModel
from recallfront.models.parts.state import State

_CONTEXT = 4096  # tokens that the state has seen
_STEPS = 1000  # more than are timed


def whole_steps(setting: Setting) -> Iterator[Case]:
    """A step of 24 layers of each architecture, batch 64 and 256, as generation runs it: a recorded graph."""
    for name in ("griffin", "based", "grouped"):
        config = _config(setting, name)
        for batch in setting.sizes((64, 256), 2):
            moved = _moved(config, batch)
            shape = f"{batch}x{config.width} {config.num_layers} layers"

            def make(config: Architecture = config, batch: int = batch) -> Candidates:
                return _candidates(setting, config, batch)

            yield Case(f"decode step of {name}", shape, "step", make, moved=moved, seconds=25)


def _moved(config: Architecture, batch: int) -> int:
    """Bytes that a step must move in bfloat16: weights, of untied embeddings a row a token; state; logits."""
    with torch.device("meta"):
        model = assemble(config).to(torch.bfloat16)
        state = model.init_state(batch)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    if not config.tied_embeddings:
        weights -= model.embedding.weight.nbytes
    return weights + _state_bytes(state) + batch * config.vocab_size * 2


def _state_bytes(state: State) -> int:
    """Bytes of a state that a step must move: rings are read (and a slot written), all else is read and written."""
    return sum(
        tensor.nbytes * (1 if name in ("keys", "values", "tail") else 2)
        for layer in state.layers
        for name, tensor in layer.items()
    )


def _config(setting: Setting, name: str) -> Architecture:
    knobs = {
        "griffin": {"pattern": "RRW", "window_size": setting.size(1024, 4)},
        "based": {"pattern": "LW", "window_size": setting.size(64, 4), "feature_dim": 16},
        "grouped": {"pattern": "G", "group_size": setting.size(64, 4)},
    }[name]
    sizes = {
        "width": setting.size(2048, 32),
        "num_heads": setting.size(16, 2),
        "num_layers": setting.size(24, 6),
        "vocab_size": setting.size(32000, 32),
        "mlp_expansion": 3,
    }
    return parse_config({"architecture": name, **knobs, **sizes})


def _candidates(setting: Setting, config: Architecture, batch: int) -> Candidates:
    model, state = _model(setting, config, batch)
    tokens = torch.arange(batch, device=setting.device)
    plain = state.select(tokens)

    @torch.no_grad()
    def eager() -> Tensors:
        nonlocal plain
        logits, plain = model.step(tokens, plain)
        return logits

    if setting.device.type == "cuda":
        step = DecodeGraph(model, state, _CONTEXT + _STEPS).step
    else:
        static = StaticStep(model, state, _CONTEXT + _STEPS)

        def step(tokens: Tensor) -> Tensor:
            static.tokens.copy_(tokens)
            static.run()
            assert static.logits is not None
            return static.logits

    return {OURS: forward(step, [tokens]), "without a graph": eager}


def _model(setting: Setting, config: Architecture, batch: int) -> tuple[LanguageModel, State]:
    """Weights and a state with some numbers in them, deep in a text: what they are does not matter to the time."""
    with setting.device:
        model = assemble(config).to(setting.dtype)
    generator = torch.Generator(setting.device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02, generator=generator)
    state = model.init_state(batch)
    for layer in state.layers:
        for tensor in layer.values():
            tensor.uniform_(generator=generator)  # positive, as normalisers are
    state.lengths += _CONTEXT
    state.longest = _CONTEXT
    return model, state


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The kernels' tests and benchmarks on this machine's GPU.")
    parser.add_argument(
        "--output", type=Path, help="where the rows go; by default benchmarks/kernels/<GPU>.jsonl"
    )
    sys.exit(main((*CASE_SUITES[:-1], whole_steps, CASE_SUITES[-1]), output=parser.parse_args().output))
