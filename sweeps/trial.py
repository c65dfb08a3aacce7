"""A trial as configuration: everything that determines its result, and the key that names it."""

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from recallfront.models import Architecture, ModelConfig
from recallfront.models.configs.explain import explain
from recallfront.sweeps.base import Frozen, canonical_json, digest
from recallfront.sweeps.start import StartConfig
from recallfront.sweeps.tasks.mqar import MQARConfig

TaskConfig = MQARConfig  # a union, discriminated by `name`, as soon as there is a second task


Decay = Annotated[float, Field(ge=0, lt=1)]  # of a running mean


class TrainingConfig(Frozen):
    """How a trial is trained; the settings that a DeepSpeed engine and its optimizer get."""

    steps: int = Field(default=1000, ge=1, le=10**9)
    batch_size: int = Field(
        default=64, ge=1, le=2**24, description="rows an optimizer step, over all workers"
    )
    accumulation: int = Field(default=1, ge=1, description="micro-batches an optimizer step")
    learning_rate: float = Field(default=3e-3, gt=0)
    min_learning_rate_ratio: float = Field(
        default=0.0, ge=0, le=1, description="of the peak, at the last step"
    )
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.1, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    gradient_clipping: float = Field(default=1.0, ge=0, description="largest gradient norm; 0 is no clipping")
    precision: Literal["float32", "bfloat16"] = "float32"
    zero_stage: Literal[0, 1, 2, 3] = 0
    evaluate_every: int = Field(
        default=100, ge=1, description="steps between evaluations, the rungs of pruning"
    )
    evaluation_batch_size: int = Field(default=256, ge=1)
    checkpoint_seconds: float = Field(default=20.0, ge=0, description="least time between two checkpoints")

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Self:
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps}: must be at most steps={self.steps}")
        return self


class DeploymentConfig(Frozen):
    """The model size at which throughput is measured; None keeps the trial's own.

    Small models are launch-bound: their throughput says nothing about the architecture.
    """

    width: int | None = Field(default=None, ge=1)
    num_layers: int | None = Field(default=None, ge=1)
    num_heads: int | None = Field(default=None, ge=1)


class MeasurementConfig(Frozen):
    """The protocol of a throughput measurement."""

    deployment: DeploymentConfig = DeploymentConfig()
    batch_size: int = Field(
        default=8, ge=1, le=2**24, description="rows that are decoded or prefilled at once"
    )
    context_length: int = Field(
        default=512, ge=1, description="tokens prefilled, and held when decoding starts"
    )
    decode_tokens: int = Field(default=32, ge=1, le=2**24, description="decode steps a repeat")
    train_length: int = Field(default=256, ge=1, le=2**24, description="tokens a row in a training step")
    repeats: int = Field(default=5, ge=3, description="interleaved repeats; medians are reported")
    max_repeats: int = Field(
        default=15, ge=3, description="at most so many, while the spread is above the target"
    )
    target_spread: float = Field(default=0.03, gt=0, description="half the p20..p80 width over the median")

    @model_validator(mode="after")
    def _repeats_in_order(self) -> Self:
        if self.max_repeats < self.repeats:
            raise ValueError(f"max_repeats={self.max_repeats}: must be at least repeats={self.repeats}")
        return self


class ResourceConfig(Frozen):
    """What one trial asks of the cluster."""

    workers: int = Field(default=1, ge=1, description="DeepSpeed ranks; above 1 they are Ray Train workers")
    cpus: float = Field(default=1.0, gt=0, description="CPU cores a worker")
    gpus: float = Field(default=0.0, ge=0, description="GPUs a worker; a fraction only with one worker")
    memory_gb: float | None = Field(
        default=None, gt=0, description="least memory that a trial may not exceed"
    )
    time_limit_seconds: float | None = Field(
        default=None,
        gt=0,
        description="of training and evaluation; measuring, and waiting while others measure, do not count",
    )

    @model_validator(mode="after")
    def _whole_gpus_for_several_workers(self) -> Self:
        if self.workers > 1 and self.gpus % 1:
            raise ValueError(
                f"gpus={self.gpus}: must be whole with workers={self.workers}: NCCL ranks share no device"
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
    seed: int = Field(default=0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.model.vocab_size != self.task.vocab_size:
            raise ValueError(
                f"model.vocab_size={self.model.vocab_size}: must equal task.vocab_size={self.task.vocab_size}"
            )
        window = getattr(self.model, "window_size", None)
        if window is not None and window > self.task.longest:
            raise ValueError(
                f"window_size={window}: longer than the task's longest row of {self.task.longest} tokens"
            )
        rows, measured = self.model.learned_positions, self.measurement
        longest = max(
            self.task.longest, measured.context_length + measured.decode_tokens, measured.train_length
        )
        if 0 < rows < longest:
            raise ValueError(
                f"learned_positions={rows}: must be at least {longest}, the longest measured text"
            )
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

    @cached_property
    def deployment_model(self) -> ModelConfig:
        """The model whose throughput is measured: the trial's architecture and knobs, at the deployment's size."""
        size = self.measurement.deployment.model_dump(exclude_none=True)
        return self.model.resized(**size) if size else self.model

    @cached_property
    def key(self) -> str:
        """sha256 of the canonical JSON: the trial's identity."""
        return digest(canonical_json(self))

    @cached_property
    def configuration_key(self) -> str:
        """The same without the seed: what trials that differ in their seed alone share."""
        return digest(canonical_json(self.model_copy(update={"seed": 0})))
