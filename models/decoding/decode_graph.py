"""A decode step whose tensors stay where they are, so that a GPU can replay it as one graph.

A step of a deep model is hundreds of small launches, and the host cannot give them as fast as a GPU runs them. A
graph is recorded once and replayed by one call. What it reads and writes must lie at fixed places, and nothing may
follow from a number that only the host knows: positions, slots and masks come from `lengths` on the device, and a
cache that grows is given its last size at once.
"""

import torch
from torch import Tensor

from recallfront.models.language_model import LanguageModel
from recallfront.models.parts.state import State

_WARM_UPS = 2  # steps before recording: kernels are compiled and workspaces made outside the graph


class StaticStep:
    """One decode step over tensors at fixed places, for at most `capacity` tokens a row, prompt included.

    The state given to it is used up. Raises ValueError where it has more than `capacity` tokens already.
    """

    def __init__(self, model: LanguageModel, state: State, capacity: int) -> None:
        if capacity <= state.longest:
            raise ValueError(
                f"capacity is {capacity}; the state has {state.longest} tokens and one more must fit"
            )
        for layer, layer_state in zip(model.layers, state.layers, strict=True):
            layer.mixer.reserve(layer_state, capacity)  # type: ignore[union-attr, operator]
        self.model, self.capacity = model, capacity
        self.tokens = torch.zeros_like(state.lengths)
        # rows count as if they had seen different numbers of tokens: then no place follows from `longest`
        self.state = State(
            state.layers, state.lengths.clone(), capacity - 1, state.model_name, False, state.kept
        )
        self.seen = state.longest
        self.logits: Tensor | None = None

    def run(self) -> None:
        """Read `tokens`, write `logits`, bring the state up to date, every tensor in its place."""
        before = [dict(layer) for layer in self.state.layers]
        logits, _ = self.model.step(self.tokens, self.state)
        for layer, old in zip(self.state.layers, before, strict=True):
            for name, place in old.items():
                if layer[name].data_ptr() != place.data_ptr() or layer[name].stride() != place.stride():
                    place.copy_(layer[name])
                layer[name] = place
        self.state.spent = False  # every tensor is back in its place
        self.state.lengths += 1
        self.logits = logits

    def load(self, state: State) -> None:
        """Continue from another state of as many rows, or of one row for all, which is used up."""
        if state.longest >= self.capacity:
            raise ValueError(f"the state has {state.longest} tokens; capacity {self.capacity} allows fewer")
        layers = zip(self.model.layers, self.state.layers, state.layers, strict=True)
        for layer, places, other in layers:
            layer.mixer.reserve(other, self.capacity)  # type: ignore[union-attr, operator]
            for name, place in places.items():
                place.copy_(other[name])
        self.state.lengths.copy_(state.lengths)
        self.seen = state.longest

    def copy(self) -> "StaticStep":
        """Another step over copies of all tensors, to try out without being used up."""
        state = self.state.select(torch.arange(len(self.tokens), device=self.tokens.device))
        state.longest = self.seen
        return StaticStep(self.model, state, self.capacity)


class DecodeGraph:
    """A model's decode step as a CUDA graph; `step` continues from the state it was made with, which is used up.

    With `spoil` no copy of the state is made to warm up on, for batches as large as memory: its numbers are then of no
    use, and `load` must give others before the first step.

    Raises ValueError where the model is not on a GPU or no further token fits `capacity`.
    """

    def __init__(self, model: LanguageModel, state: State, capacity: int, *, spoil: bool = False) -> None:
        if not state.lengths.is_cuda:
            raise ValueError(f"a decode graph needs a GPU; the model is on {state.lengths.device.type}")
        self._step = StaticStep(model, state, capacity)
        side = torch.cuda.Stream(state.lengths.device)
        side.wait_stream(torch.cuda.current_stream(state.lengths.device))
        with torch.cuda.stream(side):
            trial = self._step if spoil else self._step.copy()
            for _ in range(min(_WARM_UPS, capacity - state.longest)):
                trial.run()
        torch.cuda.current_stream(state.lengths.device).wait_stream(side)
        del trial
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._step.run()

    def load(self, state: State) -> None:
        """Continue from another state of as many rows, which is used up: nothing is recorded again.

        Raises ValueError where no further token fits.
        """
        self._step.load(state)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits (B, vocab) after one token a row (B), in memory that the next step overwrites.

        Raises ValueError where `capacity` is reached.
        """
        step = self._step
        if step.seen >= step.capacity:
            raise ValueError(f"the decode graph was made for {step.capacity} tokens a row, and they are read")
        step.tokens.copy_(tokens)
        self._graph.replay()
        step.seen += 1
        assert step.logits is not None
        return step.logits
