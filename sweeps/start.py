"""The model that a trial starts from instead of random weights, trained whole or through adapters."""

from pydantic import Field

from recallfront.sweeps.base import Frozen


class LoRAConfig(Frozen):
    """Low-rank adapters (arXiv:2106.09685) beside the pretrained weights; new weights are trained in full."""

    rank: int = Field(default=8, ge=1, description="Rank of each adapter.")
    alpha: int = Field(default=16, ge=1, description="Each adapter's product is scaled by alpha / rank.")
    targets: tuple[str, ...] = Field(
        default=("qkv", "out"),
        min_length=1,
        description="Linear maps that get an adapter, by the ends of their names.",
    )


class StartConfig(Frozen):
    """A model to start from; the trial's mixer replaces its softmax attention, and everything else is kept."""

    folder: str = Field(
        min_length=1,
        description="Folder of a model saved by recallfront, or by transformers (LLaMA family, GPT-2). A relative path "
        "is below the folder that the command is run in.",
    )
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="sha256 of its model.safetensors; checked if given.",
    )
    lora: LoRAConfig | None = Field(default=None, description="Adapters to train; null trains all weights.")
