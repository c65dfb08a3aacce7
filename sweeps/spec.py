"""A sweep as specification: task, space, objectives, search, budget and seeds, checked before anything is computed."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from recallfront.sweeps.base import Frozen, canonical_json, digest
from recallfront.sweeps.space import Block, Knobs, RawBlock, Scalar, architectures, read_blocks, split_knobs
from recallfront.sweeps.trial import (
    MeasurementConfig,
    ResourceConfig,
    TaskConfig,
    TrainingConfig,
    TrialConfig,
)

Metric = Literal[
    "recall",
    "decode_tokens_per_second",
    "prefill_tokens_per_second",
    "train_tokens_per_second",
    "state_bytes",
    "parameters",
]


class Objective(Frozen):
    """One axis of the front."""

    metric: Metric
    direction: Literal["max", "min"] = "max"
    reference: float = Field(
        default=0.0, description="this axis of the point that hypervolume is taken against"
    )

    @model_validator(mode="after")
    def _minimum_has_a_reference(self) -> Self:
        if self.direction == "min" and self.reference <= 0:
            raise ValueError(
                f"reference={self.reference}: objective {self.metric!r} is minimised, so its reference must be a "
                "positive value that is no longer worth having"
            )
        return self

    @property
    def selection_metric(self) -> str:
        """What configurations are compared by; the test split's figure is only reported."""
        return "validation_recall" if self.metric == "recall" else self.metric


class SearchConfig(Frozen):
    """How configurations are chosen."""

    method: Literal["grid", "random", "tpe", "nsga2", "gp"] = "grid"
    trials: int | None = Field(default=None, ge=1, description="configurations to try; a grid tries all")
    seed: int = Field(default=0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _number_of_trials(self) -> Self:
        if self.method != "grid" and self.trials is None:
            raise ValueError(f"trials: must be given with method {self.method!r}")
        if self.method == "grid" and self.trials is not None:
            raise ValueError(f"trials={self.trials}: a grid tries every configuration; leave it out")
        return self


class EarlyStopping(Frozen):
    """Multi-objective successive halving: at each rung only the best by non-dominated rank go on (arXiv:2106.12639)."""

    first_rung_steps: int = Field(ge=1)
    reduction: int = Field(
        default=3, ge=2, description="one in so many goes on, and the steps between rungs grow by it"
    )


class SweepSpec(Frozen):
    """One sweep. Running the same specification again resumes it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="the study")
    description: str = ""
    task: TaskConfig
    model: dict[str, Scalar] = Field(default={}, description="model settings that every block shares")
    space: tuple[RawBlock, ...]
    training: TrainingConfig = TrainingConfig()
    measurement: MeasurementConfig = MeasurementConfig()
    resources: ResourceConfig = ResourceConfig()
    objectives: tuple[Objective, ...] = Field(
        default=(Objective(metric="recall"), Objective(metric="decode_tokens_per_second")), min_length=2
    )
    search: SearchConfig = SearchConfig()
    early_stopping: EarlyStopping | None = None
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    concurrent: int | None = Field(
        default=None, ge=1, description="trials at once; None is what the cluster holds"
    )
    retries: int = Field(default=2, ge=0, description="how often a trial that was lost is run again")
    budget_hours: float | None = Field(
        default=None, gt=0, description="after so long no further trial starts"
    )

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)}: a seed stands there twice")
        metrics = [o.metric for o in self.objectives]
        if len(set(metrics)) < len(metrics):
            raise ValueError(f"objectives={metrics}: a metric stands there twice")
        for block in self.blocks:
            self._check_block(block)
        return self

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        return read_blocks(self.space)

    @cached_property
    def key(self) -> str:
        """The sweep's identity: what is searched and how, without the budget, which may grow from run to run."""
        same_sweep = {
            "description": "",
            "search": self.search.model_copy(update={"trials": None}),
            "concurrent": None,
            "retries": 0,
            "budget_hours": None,
        }
        return digest(canonical_json(self.model_copy(update=same_sweep)))

    def trial(self, block: Block, knobs: Knobs, seed: int) -> TrialConfig:
        """Resolve one configuration.

        Raises:
            ValueError: the configuration is impossible; the message says why.
        """
        model_knobs, training_knobs = split_knobs(knobs)
        model = {"vocab_size": self.task.vocab_size} | self.model | model_knobs
        training = self.training.model_dump() | training_knobs
        try:
            return TrialConfig.model_validate(
                {
                    "model": {"architecture": block.architecture} | model,
                    "task": self.task,
                    "training": training,
                    "measurement": self.measurement,
                    "resources": self.resources,
                    "seed": seed,
                }
            )
        except ValidationError as error:
            raise ValueError(explain(error)) from None

    def grid(self) -> Iterator[tuple[Block, Knobs]]:
        """Every configuration of a grid search, in the order of the specification."""
        for block in self.blocks:
            for knobs in block.corners():
                yield block, knobs

    def _check_block(self, block: Block) -> None:
        unknown = set(self.model) - set(architectures()[block.architecture].model_fields)
        if unknown or "architecture" in self.model:
            key = next(iter(unknown), "architecture")
            raise ValueError(f"model.{key}: architecture {block.architecture!r} has no such setting")
        for key, domain in block.domains.items():
            if self.search.method == "grid" and not isinstance(domain, tuple) and domain.step is None:
                raise ValueError(
                    f"space {block.label}.{key}: a grid needs a list of values, or a range with a step"
                )
        reason = ""
        for knobs in block.sample_corners():
            try:
                self.trial(block, knobs, self.seeds[0])
                return
            except ValueError as error:
                reason = reason or str(error)
        raise ValueError(f"space {block.label}: no configuration is possible: {reason}")


def explain(error: ValidationError) -> str:
    """A validation error in one line: which key, which value, what is allowed."""
    return "; ".join(_explain_one(part, error.title) for part in error.errors()[:3])


def _explain_one(part: Any, title: str) -> str:
    where = ".".join(str(p) for p in part["loc"])
    message = part["msg"].removeprefix("Value error, ")
    if part["type"] == "extra_forbidden":
        allowed = _allowed_keys(SweepSpec if title == "SweepSpec" else TrialConfig, part["loc"])
        return f"{where}: unknown key; allowed: {', '.join(allowed)}" if allowed else f"{where}: unknown key"
    if part["type"] == "missing":
        return f"{where}: is missing"
    if part["type"] == "value_error":
        return f"{where}: {message}" if where else message
    value = repr(part["input"])
    return f"{where}={value if len(value) <= 60 else value[:57] + '...'}: {message[0].lower()}{message[1:]}"


def _allowed_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location[:-1]:
        if isinstance(part, str) and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            candidates = [annotation, *getattr(annotation, "__args__", ())]
            found = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
            if not found:
                return []
            model = found[0]
        elif isinstance(part, str) and part in architectures():
            model = architectures()[part]
    return sorted(model.model_fields)
