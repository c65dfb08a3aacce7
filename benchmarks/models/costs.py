"""What the architectures cost on this machine: training against matrix products alone, decoding as contexts
grow.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.models.building import build
from recallfront.models.configs import Architecture, architectures, parse_config
from recallfront.models.configs.mixer import MixerConfig
from recallfront.models.configs.named import NamedArchitecture
from recallfront.models.language_model import LanguageModel
from recallfront.models.parts.state import State
from recallfront.sweeps.tasks.base import IGNORED
from recallfront.sweeps.tasks.mqar import mqar

_SIZE: dict[str, Any] = {"vocab_size": 512, "width": 256, "num_layers": 6, "num_heads": 4, "mlp_expansion": 3}
# of architectures that are not as their mixers are alone, by default
_KNOBS: dict[str, dict[str, Any]] = {
    "griffin": {"window_size": 129},
    "based": {"pattern": "CLW", "window_size": 128},
    "grouped": {"group_size": 64},
    "window": {"window_size": 128},
}
CONTEXTS = (256, 512, 1024, 2048, 4096, 8192)


def benchmark_configs() -> dict[str, Architecture]:
    """Every architecture at the benchmark's size: width 256, 6 layers, 4 heads, window 128, vocabulary 512.

    The layers are those that take the place of attention, short convolutions only where a paper has them.
    """
    return {
        name: parse_config(
            {"architecture": name, **_SIZE, "pattern": kind.composition.adopting} | _KNOBS.get(name, {})
        )
        for name, kind in architectures().items()
        if issubclass(kind, NamedArchitecture)
    }


@dataclass(frozen=True)
class TrainingCost:
    """Forward and backward of one architecture, medians in seconds."""

    architecture: str
    tokens: int
    seconds: float
    matrix_seconds: float  # of its matrix products alone

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def over_matrices(self) -> float:
        """How many times as long as its matrix products alone."""
        return self.seconds / self.matrix_seconds


@dataclass(frozen=True)
class AnswersCost:
    """A training step on MQAR of one architecture, medians in seconds."""

    architecture: str
    every_logit_seconds: float  # logits of every position
    answers_seconds: float  # logits of the labelled positions alone, as trials train

    @property
    def times(self) -> float:
        """How many times as fast it is without the logits that nothing asks for."""
        return self.every_logit_seconds / self.answers_seconds


@dataclass(frozen=True)
class DecodingCost:
    """One architecture after a context, medians."""

    architecture: str
    context: int
    prefill_tokens_per_second: float
    decode_seconds: float  # of one step for all rows
    decode_tokens_per_second: float
    state_bytes: int  # all rows together


def in_turns(tasks: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each task, all run in turn `repeats` times after one warm-up, so that all meet the
    same noise.
    """
    times: list[list[float]] = [[] for _ in tasks]
    for repeat in range(repeats + 1):
        for task, seen in zip(tasks, times, strict=True):
            start = time.perf_counter()
            task()
            if repeat:
                seen.append(time.perf_counter() - start)
    return [statistics.median(seen) for seen in times]


def training_costs(
    architectures: Sequence[str] | None = None, *, batch: int = 4, length: int = 512, repeats: int = 5
) -> list[TrainingCost]:
    """Forward and backward of each architecture beside its matrix products alone, interleaved in one run."""
    configs = benchmark_configs()
    names = list(configs if architectures is None else architectures)
    tasks: list[Callable[[], object]] = []
    for name in names:
        model = build(configs[name])
        tokens = draw_tokens(batch, length)
        tasks += [training_step(model, tokens), _matrix_products(model, batch, length)]
    seconds = in_turns(tasks, repeats)
    return [
        TrainingCost(name, batch * length, seconds[2 * index], seconds[2 * index + 1])
        for index, name in enumerate(names)
    ]


def answers_costs(
    architectures: Sequence[str] = ("attention", "window", "based"),
    *,
    vocab_size: int = 8192,
    batch: int = 64,
    repeats: int = 5,
) -> list[AnswersCost]:
    """Training steps of the field's small models (width 64, 64 tokens, 8 pairs), interleaved in one run."""
    inputs, labels = mqar(vocab_size=vocab_size, num_examples=batch, input_seq_len=64, num_kv_pairs=8, seed=0)
    tasks: list[Callable[[], object]] = []
    for name in architectures:
        model = build(parse_config({"architecture": name, "vocab_size": vocab_size, "width": 64}))
        tasks += [_step_on_every_logit(model, inputs, labels), _step_on_answers(model, inputs, labels)]
    seconds = in_turns(tasks, repeats)
    pairs = zip(architectures, seconds[::2], seconds[1::2], strict=True)
    return [AnswersCost(name, every, answers) for name, every, answers in pairs]


