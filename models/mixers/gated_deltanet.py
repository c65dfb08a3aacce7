"""Gated DeltaNet (arXiv:2412.06464) as a mixer."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from recallfront.models.mixers.matrix_state import DeltaRule, MatrixStateConfig, SelectiveDecay


class GatedDeltaNetConfig(MatrixStateConfig):
    """Gated DeltaNet (arXiv:2412.06464): the delta rule; the input gives one decay per head."""

    state_passes: ClassVar[int] = 4

    mixer: Literal["gated_deltanet"] = "gated_deltanet"
    value_expansion: int = Field(
        default=2, ge=1, description="Width of all heads' values together over the model's width."
    )
    conv_size: int = Field(
        default=4, ge=1, description="Taps of the convolution after the projections; 1 is none."
    )

    def build(self) -> "GatedDeltaNet":
        return GatedDeltaNet(self)

    def decay_matrix(self) -> int:
        return 2 * self.width * self.num_heads  # the decay and beta

    def vectors(self) -> int:
        return 2 * self.num_heads


class GatedDeltaNet(DeltaRule):
    """The delta rule on a matrix that decays."""

    def __init__(self, config: GatedDeltaNetConfig) -> None:
        super().__init__(config)
        self.selective = SelectiveDecay(config.width, config.num_heads)

    def decay(self, x: Tensor) -> Tensor:
        log_decay: Tensor = self.selective(x)[0]
        return log_decay
