"""The released RecurrentGemma PyTorch code beside ours: same weights, same tokens, in one process.

The code is not part of this package: a checkout of it is named by its path.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.benchmarks.models.costs import benchmark_configs, draw_tokens, in_turns, training_step
from recallfront.models.building import build
from recallfront.models.language_model import LanguageModel
from recallfront.models.pretrained.recurrentgemma import to_recurrentgemma

_NEEDS = ("einops", "jaxtyping")  # what the parts of it that are used import
_NAMES = {"R": "RECURRENT", "W": "ATTENTION"}


def why_not(path: Path) -> str | None:
    """Why the code at `path` cannot be run, in a sentence; None if it can."""
    if not (path / "recurrentgemma" / "torch" / "griffin.py").is_file():
        return f"{path} holds no recurrentgemma/torch/griffin.py: name a checkout of google-deepmind/recurrentgemma"
    missing = [name for name in _NEEDS if find_spec(name) is None]
    return (
        f"the released code needs {' and '.join(missing)}: pip install {' '.join(missing)}"
        if missing
        else None
    )


@dataclass
class Released:
    """A released model with the weights of one of ours."""

    model: Any
    vocab_size: int

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, vocab) of tokens (B, T)."""
        positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        logits: Tensor = self.model(tokens, positions, return_cache=False)[0]
        return logits

    def training_step(self, tokens: Tensor) -> None:
        """Forward and backward."""
        self.model.zero_grad()
        logits = self.logits(tokens[:, :-1])
        torch.autograd.backward(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))

    @torch.no_grad()
    def decoder(self, prompt: Tensor) -> Callable[[Tensor], None]:
        """Something that reads one token a row (B) after the prompt (B, T), again and again."""
        positions = torch.arange(prompt.shape[1]).expand_as(prompt)
        _, cache = self.model(prompt, positions)
        place, held = positions[:, -1:] + 1, [cache]

        @torch.no_grad()
        def step(tokens: Tensor) -> None:
            nonlocal place
            _, held[0] = self.model(tokens[:, None], place, held[0])
            place = place + 1

        return step


def released_twin(model: LanguageModel, path: Path) -> Released:
    """The released model with our model's configuration and weights (Griffin or Hawk, no other letters than R and W).

    Raises ValueError if `why_not` has a reason, or where its logits are not ours.
    """
    reason = why_not(path)
    if reason is not None:
        raise ValueError(reason)
    config = model.config
    with _imported(path) as (common, griffin):
        kinds = common.TemporalBlockType
        theirs = griffin.Griffin(
            common.GriffinConfig(
                vocab_size=config.vocab_size,
                width=config.width,
                mlp_expanded_width=config.mlp_width,
                num_heads=config.num_heads,
                block_types=tuple(getattr(kinds, _NAMES[letter]) for letter in config.layers),
                embeddings_scale_by_sqrt_dim=config.scale_embeddings,
                attention_window_size=getattr(config, "window_size", 2) - 1,
                logits_soft_cap=config.logits_soft_cap,
            ),
            gradient_checkpointing=False,
        )
    theirs.load_state_dict(to_recurrentgemma(model))
    twin = Released(theirs, config.vocab_size)
    tokens = torch.arange(32)[None] % config.vocab_size
    with torch.no_grad():
        difference = float((twin.logits(tokens) - model(tokens)).abs().max())
    if difference > 1e-3:
        raise ValueError(f"{path}: its logits differ from ours by {difference:.2g}; it is another version")
    return twin


@contextmanager
def _imported(path: Path) -> Iterator[tuple[Any, Any]]:
    """The modules `common` and `torch.griffin`; the packages' own __init__ (a sampler, a tokenizer) is not run."""
    before = set(sys.modules)
    for name in ("recurrentgemma", "recurrentgemma.torch"):
        package = ModuleType(name)
        package.__path__ = [str(path.joinpath(*name.split(".")))]
        sys.modules[name] = package
    try:
        yield import_module("recurrentgemma.common"), import_module("recurrentgemma.torch.griffin")
    finally:
        for name in set(sys.modules) - before:
            if name.split(".")[0] == "recurrentgemma":
                del sys.modules[name]


@dataclass(frozen=True)
class SideBySide:
    """Ours and the released code, interleaved; medians in seconds."""

    architecture: str
    work: str  # "training" or "decoding"
    tokens: int  # that either handles in its seconds
    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        """How many times as many tokens a second ours handles."""
        return self.theirs / self.ours


def comparisons(
    path: Path,
    *,
    architectures: tuple[str, ...] = ("griffin", "hawk"),
    batch: int = 4,
    length: int = 512,
    steps: int = 10,
    repeats: int = 5,
) -> list[SideBySide]:
    """Training (forward and backward) and decoding of both, in turn; the contexts decoded from are 256 tokens long.

    Raises ValueError as `released_twin` does.
    """
    found = []
    for name in architectures:
        ours = build(benchmark_configs()[name])
        theirs = released_twin(ours, path)
        tokens = draw_tokens(batch, length)
        prompt = tokens[:, : min(256, length)]
        tasks: list[Callable[[], object]] = [
            training_step(ours, tokens),
            partial(theirs.training_step, tokens),
        ]
        tasks += [
            _steps(_decoder(ours, prompt), tokens, steps),
            _steps(theirs.decoder(prompt), tokens, steps),
        ]
        seconds = in_turns(tasks, repeats)
        found.append(SideBySide(name, "training", batch * length, *seconds[:2]))
        found.append(SideBySide(name, "decoding", batch * steps, *seconds[2:]))
    return found


def _decoder(model: LanguageModel, prompt: Tensor) -> Callable[[Tensor], None]:
    _, state = model.prefill(prompt, model.init_state(prompt.shape[0]))

    def step(tokens: Tensor) -> None:
        nonlocal state
        _, state = model.step(tokens, state)

    return step


def _steps(step: Callable[[Tensor], None], tokens: Tensor, count: int) -> Callable[[], None]:
    def run() -> None:
        for column in tokens[:, :count].unbind(1):
            step(column)

    return run
