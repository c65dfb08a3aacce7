"""Where a trial's weights come from, if not from its seed: a model that is trained on, whole or through adapters."""

from pydantic import Field

from recallfront.sweeps.base import Frozen


class LoRAConfig(Frozen):
    """Low-rank adapters (arXiv:2106.09685) beside the weights that were there; what is new trains whole."""

    rank: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, ge=1, description="the adapters' product is scaled by alpha / rank")
    targets: tuple[str, ...] = Field(
        default=("qkv", "out"),
        min_length=1,
        description="linear maps that get one, by the ends of their names",
    )


class StartConfig(Frozen):
    """A model to start from; softmax attention in it is replaced by the trial's mixer, all else is kept."""

    folder: str = Field(
        min_length=1, description="a model that was saved here, or one of transformers (LLaMA family, GPT-2)"
    )
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="of its model.safetensors; checked where it is given",
    )
    lora: LoRAConfig | None = Field(default=None, description="train adapters; None trains all weights")
