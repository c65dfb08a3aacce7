"""DeltaNet (arXiv:2406.06484) as a mixer."""

from typing import ClassVar, Literal

from pydantic import Field

from recallfront.models.mixers.matrix_state import DeltaRule, MatrixStateConfig


class DeltaNetConfig(MatrixStateConfig):
    """DeltaNet (arXiv:2406.06484): the delta rule without decay."""

    is_gated: ClassVar[bool] = False

    mixer: Literal["deltanet"] = "deltanet"
    conv_size: int = Field(
        default=4, ge=1, description="Taps of the convolution after the projections; 1 is none."
    )

    def build(self) -> DeltaRule:
        return DeltaRule(self)

    def decay_matrix(self) -> int:
        return self.width * self.num_heads  # beta
