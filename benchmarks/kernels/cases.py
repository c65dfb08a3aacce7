"""What is timed: operators at the shapes of the targets, each beside its peers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = Tensor | tuple[Tensor, ...]
Contender = Callable[[], Tensors]
Candidates = Mapping[str, Contender]
OURS, DEFINITION = "recallfront", "definition"


@dataclass(frozen=True)
class Case:
    """One operator at one shape; its candidates are timed in turns.

    moved: bytes that any form must move (inputs read once, outputs written once); operations: floating-point
    operations. Whichever is given says which ceiling the row is a share of. make: the candidates by name,
    ours first, called when the case's turn comes: tensors of one case are gone before those of the next. All
    return the same numbers, the first time that they run, but for those named in `apart`.
    """

    operator: str
    shape: str
    mode: str
    make: Callable[[], Candidates]
    moved: int = 0
    operations: float = 0.0
    apart: tuple[str, ...] = ()
    seconds: float = 15.0  # for all of it, compilations included
    dtype: str = "bf16"

    @property
    def name(self) -> str:
        return f"{self.operator} {self.mode} {self.shape}"


@dataclass(frozen=True)
class Setting:
    """Where and how large: on a GPU as the targets say, or tiny and beside the definitions, to try the cases."""

    device: torch.device
    tiny: bool = False

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.tiny else torch.bfloat16

    def size(self, full: int, tiny: int) -> int:
        return tiny if self.tiny else full

    def sizes(self, full: tuple[int, ...], tiny: int) -> tuple[int, ...]:
        return (tiny,) if self.tiny else full

    def normal(self, *shape: int, dtype: torch.dtype | None = None, seed: int = 0) -> Tensor:
        """Numbers as from a standard normal distribution: zeros run faster than data does."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(*shape, device=self.device, dtype=dtype or self.dtype, generator=generator)

    def beside(self, candidates: Candidates, definition: Contender) -> Candidates:
        """With the operator's definition where the sizes are tiny: it would take the GPU minutes."""
        return {**candidates, DEFINITION: definition} if self.tiny else candidates


def forward(run: Callable[..., Tensor], inputs: Sequence[Tensor], turned: bool = False) -> Contender:
    """`run` without a gradient."""

    @torch.no_grad()
    def once() -> Tensors:
        return _turn(run(*inputs), turned)

    return once


def training(run: Callable[..., Tensor], inputs: Sequence[Tensor], turned: bool = False) -> Contender:
    """`run` forward and backward, every input trained: the output and all gradients.

    The output's gradient is the same for all candidates of a case.
    """
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    slopes: list[Tensor] = []

    def both() -> Tensors:
        out = run(*leaves)
        if not slopes:
            generator, shape = torch.Generator(out.device).manual_seed(7), _turn(out, turned).shape
            slope = torch.randn(shape, device=out.device, dtype=out.dtype, generator=generator)
            slopes.append(_turn(slope, turned).contiguous())
        grads = torch.autograd.grad(out, leaves, slopes[0])
        return tuple(_turn(tensor, turned) for tensor in (out.detach(), *grads))

    return both


def _turn(tensor: Tensor, turned: bool) -> Tensor:
    return tensor.transpose(1, 2) if turned and tensor.ndim > 2 else tensor


MODES: dict[str, Callable[..., Contender]] = {"forward": forward, "forward + backward": training}


@dataclass(frozen=True)
class Peer:
    """Someone else's form: a function of our inputs, or of `inputs`. turned: it wants time after heads or channels."""

    run: Callable[..., Tensor]
    turned: bool = False
    inputs: Sequence[Tensor] | None = None

    def candidate(self, mode: str, given: Sequence[Tensor]) -> Contender:
        chosen = given if self.inputs is None else self.inputs
        turned = [_turn(tensor, self.turned).contiguous() for tensor in chosen]
        return MODES[mode](self.run, turned, self.turned)


def both_modes(
    operator: str,
    shape: str,
    ours: Callable[..., Tensor],
    inputs: Callable[[], Sequence[Tensor]],
    peers: Callable[[], Mapping[str, Peer]],
    *,
    moved: tuple[int, int] = (0, 0),
    operations: tuple[float, float] = (0, 0),
    apart: tuple[str, ...] = (),
    seconds: float = Case.seconds,
) -> Iterator[Case]:
    """A case forward and one in training; `moved` and `operations` of each. Peers are made when their turn comes."""
    for place, mode in enumerate(MODES):

        def make(mode: str = mode) -> Candidates:
            given = inputs()
            others = {name: peer.candidate(mode, given) for name, peer in peers().items()}
            return {OURS: MODES[mode](ours, given), **others}

        yield Case(operator, shape, mode, make, moved[place], operations[place], apart, seconds)


CaseSuite = Callable[[Setting], Iterator[Case]]
