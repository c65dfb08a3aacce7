"""A sweep as specification: task, space, objectives, search, budget and seeds, checked before anything is computed."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from recallfront.models.configs.explain import explain, told
from recallfront.models.configs.frozen import added_field
from recallfront.sweeps.base import Frozen, SpecError, canonical_json, text_digest
from recallfront.sweeps.claims import Claim
from recallfront.sweeps.objectives import Objective, split_context
from recallfront.sweeps.possible import impossible
from recallfront.sweeps.protocols import PROTOCOLS, ProtocolName
from recallfront.sweeps.search import BudgetConfig, EarlyStopping, SearchConfig
from recallfront.sweeps.space import (
    TRAINING_PREFIX,
    Knobs,
    Range,
    RawBlock,
    Scalar,
    SpaceBlock,
    check_place,
    check_value,
    read_blocks,
    split_knobs,
)
from recallfront.sweeps.speculation import SpeculationConfig
from recallfront.sweeps.start import StartConfig
from recallfront.sweeps.tasks.registry import TaskConfig
from recallfront.sweeps.trial import (
    MeasurementConfig,
    ResourceConfig,
    TrainingConfig,
    TrialConfig,
)

MAY_CHANGE = (  # between two runs of one sweep, beside the search's number of trials
    *("description", "question", "expected_minutes", "claims"),
    *("concurrent", "retries", "budget"),
)
_LARGEST_GRID = 100_000  # trials of one block


def spelt_out(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A specification's JSON as it can be read again: settings of the training that are left out at their defaults
    are written where the protocol would set others.
    """
    protocol = next((own for name, own in PROTOCOLS.items() if name == plain.get("protocol")), None)
    if protocol is None:
        return dict(plain)
    fields = TrainingConfig.model_fields
    defaults = {name: fields[name].default for name in protocol.training}
    return {**plain, "training": defaults | plain.get("training", {})}


