"""What a sequence mixer offers, and how one is added.

A mixer is one file of this folder, called as the mixer is, and holds two classes:

- a configuration, derived from `MixerConfig` (recallfront.models.configs.mixer). It is a frozen pydantic model: its
  field `mixer: Literal["mine"] = "mine"` names the mixer, `letter` is what stands for it in a pattern, and its other
  fields are the knobs, each with a default and a `description`. `width`, `num_heads`, `num_layers`, `biases`,
  `rope_theta`, `head_dim` and `out_scale` of the model are at hand. Its methods describe the mixer: `build` (the
  module), `parameters`, `matrix_entries`, `mixing_flops`, `state_elements`, and, if it has something to say,
  `product_flops`, `materialised_state_elements`, `resized`, `projection`, `keeping`, ... Checks across knobs are
  pydantic validators.
- the module, derived from `Mixer` below, made from that configuration; its parameters belong to modules that are
  `Drawn` (recallfront.models.parts.layers), which draw them from the model's generator.

Nothing else changes: `{architecture: mine}` is the mixer after short convolutions, `{architecture: hybrid, mixers: {M:
{mixer: mine}}, pattern: CM}` puts it beside others, and accounting, linearizing, benchmarks and trials ask the
configuration. The lists that tests keep by name are in CONTRIBUTING.md. A mixer whose heads carry a matrix derives from
the classes in `matrix_state`. `registry.register` adds a mixer of another package.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from recallfront.models.parts.draft_tree import Branches
from recallfront.models.parts.lean import MixerStep
from recallfront.models.parts.state import Block, LayerState, Layout, Step


class Mixer(nn.Module, ABC):
    """Mixes tokens over time: the same map for training, for a block that continues from a state, and for one
    token.
    """

    @abstractmethod
    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """x (B, T, width) -> (B, T, width), each token from itself and those before it in its document."""

    @abstractmethod
    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> LayerState:
        """The state before the first token."""

    @abstractmethod
    def extend(self, x: Tensor, state: LayerState, block: Block) -> Tensor:
        """As `forward`, continuing from `state`, which is brought up to the end of the block."""

    @abstractmethod
    def step(self, x: Tensor, state: LayerState, step: Step) -> Tensor:
        """One token: x (B, width) -> (B, width); `state` is brought up to date."""

    def lean_step(self) -> MixerStep:
        """`step` with its weights at hand, in few operations if the mixer has such a form: added to the residual."""

        def run(residual: Tensor, x: Tensor, state: LayerState, step: Step) -> None:
            with torch.inference_mode(False), torch.no_grad():  # a state may be replaced
                mixed = self.step(x, state, step)
            residual.add_(mixed)

        return run

    can_branch: ClassVar[bool] = False  # whether `branch` and `follow` work: a draft tree is read in one pass

    def branch(self, x: Tensor, state: LayerState, branches: Branches) -> tuple[Tensor, LayerState]:
        """x (B, N, width) of the nodes of a draft tree, each continuing from its own ancestors; `state` stays.

        Returns the result (B, N, width), and what each node would leave in the state, tensors (B, N, ...).
        """
        raise NotImplementedError

    def follow(self, left: LayerState, state: LayerState, block: Block) -> None:
        """Bring `state` up to the end of a block that is a path of a tree: `left` (B, T, ...) is what `branch` says
        that its nodes leave.
        """
        raise NotImplementedError

    def reserve(self, state: LayerState, tokens: int) -> None:  # noqa: B027
        """Make room for so many tokens a row, if the state grows, so that its tensors stay in their places."""

    def live(self, state: LayerState, length: int) -> list[Tensor]:
        """The part of the state that must survive to the next step after `length` tokens."""
        return list(state.values())
