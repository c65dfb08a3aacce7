"""A trial as configuration: everything that determines its result, and the key that names it."""

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from recallfront.models import Architecture, ModelConfig
from recallfront.models.configs.explain import explain, shown, told
from recallfront.models.configs.frozen import added_field
from recallfront.models.configs.mixer import MOST_LAYERS
from recallfront.sweeps.base import Frozen, canonical_json, text_digest
from recallfront.sweeps.speculation import SpeculationConfig
from recallfront.sweeps.start import StartConfig
from recallfront.sweeps.tasks.registry import TaskConfig

_MOST_ROWS = 2**24
_ROWS = 8  # that are prefilled together if the largest batch decodes
Decay = Annotated[float, Field(ge=0, lt=1)]  # of a running mean


class StopAtConfig(Frozen):
    """When a trial is solved: it then ends as finished, before its last step."""

    recall: float = Field(gt=0, le=1, description="Validation recall at which a trial is finished.")


class PlateauConfig(Frozen):
    """When a trial has stopped learning: it then ends as finished, before its last step.

    That is so when over a number of evaluations neither the best validation recall has risen by `min_gain` nor the
    best validation loss has fallen by that share of itself: while recall is still flat, the loss shows what is coming.
    """

    evaluations: int = Field(ge=2, description="Evaluations in a row without a gain.")
    min_gain: float = Field(
        default=0.005,
        gt=0,
        lt=1,
        description="Least gain of recall, and least share by which the loss falls.",
    )


class TrainingConfig(Frozen):
    """How a trial is trained: the settings of its DeepSpeed engine and its AdamW optimizer."""

    steps: int = Field(
        default=1000,
        ge=0,
        le=10**9,
        description="Optimizer steps; 0 evaluates the model as it starts, such as a pretrained one.",
    )
    batch_size: int = Field(
        default=64,
        ge=1,
        le=2**24,
        description="Rows per optimizer step, over all workers; a multiple of accumulation x workers.",
    )
    accumulation: int = Field(default=1, ge=1, description="Micro-batches per optimizer step.")
    learning_rate: float = Field(default=3e-3, gt=0, description="Peak learning rate.")
    min_learning_rate_ratio: float = Field(
        default=0.0, ge=0, le=1, description="Learning rate at the last step, as a share of the peak."
    )
    schedule: Literal["constant", "cosine", "cosine_by_epoch"] = Field(
        default="cosine",
        description="Course of the learning rate after the warm-up; `cosine_by_epoch` keeps it within an epoch, and "
        "has no warm-up.",
    )
    warmup_steps: int = Field(
        default=0, ge=0, description="Steps over which the learning rate rises linearly to its peak."
    )
    weight_decay: float = Field(default=0.1, ge=0, description="Decoupled weight decay.")
    decayed: Literal["matrices", "all"] = added_field(
        "matrices",
        description="What `weight_decay` is applied to: norms, biases and other vectors too if `all`.",
    )
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.999), description="Decays of the two moments.")
    gradient_clipping: float = Field(
        default=1.0, ge=0, description="Largest norm of a gradient; 0 turns clipping off."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Precision of forward and backward passes."
    )
    row_order: Literal["shuffled", "given"] = added_field(
        "shuffled",
        description="Order of the rows in each epoch; `given` keeps that of the segments and of their rows, and trains "
        "on their last rows too if they fill no batch.",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=0, description="DeepSpeed ZeRO stage: what the workers of a trial shard."
    )
    evaluate_every: int = Field(
        default=100, ge=1, description="Steps between evaluations; early stopping compares trials at these."
    )
    evaluation_batch_size: int = Field(
        default=256,
        ge=1,
        description="Rows per evaluation batch; fewer of packed documents in rows of more than 1,024 tokens.",
    )
    recall_over: Literal["positions", "rows", "answers", "classes"] = added_field(
        "positions",
        description="What recall is the mean of: labelled positions; the shares of rows, as zoology counts; rows that "
        "are right as a whole, as greedy decoding answers them; or the shares of labels and predictions within an "
        "evaluation batch, as MAD counts.",
    )
    checkpoint_seconds: float = Field(
        default=20.0, ge=0, description="Least time between two checkpoints, in seconds."
    )
    stop_at: StopAtConfig | None = added_field(
        None,
        description="Ends a trial that is solved; it counts as finished. Part of a trial's identity if set.",
    )
    plateau: PlateauConfig | None = added_field(
        None,
        description="Ends a trial that has stopped learning; it counts as finished. Part of a trial's identity if set.",
    )

    graph: bool = added_field(
        False,
        description="Whether training steps are captured as CUDA graphs: a small model's GPU waits for launches. "
        "Needs one worker with a GPU, ZeRO 0, float32, accumulation 1 and a model without dropout.",
    )

    @model_validator(mode="after")
    def _graph_can_hold(self) -> Self:
        for name, needed in (("zero_stage", 0), ("precision", "float32"), ("accumulation", 1)):
            value = getattr(self, name)
            if self.graph and value != needed:
                raise ValueError(f"graph=true: needs {name}={needed}, not {value}")
        return self

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Self:
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps}: must be at most steps={self.steps}")
        if self.warmup_steps and self.schedule == "cosine_by_epoch":
            raise ValueError(f"warmup_steps={self.warmup_steps}: must be 0 with schedule='cosine_by_epoch'")
        return self