class SweepSpec(Frozen):
    """One sweep. Running the same specification again resumes it."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        description="Name of the study; its MLflow experiment has the same name.",
    )
    description: str = Field(default="", description="A note for readers.")
    question: str = Field(default="", description="What a study asks, in one sentence.")
    expected_minutes: float | None = Field(
        default=None, gt=0, description="How long a study takes on the machine that it is made for."
    )
    task: TaskConfig = Field(description="What models train on; required unless `tasks` is given.")
    protocol: ProtocolName | None = added_field(
        None,
        description="A published protocol: settings of models and training that this specification does not name are "
        "those of its authors.",
    )
    model: dict[str, Scalar] = Field(default={}, description="Model settings that all blocks share.")
    space: tuple[RawBlock, ...] = Field(description="What is explored: one block per architecture.")
    training: TrainingConfig = Field(default=TrainingConfig(), description="How each trial is trained.")
    measurement: MeasurementConfig = Field(
        default=MeasurementConfig(), description="How throughput is measured."
    )
    resources: ResourceConfig = Field(
        default=ResourceConfig(), description="What each trial needs of the cluster."
    )
    start: StartConfig | None = Field(
        default=None, description="A pretrained model to start from; without it, weights are random."
    )
    speculation: SpeculationConfig | None = added_field(
        None, description="Speculative decoding of each trained model; without it, none is tried."
    )
    objectives: tuple[Objective, ...] = Field(
        default=(Objective(metric="recall"), Objective(metric="decode_tokens_per_second")),
        min_length=2,
        description="Axes of the front.",
    )
    search: SearchConfig = Field(
        default=SearchConfig(), description="Which configurations are tried, and how many."
    )
    early_stopping: EarlyStopping | None = Field(
        default=None, description="Which trials stop early; without it, all run to their last step."
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        default=(0,), min_length=1, description="Every configuration runs once with each seed."
    )
    concurrent: int | None = Field(
        default=None, ge=1, description="Most trials at once; null is as many as the cluster holds."
    )
    retries: int = Field(default=2, ge=0, description="How many times a lost trial is run again.")
    budget: BudgetConfig = Field(
        default=BudgetConfig(), description="What the sweep may take; without it, its search alone ends it."
    )
    claims: tuple[Claim, ...] = Field(
        default=(),
        description="What is asked of the finished trials; claims can be added to a finished sweep.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_budget(cls, values: Any) -> Any:
        """Refuse the key that hours had before there was a budget; that it is null is told by records of then."""
        if not isinstance(values, Mapping) or "budget_hours" not in values:
            return values
        if (hours := values["budget_hours"]) is not None:
            raise told(("budget_hours",), hours, f"={hours!r}: is now written as budget: {{hours: {hours}}}")
        return {key: value for key, value in values.items() if key != "budget_hours"}

    @model_validator(mode="before")
    @classmethod
    def _knobs_are_in_the_space(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for section in ("model", "training"):
                check_place(section, values.get(section))
        return values

    @model_validator(mode="before")
    @classmethod
    def _training_of_the_protocol(cls, values: Any) -> Any:
        named = values.get("protocol") if isinstance(values, Mapping) else None
        protocol = next((own for name, own in PROTOCOLS.items() if name == named), None)
        given = values.get("training", {}) if protocol else None
        if protocol is None or not isinstance(given, Mapping):
            return values
        return {**values, "training": {**protocol.training, **given}}

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)}: each seed may appear only once")
        metrics = [o.metric for o in self.objectives]
        if len(set(metrics)) < len(metrics):
            raise ValueError(f"objectives={metrics}: each metric may appear only once")
        recalls = [o.metric for o in self.objectives if o.is_on_both_splits]
        if self.search.method == "front" and len(recalls) != 1:
            raise ValueError(
                f"search.method='front': models one recall; the objectives have {', '.join(recalls) or 'none'}"
            )
        lengths = self.task.lengths("validation")
        for objective in self.objectives:
            if objective.length is not None and objective.length not in lengths:
                known = ", ".join(map(str, lengths))
                raise ValueError(
                    f"objectives: metric={objective.metric!r}: task.validation has rows of {known} tokens; recall at a "
                    "length can be an objective if validation has rows of that length"
                )
        self._check_measured()
        self._check_seeds()
        if self.early_stopping and self.early_stopping.first_rung_steps >= self.training.steps:
            raise ValueError(
                f"early_stopping.first_rung_steps={self.early_stopping.first_rung_steps}: must be below "
                f"training.steps={self.training.steps}"
            )
        if self.search.method == "front" and self.training.steps == 0:
            raise ValueError(
                "search.method='front': learns from trials that train; training.steps=0 leaves none"
            )
        if self.early_stopping and not recalls:
            raise ValueError(
                f"early_stopping: stops by recall, which is not among objectives={metrics}; search.skip_dominated ends "
                "trials by what is known before training"
            )
        if self.early_stopping and len(recalls) > 1:
            raise ValueError(
                f"early_stopping: stops by one recall; the objectives have {', '.join(recalls)}: keep one of them"
            )
        for block in self.blocks:
            self._check_block(block)
            self._check_rungs(block)
        self._check_claims()
        return self

    def _check_seeds(self) -> None:
        """Raise ValueError if further seeds are to be chosen and cannot be."""
        if self.search.seeds == "all":
            return
        if len(self.seeds) == 1:
            raise ValueError(f"search.seeds='as_needed': needs several seeds; seeds={list(self.seeds)}")
        if self.early_stopping:
            raise ValueError(
                "search.seeds='as_needed': cannot be combined with early_stopping, which compares configurations by "
                "all seeds"
            )

    def _check_measured(self) -> None:
        """Figures that are objectives have to be measured."""
        protocol = self.measurement
        protocol.check_memory(self.resources)
        for objective in self.objectives:
            name, context = split_context(objective.metric)
            where = f"objectives: metric={objective.metric!r}"
            if context is not None and context not in protocol.contexts:
                raise ValueError(
                    f"{where}: {context} is not among measurement.contexts={list(protocol.contexts)}"
                )
            if name == "max_batch_size" and protocol.batch_size != "max":
                raise ValueError(f"{where}: is measured with measurement.batch_size: max only")
            if name.endswith("_roofline_share") and not protocol.gives_shares:
                raise ValueError(
                    f"{where}: is measured with measurement.roofline: true only, or, if that is null, with contexts or "
                    "batch_size: max"
                )
            if name == "decode_joules_per_token" and not self.resources.gpus:
                raise ValueError(f"{where}: only GPUs report their energy, and resources.gpus=0")

    def check_new(self) -> None:
        """Raise SpecError if no sweep of this specification may begin; one that has begun may be resumed."""
        protocol = self.measurement
        if protocol.batch_size == "max" and protocol.memory_gb is None and self.resources.gpus < 1:
            raise SpecError(
                f"sweep {self.name}: measurement.batch_size='max': with resources.gpus={self.resources.gpus:g} it "
                "needs measurement.memory_gb, as the batch would take the memory of those that share the GPU"
            )

    def _check_claims(self) -> None:
        ids = [claim.id for claim in self.claims]
        if len(set(ids)) < len(ids):
            raise ValueError(f"claims={ids}: each id may appear only once")
        for claim in self.claims:
            claim.check_words(self._words)

    def _check_rungs(self, block: SpaceBlock) -> None:
        """Trials are judged at evaluations: without one between the first rung and the end, none is ever stopped."""
        if self.early_stopping is None:
            return
        first = self.early_stopping.first_rung_steps
        steps = max(self._values(block, "steps"))
        every = min(self._values(block, "evaluate_every"))
        if -(-first // every) * every >= steps:
            raise ValueError(
                f"early_stopping.first_rung_steps={first}: no trial is evaluated between this step and its last "
                f"({steps}), because training.evaluate_every={every}: lower one of them"
            )

    @cached_property
    def blocks(self) -> tuple[SpaceBlock, ...]:
        return read_blocks(self.space)

    @cached_property
    def _words(self) -> dict[str, list[str]]:
        """The architecture, and knobs that every block that has them lists, with the words that each can be."""
        found = {"architecture": list(dict.fromkeys(block.architecture for block in self.blocks))}
        for name in dict.fromkeys(name for block in self.blocks for name in block.domains):
            own = [block.domains.get(name) for block in self.blocks if block.has(name)]
            listed = [value for domain in own if isinstance(domain, tuple) for value in domain]
            words = [value for value in listed if isinstance(value, str)]
            if words and None not in own:
                found[name] = list(dict.fromkeys(words))
        return found

    @cached_property
    def key(self) -> str:
        """The sweep's identity: what is searched and how, without the budget, which may grow from run to run.

        Spellings of one value (3e-3 and 0.003, a scalar and a list of it) are one identity.
        """
        identity = self.model_dump(mode="json", exclude=set(MAY_CHANGE))
        search = identity["search"]
        identity["search"] = {
            k: v for k, v in search.items() if k != "trials" and v is not None and v is not False
        }
        identity["model"] = self._shared_settings(self.blocks[0])
        identity["space"] = [block.model_dump(mode="json", exclude={"label"}) for block in self.blocks]
        return text_digest(canonical_json(identity))

    @property
    def first_seeds(self) -> tuple[int, ...]:
        """The seeds that each configuration runs with; it has finished once they have."""
        return self.seeds if self.search.seeds == "all" else self.seeds[:1]

    @cached_property
    def number_of_trials(self) -> int:
        """How many trials are planned: every configuration with every seed that it is sure to run with."""
        grid = (1 for _ in self.grid()) if self._may_repeat else (block.size for block in self.blocks)
        configurations = self.search.trials or sum(grid)
        return configurations * len(self.first_seeds)

    @property
    def most_steps(self) -> int:
        """Steps of the longest training that there may be."""
        return max(max(self._values(block, "steps")) for block in self.blocks)

    @property
    def notes(self) -> list[str]:
        """What is possible, and hardly meant."""
        search, drawn = self.search, self.search.drawn_at_random
        if drawn is None or search.trials is None or search.trials > drawn:
            return []
        setting = "population" if search.method == "nsga2" else "startup_trials"
        return [
            f"search: {search.method} draws its first {drawn} configurations at random, and trials={search.trials}: "
            f"this is random search; raise search.trials or lower search.{setting}"
        ]

    def trial(self, block: SpaceBlock, knobs: Knobs, seed: int) -> TrialConfig:
        """Resolve one configuration.

        Raises:
            ValueError: the configuration is impossible; the message says why.
        """
        try:
            return TrialConfig.model_validate(
                {
                    **self._settings(block, knobs),
                    "task": self.task,
                    "measurement": self.measurement,
                    "resources": self.resources,
                    "start": self.start,
                    "speculation": self.speculation,
                    "seed": seed,
                }
            )
        except ValidationError as error:
            raise ValueError(explain(error, TrialConfig)) from None

    def grid(self) -> Iterator[tuple[SpaceBlock, Knobs]]:
        """Every configuration of a grid search, in the order of the specification, and once.

        Blocks may overlap, and a hybrid's knobs of a letter that its pattern leaves out set nothing.
        """
        seen = set()
        for block in self.blocks:
            for knobs in block.corners():
                if self._may_repeat:
                    found = self._settings(block, knobs)
                    settings = text_digest(canonical_json(found | {"model": block.filled(found["model"])}))
                    if settings in seen:
                        continue
                    seen.add(settings)
                yield block, knobs

    @property
    def _may_repeat(self) -> bool:
        """Whether the space may give a configuration twice."""
        architectures = {block.architecture for block in self.blocks}
        return len(architectures) < len(self.blocks) or any(block.is_hybrid for block in self.blocks)

    def _settings(self, block: SpaceBlock, knobs: Knobs) -> dict[str, dict[str, Any]]:
        """What is set of the model and of the training."""
        model_knobs, training_knobs = split_knobs(knobs)
        protocol = PROTOCOLS[self.protocol].settings(block.config) if self.protocol else {}
        shared = {"vocab_size": self.task.vocab_size} | protocol | self.model
        return {
            "model": block.settings(shared, model_knobs),
            "training": self.training.model_dump() | training_knobs,
        }

    def _check_block(self, block: SpaceBlock) -> None:
        self._shared_settings(block)
        where = f"space[{self.blocks.index(block)}]"
        block.check_letters(self.model, where)
        for key, domain in block.domains.items():
            if self.search.method == "grid" and not isinstance(domain, tuple) and domain.step is None:
                raise ValueError(f"{where}.{key}: a grid needs a list of values, or a range with a step")
        if self.search.method == "grid" and block.size > _LARGEST_GRID:
            raise ValueError(f"{where}: a grid of {block.size} trials; at most {_LARGEST_GRID}")

        def failure(knobs: Knobs) -> str | None:
            try:
                self.trial(block, knobs, self.seeds[0])
            except ValueError as error:
                return str(error)
            return None

        reason = impossible(block.samples(), failure)
        if reason is not None and not block.is_sampled:
            raise ValueError(f"{where}: no configuration is possible: {reason}")

    def _values(self, block: SpaceBlock, setting: str) -> list[int]:
        """What a setting of the training, a whole number, may be in a block."""
        domain = block.domains.get(f"{TRAINING_PREFIX}{setting}")
        if domain is None:
            return [getattr(self.training, setting)]
        return [int(value or 0) for value in (domain.values() if isinstance(domain, Range) else domain)]

    def _shared_settings(self, block: SpaceBlock) -> Knobs:
        """The settings under `model` as an architecture takes them."""
        return {
            key: check_value(block.config, key, value, where=f"model.{key}")
            for key, value in self.model.items()
        }
