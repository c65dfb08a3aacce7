"""What a measurement runs of a model: prefill and decoding at one context, and a training step."""

import time
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from recallfront.models.decoding.decode_graph import DecodeGraph
from recallfront.models.parts.state import State


class Workloads:
    """The workloads of one context, each a callable. Every decoding begins at the state that the prompt left.

    Args:
        model: on the device, in the precision that is measured.
        prompt: (R, C) tokens that are prefilled together.
        lesson: (R, L) tokens of a training step.
        decode_tokens: steps of one decoding.
        wanted: the throughputs that are measured.
    """

    def __init__(
        self, model: Any, prompt: Tensor, lesson: Tensor, decode_tokens: int, wanted: Collection[str]
    ) -> None:
        self.model, self.prompt, self.lesson, self.wanted = model, prompt, lesson, wanted
        self.decode_tokens = decode_tokens
        self.batch_size = len(prompt)  # rows that are decoded together
        self._fills_memory = False  # a decoding does: nothing of it may be held beside the other workloads
        # of each decode step since the list was emptied
        self.step_seconds: list[float] = []
        self._prompted: State | None = None
        self._state: State | None = None
        self._graph: DecodeGraph | None = None

    def all(self) -> dict[str, Callable[[], None]]:
        """The workloads by the figure that they give, in the order of a round."""
        named = {
            "prefill_tokens_per_second": self.prefill,
            "decode_tokens_per_second": self.decode,
            "train_tokens_per_second": self.train,
        }
        return {name: run for name, run in named.items() if name in self.wanted}

    @property
    def tokens_of(self) -> dict[str, int]:
        """Tokens that one run of each workload reads or writes."""
        return {
            "prefill_tokens_per_second": self.prompt.numel(),
            "decode_tokens_per_second": self.batch_size * self.decode_tokens,
            "train_tokens_per_second": self.lesson.numel(),
        }

    @torch.no_grad()
    def prefill(self) -> None:
        """Read the prompts and choose the first token of each."""
        state = self._read(self.prompt)
        if self._prompted is None:
            self._prompted = state

    @torch.no_grad()
    def prompt_one(self) -> State:
        """The state after the first prompt alone, which every row of a largest batch begins at."""
        self._prompted = self._read(self.prompt[:1])
        return self._prompted

    def _read(self, prompt: Tensor) -> State:
        state = self.model.init_state(len(prompt))
        for layer, layer_state in zip(self.model.layers, state.layers, strict=True):
            layer.mixer.reserve(layer_state, prompt.shape[1] + self.decode_tokens)
        logits, read = self.model.prefill(prompt, state, last_only=True)
        logits[:, -1].argmax(-1)
        prompted: State = read
        return prompted

    @property
    def state_bytes(self) -> int:
        """Bytes that a row carries after its prompt."""
        prompted = self._prompted or self.prompt_one()
        return int(self.model.state_bytes(prompted)) // prompted.batch_size

    @torch.no_grad()
    def begin_decoding(self) -> None:
        """Put every row at the end of its prompt; this is not timed."""
        if self._prompted is None:
            self.prefill()
        assert self._prompted is not None
        self._state = None
        device = self.prompt.device
        rows = torch.arange(self.batch_size, device=device) % self._prompted.batch_size
        if self._graph is not None:
            # rows of one prompt are written over all rows
            own = rows if self._prompted.batch_size > 1 else rows[:1]
            self._graph.load(self._prompted.select(own))
            return
        state = self._prompted.select(rows)
        if device.type == "cuda":
            capacity = state.longest + self.decode_tokens
            self._graph = DecodeGraph(self.model, state, capacity, spoil=self._prompted.batch_size == 1)
            if self._prompted.batch_size == 1:
                self._graph.load(self._prompted.select(rows[:1]))
        else:
            self._state = state

    @torch.no_grad()
    def decode(self, steps: int | None = None) -> None:
        """Choose the next token of each row, `decode_tokens` times; a GPU replays a graph, as generation does."""
        token = self.prompt[:1, 0].expand(self.batch_size)
        if self._graph is not None:
            self._replay(self._graph, token, steps or self.decode_tokens)
            return
        state = self._state
        assert state is not None
        before = time.perf_counter()
        for _ in range(steps or self.decode_tokens):
            logits, state = self.model.step(token, state)
            token = logits.argmax(-1)
            now = time.perf_counter()
            self.step_seconds.append(now - before)
            before = now
        self._state = None

    def end_decoding(self) -> None:
        """Let go of what a largest batch was decoded with; else its graph is replayed in the next round."""
        if self._fills_memory:
            self._state = self._graph = None

    def _replay(self, graph: DecodeGraph, token: Tensor, steps: int) -> None:
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
        marks[0].record()
        for mark in marks[1:]:
            token = graph.step(token).argmax(-1)
            mark.record()
        marks[-1].synchronize()
        pairs = zip(marks, marks[1:], strict=False)
        self.step_seconds += [before.elapsed_time(after) / 1e3 for before, after in pairs]

    def try_batch(self, batch_size: int) -> None:
        """Two decode steps of so many rows, all at the end of one prompt, and then nothing of them is held."""
        self.batch_size = batch_size
        try:
            self.begin_decoding()
            self.decode(min(2, self.decode_tokens))
        finally:
            self._state = self._graph = None

    def decode_largest(self, batch_size: int) -> None:
        """Decode so many rows from here on, the most that memory holds."""
        self.batch_size, self._fills_memory = batch_size, True
        self.step_seconds.clear()

    def train(self) -> None:
        """Forward and backward, without an optimizer's step."""
        logits = self.model(self.lesson)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), self.lesson.flatten()).backward()
        self.model.zero_grad(set_to_none=True)
