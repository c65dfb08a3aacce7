"""What a model carries between decode steps, and what the layers of one call share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

LayerState = dict[str, Tensor]


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Without gradients, tensors that later steps can change, in whatever mode they run."""
    with torch.inference_mode(False), torch.no_grad():
        yield


@dataclass
class State:
    """The decode state of a batch. `prefill` and `step` use it up: continue with the one that they return."""

    layers: list[LayerState]
    lengths: Tensor  # (B,) tokens that each row has seen
    longest: int  # the most that any row may have seen, known without asking the device
    model_name: str  # configuration and type of the model it belongs to, to refuse another's
    uniform: bool = True  # all rows have seen equally many
    kept: dict[Any, Any] = field(default_factory=dict)  # what follows from the weights alone, made once
    spent: bool = False  # a later call has changed the tensors: it cannot be used again

    def __getstate__(self) -> dict[str, Any]:
        """All but `kept`, which another process makes again from the weights."""
        return {**vars(self), "kept": {}}

    def __copy__(self) -> "State":
        """As `select` of every row: tensors in common would be used up together."""
        return self.select(torch.arange(self.batch_size, device=self.lengths.device))

    def select(self, rows: Tensor) -> "State":
        """A copy of some rows (they may repeat), which can be used up without this state.

        Raises ValueError if the state has been used up.
        """
        self.check_unspent()
        with ordinary_tensors():
            layers = [{name: tensor[rows] for name, tensor in layer.items()} for layer in self.layers]
            lengths = self.lengths[rows]
        return State(layers, lengths, self.longest, self.model_name, self.uniform, self.kept)

    def check_unspent(self) -> None:
        """Raise ValueError if a later call has changed the tensors."""
        if self.spent:
            raise ValueError(
                "the state has been used up by an earlier call, which changed it; continue with the state that "
                "call returned, or keep a copy made by select() before the call"
            )

    @property
    def batch_size(self) -> int:
        return self.lengths.shape[0]


@dataclass(kw_only=True)
class Memo:
    """What the layers of one call have in common, biases and indices, is made once."""

    _memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returned for this key the first time in this call."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]


class Layout:
    """How the tokens of a training batch stand: `positions` (B, T) restart at 0 where a packed document
    starts.

    starts (B, T) says where, segments (B, T) number the documents of a row; all three are None where each row
    is one.
    """

    def __init__(self, positions: Tensor | None, longest: int) -> None:
        self.positions, self.longest = positions, longest  # longest: no position reaches it
        self.starts = None if positions is None else positions == 0
        self.segments = None if self.starts is None else self.starts.cumsum(1)

    @property
    def turns(self) -> Tensor | int:
        """The positions as `rotate` takes them."""
        return 0 if self.positions is None else self.positions

    @cached_property
    def _batches(self) -> tuple[list[tuple[int, int]], Tensor]:
        """Documents of similar length together: the shapes (documents, longest) of these batches, and each token's
        place in them, laid one behind the other (B * T,).

        Those whose lengths round up to the same power of two are together, so that padding less than doubles them.
        The least power is 8: one batch more would cost more than the padding of so short documents.
        """
        assert self.starts is not None
        starts = self.starts.clone()
        starts[:, 0] = True
        flat = starts.flatten()
        document, first = flat.cumsum(0) - 1, flat.nonzero()[:, 0]
        length = torch.diff(first, append=first.new_tensor([len(flat)]))
        bits = torch.frexp((length - 1).double()).exponent.clamp(min=3)
        begin, room, shapes = torch.zeros_like(length), 0, []
        for kind in bits.unique().tolist():
            alike = bits == kind
            count, longest = int(alike.sum()), int(length[alike].max())
            begin[alike] = room + longest * torch.arange(count, device=flat.device)
            room += count * longest
            shapes.append((count, longest))
        return shapes, torch.arange(len(flat), device=flat.device) + (begin - first)[document]

    def by_document(self, run: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """`run` on one row a document, zeros after its end: from tensors (B, T, ...) to one (B, T, ...).

        It runs once for each batch of documents of similar length, of which other ranks have other numbers: no module
        may be called in it, since ZeRO-3 gathers a module's weights in step with the other ranks.
        """
        if self.starts is None:
            return run(*tensors)
        shapes, places = self._batches
        sizes = [count * longest for count, longest in shapes]
        laid = (x.new_zeros(sum(sizes), *x.shape[2:]).index_put((places,), x.flatten(0, 1)) for x in tensors)
        batches = zip(*(x.split(sizes) for x in laid), strict=True)
        made = [
            run(*(x.unflatten(0, shape) for x in batch)).flatten(0, 1)
            for shape, batch in zip(shapes, batches, strict=True)
        ]
        packed = torch.cat(made)[places]
        return packed.view(*self.starts.shape, *packed.shape[1:])


@dataclass
class Block(Memo):
    """A block of T tokens that continues from a state; rows may be shorter than T (padded on the right)."""

    offsets: Tensor  # (B,) tokens before the block
    longest: int  # bound on the offsets
    time: int
    counts: Tensor | None = None  # (B,) tokens that count; None: all
    uniform: bool = True  # all offsets are `longest`

    @cached_property
    def positions(self) -> Tensor:
        return self.offsets[:, None] + torch.arange(self.time, device=self.offsets.device)

    @cached_property
    def padding(self) -> Tensor | None:
        """Where a token does not count (B, T)."""
        if self.counts is None:
            return None
        return torch.arange(self.time, device=self.offsets.device) >= self.counts[:, None]

    @cached_property
    def ends(self) -> Tensor:
        """(B,) tokens after the block."""
        return self.offsets + (self.time if self.counts is None else self.counts)

    def last(self, history: Tensor, size: int) -> Tensor:
        """The last `size` entries of each row, of a history (B, size + T, ...) that ends with this block."""
        if self.counts is None:
            return history[:, history.shape[1] - size :]
        rows = torch.arange(history.shape[0], device=history.device)[:, None]
        return history[rows, self.counts[:, None] + torch.arange(size, device=history.device)]


@dataclass
class Step(Memo):
    """One decode step: each row's next token."""

    lengths: Tensor  # (B,) tokens before this one
    longest: int
    uniform: bool = True
    kept: dict[Any, Any] = field(default_factory=dict)  # the state's

    def keep(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returned the first time for this key and this state: what follows from weights alone."""
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    @property
    def is_first(self) -> bool | None:
        """Whether this is every row's first token; None where only the device knows."""
        if self.longest == 0:
            return True
        return False if self.uniform else None
