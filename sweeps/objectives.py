"""The objectives of a sweep: which metrics the front may be made of (`platform/metrics.py` says how they are shown)."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from recallfront.models.configs.explain import near_first, shown, told
from recallfront.sweeps.base import Frozen

ObjectiveMetric = Literal[
    "recall",
    "decode_tokens_per_second",
    "prefill_tokens_per_second",
    "train_tokens_per_second",
    "state_bytes",
    "parameters",
    "max_batch_size",
    "time_to_first_token_p50_ms",
    "time_to_first_token_p95_ms",
    "time_between_tokens_p50_ms",
    "time_between_tokens_p95_ms",
    "decode_roofline_share",
    "prefill_roofline_share",
    "train_roofline_share",
    "decode_joules_per_token",
]
# Of these a trial has a figure for each of `measurement.contexts`, called `<metric>_at_<context>`.
AT_CONTEXTS: Final = (
    "decode_tokens_per_second",
    "prefill_tokens_per_second",
    "state_bytes",
    "max_batch_size",
    "time_to_first_token_p50_ms",
    "time_to_first_token_p95_ms",
    "time_between_tokens_p50_ms",
    "time_between_tokens_p95_ms",
    "decode_roofline_share",
    "prefill_roofline_share",
    "decode_joules_per_token",
)
# Of these a trial has the test split's figure under the plain name, and the validation split's as `validation_...`.
ON_BOTH_SPLITS: Final = ("recall",)
_AT: Final = "recall_at_"  # of rows of so many tokens
_TOKENS: Final = "[1-9][0-9]{0,8}"  # no text is longer, and Python reads no number of thousands of digits
_RECALL_AT_LENGTH: Final = rf"^{_AT}{_TOKENS}$"
_AT_CONTEXT: Final = rf"^({'|'.join(AT_CONTEXTS)})_at_{_TOKENS}$"


def at_context(name: str, context: int) -> str:
    """What a metric is called where it is measured at one of several contexts, of so many tokens."""
    return f"{name}_at_{context}"


def split_context(name: str) -> tuple[str, int | None]:
    """A metric of a measurement, and its context if it is that of one of several: `at_context` the other way round."""
    found = re.fullmatch(_AT_CONTEXT, name)
    return (found[1], int(name.rpartition("_")[2])) if found else (name, None)


def _known(name: str) -> str:
    """Raise ValidationError unless a metric of this name can be an objective."""
    families = (_RECALL_AT_LENGTH, _AT_CONTEXT)
    if name not in get_args(ObjectiveMetric) and not any(re.fullmatch(own, name) for own in families):
        at = (f"{known}_at_<context>" for known in AT_CONTEXTS)
        allowed = near_first(name, (*get_args(ObjectiveMetric), f"{_AT}<length>", *at))
        raise told((), name, f"={shown(name)}: must be one of {allowed}")
    return name


_NAMES: Final = {
    "anyOf": [
        {"enum": list(get_args(ObjectiveMetric))},
        {"pattern": _RECALL_AT_LENGTH},
        {"pattern": _AT_CONTEXT},
    ],
    "type": "string",
}


class Objective(Frozen):
    """One axis of the front."""

    metric: Annotated[str, AfterValidator(_known), WithJsonSchema(_NAMES)] = Field(
        description="What is compared; recall is that of the validation split, `recall_at_<length>` of its rows of one "
        "length; `decode_tokens_per_second_at_<context>` and its like are those of one of `measurement.contexts`."
    )
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
        return f"validation_{self.metric}" if self.is_on_both_splits else self.metric

    @property
    def is_on_both_splits(self) -> bool:
        """Whether a trial has the metric of the validation and of the test split."""
        return self.metric in ON_BOTH_SPLITS or self.length is not None

    @property
    def length(self) -> int | None:
        """Of recall at one length of rows, that length."""
        return int(self.metric.removeprefix(_AT)) if self.metric.startswith(_AT) else None

    @property
    def context(self) -> int | None:
        """Of a figure that is measured at several contexts, its context."""
        return split_context(self.metric)[1]

    @property
    def sign(self) -> float:
        """What turns a value into one to be maximised."""
        return 1.0 if self.direction == "max" else -1.0


def has_all(objectives: Iterable[Objective], figures: Mapping[str, float]) -> bool:
    """Whether a trial's figures tell every objective: a store may have refused or lost one."""
    return all(objective.reading in figures for objective in objectives)
