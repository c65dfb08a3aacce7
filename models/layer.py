"""One residual layer of a language model."""

from collections.abc import Callable

from torch import Tensor, nn

from recallfront.models.mixers.base import Mixer
from recallfront.models.parts.layers import MLP
from recallfront.models.parts.lean import lean_mlp, lean_norm
from recallfront.models.parts.state import LayerState, Layout, Step


class Layer(nn.Module):
    """Pre-norm residual layer: x + mixer(norm(x)), then x + mlp(norm(x)) where there is a channel mixer.

    A second norm without a channel mixer is added as it is: x + norm(x).
    """

    def __init__(
        self, mixer: Mixer, mixer_norm: nn.Module, mlp: MLP | None, mlp_norm: nn.Module | None
    ) -> None:
        super().__init__()
        self.mixer_norm, self.mixer = mixer_norm, mixer
        self.mlp_norm, self.mlp = mlp_norm, mlp

    def add_mlp(self, x: Tensor) -> Tensor:
        """x + mlp(norm(x))."""
        if self.mlp_norm is None:
            return x
        return x + self.mlp_norm(x) if self.mlp is None else self.mlp.add_to(x, self.mlp_norm)

    def step(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        """One token, x (B, width)."""
        return self.add_mlp(x + self.mixer.step(self.mixer_norm(x), state, step))

    def lean_step(self) -> Callable[[Tensor, LayerState, Step], None]:
        """`step` in few operations, x in place; see `lean`."""
        mixer_norm, mix = lean_norm(self.mixer_norm), self.mixer.lean_step()
        mlp_norm = None if self.mlp_norm is None else lean_norm(self.mlp_norm)
        mlp = None if self.mlp is None else lean_mlp(self.mlp)

        def run(x: Tensor, state: LayerState, step: Step) -> None:
            mix(x, mixer_norm(x), state, step)
            if mlp_norm is not None and mlp is None:
                x.add_(mlp_norm(x))
            elif mlp_norm is not None and mlp is not None:
                mlp(x, mlp_norm(x))

        return run

    def forward(self, x: Tensor, layout: Layout, at: Tensor | None = None) -> Tensor:
        """x (B, T, width), or of the B * T places only those `at` (N,): (N, width)."""
        x = x + self.mixer(self.mixer_norm(x), layout)
        # tokens meet in the mixer alone: what follows is computed of the places that are asked for
        return self.add_mlp(x if at is None else x.flatten(0, 1).index_select(0, at))