def _rows_or_max(value: Any) -> Any:
    """Raise ValidationError for what is neither: of a union pydantic would tell why it is none of the two."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value != "max" and not (is_number and 1 <= value <= _MOST_ROWS and value == int(value)):
        raise told((), value, f"={shown(value)}: must be a number of rows from 1 to {_MOST_ROWS}, or 'max'")
    return value


class DeploymentConfig(Frozen):
    """The model size at which throughput is measured; null keeps the trial's own.

    Small models are launch-bound: their throughput says nothing about the architecture.
    """

    width: int | None = Field(default=None, ge=1, description="Width of the measured model.")
    num_layers: int | None = Field(
        default=None, ge=1, le=MOST_LAYERS, description="Its number of layers; the pattern is repeated."
    )
    num_heads: int | None = Field(default=None, ge=1, description="Its number of heads.")


class MeasurementConfig(Frozen):
    """The protocol of a throughput measurement."""

    deployment: DeploymentConfig = Field(
        default=DeploymentConfig(), description="Size of the model that is measured."
    )
    batch_size: Annotated[
        Annotated[int, Field(ge=1, le=_MOST_ROWS)] | Literal["max"], BeforeValidator(_rows_or_max)
    ] = Field(
        default=8,
        description="Rows that are prefilled or decoded together; `max` decodes the largest batch that fits the "
        "device's memory, all rows at the end of one prompt, and prefills 8.",
    )
    memory_gb: float | None = added_field(
        None,
        gt=0,
        description="Memory of `batch_size: max`, weights included, in GiB; null is the GPU's own; a CPU, or a "
        "share of a GPU, needs a number.",
    )
    context_length: int = Field(
        default=512, ge=1, description="Tokens that are prefilled, and held when decoding starts."
    )
    contexts: tuple[Annotated[int, Field(ge=1, le=2**24)], ...] = added_field(
        (),
        description="Contexts at which prefill and decoding are measured as well: each figure is then also reported "
        "as `<metric>_at_<context>`.",
    )
    decode_tokens: int = Field(default=32, ge=1, le=2**24, description="Decode steps per repeat.")
    train_length: int = Field(default=256, ge=1, le=2**24, description="Tokens per row of a training step.")
    repeats: int = Field(default=5, ge=3, description="Interleaved repeats; the medians are reported.")
    max_repeats: int = Field(
        default=15,
        ge=3,
        description="Most repeats, as long as the spread is above the target. If it is above `repeats`, a measurement "
        "waits up to 2 s for its cores to be idle, and one that misses the target or ran beside other work is made "
        "once more after the trials, and when the sweep is run again.",
    )
    target_spread: float = Field(
        default=0.03, gt=0, description="Spread to reach: half the p20..p80 width over the median."
    )

    also: (
        tuple[
            Literal["decode_tokens_per_second", "prefill_tokens_per_second", "train_tokens_per_second"], ...
        ]
        | None
    ) = added_field(
        None,
        description="Throughputs that are measured although they are not objectives, at every context; null is all. An "
        "empty list saves their time.",
    )
    roofline: bool | None = added_field(
        None,
        description="Whether throughputs are also given as shares of what the device allows: bytes of weights and "
        "state over its measured copy bandwidth, operations over its measured matrix rate. Null is yes with `contexts` "
        "or `batch_size: max`.",
    )

    @property
    def rows(self) -> int:
        """Rows that are prefilled and trained on together."""
        return _ROWS if self.batch_size == "max" else self.batch_size

    @property
    def gives_shares(self) -> bool:
        """Whether throughputs are also given as shares of the roofline."""
        return bool(self.contexts or self.batch_size == "max") if self.roofline is None else self.roofline

    @property
    def longest(self) -> int:
        """Tokens of the longest text that is measured."""
        return max(max(self.context_length, *self.contexts, 0) + self.decode_tokens, self.train_length)

    def check_memory(self, resources: "ResourceConfig") -> None:
        """Raise ValueError unless the largest batch has a bound."""
        if self.batch_size != "max":
            if self.memory_gb is not None:
                raise ValueError(
                    f"measurement.memory_gb={self.memory_gb:g}: is a setting of batch_size: max, "
                    f"and batch_size={self.batch_size}"
                )
            return
        if self.memory_gb is None and not resources.gpus:
            raise ValueError(
                "measurement.batch_size='max': on a CPU it needs measurement.memory_gb, "
                "the memory that the batch may take"
            )
        limit = resources.memory_gb
        if (
            self.memory_gb is not None
            and limit is not None
            and not resources.gpus
            and self.memory_gb >= limit
        ):
            raise ValueError(
                f"measurement.memory_gb={self.memory_gb:g}: must be below resources.memory_gb={limit:g}, "
                "which also holds all else of the trial"
            )

    @model_validator(mode="after")
    def _contexts_differ(self) -> Self:
        if len(set(self.contexts)) < len(self.contexts):
            raise ValueError(f"contexts={list(self.contexts)}: each context may appear only once")
        return self

    @model_validator(mode="after")
    def _repeats_in_order(self) -> Self:
        if self.max_repeats < self.repeats:
            raise ValueError(f"max_repeats={self.max_repeats}: must be at least repeats={self.repeats}")
        return self


class ResourceConfig(Frozen):
    """What one trial needs of the cluster."""

    workers: int = Field(default=1, ge=1, description="DeepSpeed ranks; several are Ray Train workers.")
    cpus: float = Field(default=1.0, gt=0, description="CPU cores per worker.")
    gpus: float = Field(default=0.0, ge=0, description="GPUs per worker; a fraction only with one worker.")
    memory_gb: float | None = Field(
        default=None,
        gt=0,
        description="Memory that a trial may allocate, in GiB; beyond it the trial ends as `out_of_memory`.",
    )
    time_limit_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Limit on training and evaluation; measuring, speculation, waiting, fetching and keeping files do "
        "not count.",
    )

    placement: Literal["PACK", "SPREAD"] = added_field(
        "PACK",
        description="Where a trial's workers go: `PACK` on as few nodes as possible, `SPREAD` on as many.",
    )

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.workers > 1 and self.gpus % 1:
            raise ValueError(
                f"gpus={self.gpus}: must be a whole number with workers={self.workers}, "
                "because NCCL ranks cannot share a device"
            )
        if self.gpus > 1 and self.gpus % 1:
            raise ValueError(
                f"gpus={self.gpus}: must be a whole number above 1, because Ray shares one GPU alone"
            )
        return self

    @property
    def threads(self) -> int:
        """Compute threads of one worker."""
        return max(1, int(self.cpus))


class TrialConfig(Frozen):
    """One fully resolved configuration."""

    model: ModelConfig
    task: TaskConfig
    training: TrainingConfig = TrainingConfig()
    measurement: MeasurementConfig = MeasurementConfig()
    resources: ResourceConfig = ResourceConfig()
    start: StartConfig | None = None
    speculation: SpeculationConfig | None = added_field(None)
    seed: int = Field(default=0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.model.vocab_size != self.task.vocab_size:
            raise ValueError(
                f"model.vocab_size={self.model.vocab_size}: must equal task.vocab_size={self.task.vocab_size}"
            )
        for _, mixer, _ in self.model.mixers_used:
            mixer.check_longest(self.task.longest)
        rows = self.model.learned_positions
        longest = max(self.task.longest, self.measurement.longest)
        if self.speculation is not None:
            self.speculation.check_fits(
                self.resources.workers,
                self.training.zero_stage,
                row=self.task.prompt_room,
                train_row=self.task.lengths("train")[0],
            )
            self.task.check_training()
            longest = max(longest, self.speculation.longest)
        if 0 < rows < longest:
            raise ValueError(
                f"learned_positions={rows}: must be at least {longest}, the longest measured text"
            )
        self.measurement.check_memory(self.resources)
        if self.training.steps:
            self.task.check_training()
        if self.training.graph:
            self._check_graph()
        try:
            _ = self.deployment_model
        except ValidationError as error:
            raise ValueError(f"measurement.deployment: {explain(error, Architecture)}") from None
        share = self.training.accumulation * self.resources.workers
        if self.training.batch_size % share:
            raise ValueError(
                f"training.batch_size={self.training.batch_size}: must be a multiple of "
                f"accumulation x workers = {share}"
            )
        return self

    def _check_graph(self) -> None:
        """Raise ValueError unless a training step can be one CUDA graph."""
        asked = self.resources
        if asked.workers > 1 or not asked.gpus:
            raise ValueError(
                "training.graph=true: needs one worker with a GPU, "
                f"not resources.workers={asked.workers} with resources.gpus={asked.gpus:g}"
            )
        if self.model.drops:
            raise ValueError(
                "training.graph=true: needs a model without dropout, whose draws a graph repeats"
            )
        if self.task.restarts:
            raise ValueError(
                "training.graph=true: needs task.restart_positions=false: a graph asks nothing of positions"
            )

    @cached_property
    def deployment_model(self) -> ModelConfig:
        """The model whose throughput is measured: the trial's architecture and knobs, at the deployment's size."""
        size = self.measurement.deployment.model_dump(exclude_none=True)
        return self.model.resized(**size) if size else self.model

    @cached_property
    def key(self) -> str:
        """sha256 of the canonical JSON: the trial's identity."""
        return text_digest(canonical_json(self))

    @cached_property
    def configuration_key(self) -> str:
        """The same without the seed: what trials that differ in their seed alone share."""
        return text_digest(canonical_json(self.model_copy(update={"seed": 0})))