def _step_on_every_logit(model: LanguageModel, inputs: Tensor, labels: Tensor) -> Callable[[], object]:
    def step() -> Tensor:
        model.zero_grad()
        logits = model(inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        torch.autograd.backward(loss)
        return loss.detach()

    return step


def _step_on_answers(model: LanguageModel, inputs: Tensor, labels: Tensor) -> Callable[[], object]:
    at = (labels.flatten() != IGNORED).nonzero()[:, 0]
    answers = labels.flatten()[at]

    def step() -> Tensor:
        model.zero_grad()
        loss: Tensor = model(inputs, at=at, answers=answers).loss / len(answers)
        torch.autograd.backward(loss)
        return loss.detach()

    return step


def draw_tokens(batch: int, length: int) -> Tensor:
    """The benchmark's tokens (B, T), the same each time."""
    return torch.randint(0, 512, (batch, length), generator=torch.Generator().manual_seed(0))


def training_step(model: LanguageModel, tokens: Tensor) -> Callable[[], object]:
    """Forward and backward of one batch (B, T)."""

    def step() -> None:
        model.zero_grad()
        logits = model(tokens[:, :-1])
        torch.autograd.backward(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))

    return step


def _matrix_products(model: LanguageModel, batch: int, length: int) -> Callable[[], object]:
    """The three products (forward, gradient of the input, gradient of the weight) of every matrix of the model, and
    the six of queries, keys and values of softmax, grouped and linear attention, as small as they can be.

    What gated recurrences need beyond their matrices is not counted: it depends on how they are computed.
    """
    rows = batch * length
    matrices = [p.detach() for p in model.parameters() if p.ndim >= 2 and min(p.shape[-2:]) > 8]
    pairs = []
    for matrix in matrices:  # block-diagonal gates are [block, in, out]
        blocks = matrix if matrix.ndim == 3 else matrix.T[None]
        pairs.append((blocks, *(torch.randn(len(blocks), rows, size) for size in blocks.shape[1:])))

    attended = [
        _attended(mixer, batch, length)
        for _, mixer, count in model.config.mixers_used
        for _ in range(count)
        if mixer.product_flops(length)
    ]

    def products() -> None:
        for blocks, x, grad in pairs:
            torch.bmm(x, blocks)
            torch.bmm(grad, blocks.transpose(1, 2))
            torch.bmm(x.transpose(1, 2), grad)
        for q, k, weights in attended:
            for _ in range(2):
                torch.bmm(q, k.transpose(1, 2))
                torch.bmm(weights, k)
                torch.bmm(weights.transpose(1, 2), q)

    return products


def _attended(mixer: MixerConfig, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, as many keys as one of them sees on average, and weights between them, of all heads.

    A state that is written and read is as many keys as queries have features: k v^T and q S are the same products.
    """
    seen = round(mixer.product_flops(length) / (4 * mixer.width * length))
    heads = batch * mixer.num_heads
    q, k = torch.randn(heads, length, mixer.head_dim), torch.randn(heads, seen, mixer.head_dim)
    return q, k, torch.rand(heads, length, seen)


def decoding_costs(
    architectures: Sequence[str] | None = None,
    *,
    contexts: Sequence[int] = CONTEXTS,
    batch: int = 4,
    steps: int = 40,
    chunk: int = 1024,
) -> list[DecodingCost]:
    """Prefill and decode throughput and state bytes of each architecture as the context grows.

    The contexts of one architecture follow each other in one text, read in chunks, so that no part is read
    twice.
    """
    configs = benchmark_configs()
    names = configs if architectures is None else architectures
    return [
        cost
        for name in names
        for cost in _decoding(name, build(configs[name]), sorted(contexts), batch, steps, chunk)
    ]


def _decoding(
    name: str, model: LanguageModel, contexts: Sequence[int], batch: int, steps: int, chunk: int
) -> list[DecodingCost]:
    tokens = draw_tokens(batch, max(contexts))
    state, read, seconds = model.init_state(batch), 0, 0.0
    branches, prefills, sizes = [], [], []
    for context in contexts:
        start = time.perf_counter()
        while read < context:
            size = min(chunk, context - read)
            _, state = model.prefill(tokens[:, read : read + size], state, last_only=True)
            read += size
        seconds += time.perf_counter() - start
        prefills.append(batch * context / seconds)
        sizes.append(model.state_bytes(state))
        branches.append(state.select(torch.arange(batch)))  # the steps use up a copy
    medians = _interleaved_steps(model, tokens[:, 0], branches, steps)
    rows = zip(contexts, prefills, medians, sizes, strict=True)
    return [
        DecodingCost(name, context, prefill, median, batch / median, size)
        for context, prefill, median, size in rows
    ]


def _interleaved_steps(model: LanguageModel, tokens: Tensor, states: list[State], steps: int) -> list[float]:
    """Median seconds of a step from each state, all in turn, so that a machine that changes does so for all."""
    seconds: list[list[float]] = [[] for _ in states]
    for step in range(steps + 2):  # two to warm up
        for index, seen in enumerate(seconds):
            start = time.perf_counter()
            _, states[index] = model.step(tokens, states[index])
            if step >= 2:
                seen.append(time.perf_counter() - start)
    return [statistics.median(seen) for seen in seconds]
