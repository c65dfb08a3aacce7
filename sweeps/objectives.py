"""The objectives of a sweep: which metrics the front may be made of (`platform/metrics.py` says how they are shown)."""

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from recallfront.sweeps.base import Frozen

ObjectiveMetric = Literal[
    "recall",
    "decode_tokens_per_second",
    "prefill_tokens_per_second",
    "train_tokens_per_second",
    "state_bytes",
    "parameters",
]
# Of these a trial has the test split's figure under the plain name, and the validation split's as `validation_...`.
ON_BOTH_SPLITS: Final = ("recall",)


class Objective(Frozen):
    """One axis of the front."""

    metric: ObjectiveMetric = Field(description="What is compared; recall is that of the validation split.")
    direction: Literal["max", "min"] = Field(
        default="max", description="Whether more or less of the metric is better."
    )
    reference: float = Field(
        default=0.0,
        description="This axis of the reference point of the hypervolume; a minimised metric needs a positive one.",
    )

    @model_validator(mode="after")
    def _minimum_has_a_reference(self) -> Self:
        if self.direction == "min" and self.reference <= 0:
            raise ValueError(
                f"reference={self.reference}: objective {self.metric!r} is minimised, so its reference must be "
                "positive: the value from which on it no longer counts"
            )
        return self

    @property
    def reading(self) -> str:
        """The metric that configurations are compared by: the test split's figures are only reported."""
        return f"validation_{self.metric}" if self.metric in ON_BOTH_SPLITS else self.metric

    @property
    def sign(self) -> float:
        """What turns a value into one to be maximised."""
        return 1.0 if self.direction == "max" else -1.0
