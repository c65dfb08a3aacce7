"""A decode step whose tensors stay where they are, so that a GPU can replay it as one graph.

A step of a deep model is hundreds of small launches, and the host cannot give them as fast as a GPU runs them. A
graph is recorded once and replayed by one call. What it reads and writes must lie at fixed places, and nothing may
follow from a number that only the host knows: positions, slots and masks come from `lengths` on the device, and a
cache that grows is given its last size at once.
"""

import torch
from torch import Tensor

from recallfront.models.language_model import LanguageModel
from recallfront.models.parts.state import State, ordinary_tensors

_WARM_UPS = 2  # steps before recording: kernels are compiled and workspaces made outside the graph


class StaticStep:
    """One decode step over tensors at fixed places, for at most `capacity` tokens a row, prompt included.

    The state given to it is used up. Raises ValueError if it has more than `capacity` tokens already.
    """

    def __init__(self, model: LanguageModel, state: State, capacity: int) -> None:
        if capacity <= state.longest:
            raise ValueError(
                f"capacity is {capacity}; the state has {state.longest} tokens and one more must fit"
            )
        model.check_state(state, state.batch_size)
        self.model, self.capacity = model, capacity
        with ordinary_tensors():
            for layer, layer_state in zip(model.layers, state.layers, strict=True):
                layer.mixer.reserve(layer_state, capacity)  # type: ignore[union-attr, operator]
            self.tokens = torch.zeros_like(state.lengths)
            lengths = state.lengths.clone()
        # rows count as if they had seen different numbers of tokens: then no place follows from `longest`
        self.state = State(state.layers, lengths, capacity - 1, state.model_name, False, state.kept)
        state.spent = True
        self.seen = state.longest
        self.logits: Tensor | None = None

    @ordinary_tensors()
    def run(self) -> None:
        """Read `tokens`, write `logits`, bring the state up to date, every tensor in its place."""
        self.logits = None  # those of the run before would stand beside these
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

    @ordinary_tensors()
    def load(self, state: State) -> None:
        """Continue from another state of as many rows, or of one row for all, which is used up."""
        self.model.check_state(state, state.batch_size)
        if state.longest >= self.capacity:
            raise ValueError(f"the state has {state.longest} tokens; capacity {self.capacity} allows fewer")
        state.spent = True
        for layer, places, other in zip(self.model.layers, self.state.layers, state.layers, strict=True):
            layer.mixer.reserve(other, self.capacity)  # type: ignore[union-attr, operator]
            for name, place in places.items():
                _overwrite(place, other[name])
        self.state.lengths.copy_(state.lengths)
        self.seen = state.longest

    def copy(self) -> "StaticStep":
        """Another step over copies of all tensors, to try out without being used up."""
        state = self.state.select(torch.arange(len(self.tokens), device=self.tokens.device))
        state.longest = self.seen
        return StaticStep(self.model, state, self.capacity)


def _overwrite(place: Tensor, other: Tensor) -> None:
    """Copy a state's tensor into another's place; of caches that have grown differently, what both have room for."""
    # (B, H, slots, D): all tokens that count lie in the first `capacity`
    if place.shape[1:] != other.shape[1:]:
        slots = min(place.shape[2], other.shape[2])
        place, other = place[:, :, :slots], other[:, :, :slots]
    place.copy_(other)


class DecodeGraph:
    """A model's decode step as a CUDA graph; `step` continues from the state it was made with, which is used up.

    With `spoil` no copy of the state is made to warm up on, for batches as large as memory: its numbers are then of no
    use, and `load` must give others before the first step.

    Raises ValueError if the model is not on a GPU or no further token fits `capacity`.
    """

    def __init__(self, model: LanguageModel, state: State, capacity: int, *, spoil: bool = False) -> None:
        if not state.lengths.is_cuda:
            raise ValueError(f"a decode graph needs a GPU; the model is on {state.lengths.device.type}")
        device, room = state.lengths.device, capacity - state.longest
        self._step = StaticStep(model, state, capacity)
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            trial = self._step if spoil else self._step.copy()
            for _ in range(min(_WARM_UPS, room)):
                trial.run()
        torch.cuda.current_stream(device).wait_stream(side)
        del trial
        self._step.logits = None  # a graph does not take what an ordinary tensor leaves in it
        self._graph = torch.cuda.CUDAGraph()
        # the stream that PyTorch captures on by itself is of whichever GPU was captured on first
        with torch.cuda.device(device), torch.cuda.graph(self._graph, stream=torch.cuda.Stream(device)):
            self._step.run()

    def load(self, state: State) -> None:
        """Continue from another state of as many rows, which is used up: nothing is recorded again.

        Raises ValueError if no further token fits.
        """
        self._step.load(state)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits (B, vocab) after one token a row (B), in memory that the next step overwrites.

        Raises ValueError if `capacity` is reached.
        """
        step = self._step
        if step.seen >= step.capacity:
            raise ValueError(f"the decode graph was made for {step.capacity} tokens a row, and they are read")
        with ordinary_tensors():
            step.tokens.copy_(tokens)
        self._graph.replay()
        step.seen += 1
        assert step.logits is not None
        return step.logits
