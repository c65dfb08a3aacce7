"""How a sweep chooses configurations, which trials it stops, and when it ends."""

from typing import Literal, Self

from pydantic import Field, model_validator

from recallfront.models.configs.frozen import added_field
from recallfront.sweeps.base import Frozen


class SearchConfig(Frozen):
    """How configurations are chosen."""

    method: Literal["grid", "random", "tpe", "nsga2", "gp", "front"] = Field(
        default="grid",
        description="Every configuration in turn, one of Optuna's samplers, or `front`: by the hypervolume that each "
        "second of training is expected to add, recall being modelled and all else known.",
    )
    trials: int | None = Field(
        default=None,
        ge=1,
        description="Number of configurations to try. A grid tries all of them; every other method needs it.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the sampler.")
    startup_trials: int | None = Field(
        default=None,
        ge=1,
        description="Configurations that `tpe`, `gp` and `front` draw at random before they use results; null is 10, "
        "and for `front` a tenth of `trials` if that is less, but at least 3.",
    )
    population: int | None = Field(
        default=None,
        ge=2,
        description="Configurations in a generation of `nsga2`, the first of them drawn at random; null is 16.",
    )
    skip_dominated: bool = Field(
        default=False,
        description="Whether a configuration is not trained if finished ones dominate it even at a recall of 1, or at "
        "that of `training.stop_at`: it is recorded as `dominated` once its throughput is known. `front` always does "
        "so.",
    )
    warm_start: str | None = added_field(
        None,
        min_length=1,
        description="An earlier sweep of the same store, by its study's name or the first digits of its key: `front` "
        "learns from its finished trials from the start. They differ in knobs of the space alone.",
    )

    seeds: Literal["all", "as_needed"] = added_field(
        "all",
        description="Whether a configuration runs with all seeds of the sweep, or with the first, and further ones "
        "only if `front` expects most of them: `trials` then counts trials.",
    )

    @property
    def looks_ahead(self) -> bool:
        """Whether the method knows how much its next trials are expected to add."""
        return self.method == "front"

    @property
    def drawn_at_random(self) -> int | None:
        """How many configurations the method draws before it uses results; None for one that never does."""
        if self.method == "nsga2":
            return self.population or 16
        if self.method not in ("tpe", "gp", "front"):
            return None
        of_few = max(3, (self.trials or 0) // 10) if self.method == "front" else 10
        return self.startup_trials or min(10, of_few)

    @model_validator(mode="after")
    def _settings_of_the_method(self) -> Self:
        for name, methods in (
            ("startup_trials", ("tpe", "gp", "front")),
            ("population", ("nsga2",)),
            ("warm_start", ("front",)),
        ):
            value = getattr(self, name)
            if value is not None and self.method not in methods:
                known = " or ".join(filter(None, (", ".join(methods[:-1]), methods[-1])))
                raise ValueError(f"{name}={value}: it is a setting of method {known}, not of {self.method}")
        return self

    @model_validator(mode="after")
    def _seeds_of_the_method(self) -> Self:
        if self.seeds == "as_needed" and self.method != "front":
            raise ValueError(f"seeds='as_needed': it is a setting of method front, not of {self.method}")
        return self

    @model_validator(mode="after")
    def _number_of_trials(self) -> Self:
        if self.method != "grid" and self.trials is None:
            raise ValueError(f"trials: is missing; method {self.method!r} needs it")
        if self.method == "grid" and self.trials is not None:
            raise ValueError(f"trials={self.trials}: a grid tries every configuration; omit trials")
        return self


class EarlyStopping(Frozen):
    """Successive halving among rivals, which are as good in everything but recall.

    A trial ends at a rung if it is behind them and, by the curves of its architecture's finished trials, cannot become
    better than one of them that has finished.
    """

    first_rung_steps: int = Field(
        ge=1, description="Training steps before the first comparison; must be below `training.steps`."
    )
    reduction: int = Field(
        default=3,
        ge=2,
        description="One rival in this many passes a rung in any case, and each rung has this many times the steps.",
    )
    patience: int | None = added_field(
        None,
        ge=1,
        description="Rungs in a row at which a trial must fail before it is stopped; null is 1.",
    )


class BudgetConfig(Frozen):
    """When a sweep ends before its search does, over all of its runs: no trial starts once one of these is used up."""

    hours: float | None = Field(default=None, gt=0, description="Hours of wall time.")
    device_hours: float | None = Field(
        default=None, gt=0, description="Hours of all trials together, times the devices of each."
    )
    trials: int | None = Field(
        default=None, ge=1, description="Trials that have been run, however they ended."
    )
    training_steps: int | None = Field(
        default=None, ge=1, description="Training steps of all trials together."
    )
    min_gain: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of the hypervolume that the next `gain_trials` trials must be expected to add with method "
        "`front`; with the others, that the last `gain_trials` must have added.",
    )
    gain_trials: int = Field(
        default=20,
        ge=1,
        description="Trials that `min_gain` is about; of the last ones those count that finished or were "
        "pruned.",
    )
