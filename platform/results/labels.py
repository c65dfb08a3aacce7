"""What a trial is called, everywhere: its architecture, the knobs that vary in its sweep, and its seed."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from recallfront.platform.errors import printable
from recallfront.platform.results.knobs import flat_knobs, model_of
from recallfront.platform.results.records import TrialRecord
from recallfront.sweeps.space import Range, Scalar
from recallfront.sweeps.spec import SweepSpec

ALWAYS_TOLD = ("window_size", "feature_dim", "group_size")  # what a sweep explores besides the architecture


def label(architecture: str, knobs: Mapping[str, Scalar], seed: int | None = None) -> str:
    """Architecture, knobs and seed in one line; a knob left to the architecture's own rule is not told."""
    told = [f"{name} {show_knob(value)}" for name, value in knobs.items() if value is not None]
    return printable(" · ".join([architecture, *told, *([] if seed is None else [f"seed {seed}"])]))


def trial_label(trial: TrialRecord, varying: Iterable[str]) -> str:
    """A trial's label, with those of its knobs that vary in its sweep (`varying_knobs`)."""
    return label_of(trial.config, varying)


def label_of(config: Mapping[str, Any], varying: Iterable[str]) -> str:
    """The same of a trial's resolved configuration, or of what an impossible one asked for."""
    knobs = flat_knobs(config)
    own = {name: knobs[name] for name in varying if name in knobs}
    return label(str(model_of(config).get("architecture", "unknown")), own, config.get("seed", 0))


def varying_knobs(trials: Iterable[TrialRecord]) -> tuple[str, ...]:
    """The settings that tell trials of one architecture apart, and what of `ALWAYS_TOLD` varies at all."""
    alike: dict[tuple[Any, ...], list[TrialRecord]] = {}  # trials that have the same settings
    for trial in trials:
        knobs = trial.knobs
        names = tuple(knobs)
        brought = [knobs[name] for name in _bringing(names)]
        alike.setdefault((architecture_of(trial), names, *brought), []).append(trial)
    seen: dict[str, dict[Any, set[str]]] = {}  # name -> trials among which it counts -> values
    for (own, *_), some in alike.items():
        knobs = some[0].knobs
        # a column at a time: a sweep of ten thousand trials has 350,000 settings, of few values
        for name, values in zip(knobs, zip(*(t.knobs.values() for t in some), strict=True), strict=True):
            told = {repr(value) for _, value in set(zip(map(type, values), values, strict=True))}
            seen.setdefault(name, {}).setdefault((own, _brought_by(name, knobs)), set()).update(told)

    def varies(name: str) -> bool:
        within = max(map(len, seen[name].values()))
        return within > 1 or (name in ALWAYS_TOLD and len(set.union(*seen[name].values())) > 1)

    return tuple(filter(varies, seen))


def varying_in(spec: SweepSpec) -> tuple[str, ...]:
    """The same of a sweep without trials: what its specification lets vary."""
    seen: dict[str, dict[str, set[str]]] = {}  # name -> architecture -> values
    for block in spec.blocks:
        for name, domain in block.domains.items():
            values = domain.values() if isinstance(domain, Range) else domain
            seen.setdefault(name, {}).setdefault(block.architecture, set()).update(map(repr, values))
    for block in spec.blocks:
        for name, values_of in seen.items():
            if name not in block.domains and block.architecture in values_of:
                values_of[block.architecture].add("its own")

    def varies(name: str) -> bool:
        within = max(map(len, seen[name].values()))
        return within > 1 or (name in ALWAYS_TOLD and len(set.union(*seen[name].values())) > 1)

    return tuple(filter(varies, seen))


def _brought_by(name: str, knobs: Mapping[str, Scalar]) -> Scalar:
    """The setting that another follows from: a mixer brings its own knobs, a pattern its number of layers."""
    letter, _, knob = name.partition(".")
    if knob and knob != "mixer":
        return knobs.get(f"{letter}.mixer")
    return knobs.get("pattern") if name == "num_layers" else None


@lru_cache(maxsize=64)  # the trials of a sweep have few sets of names
def _bringing(names: tuple[str, ...]) -> tuple[str, ...]:
    """The settings that others follow from: those that `_brought_by` reads."""
    return tuple(name for name in names if name == "pattern" or name.endswith(".mixer"))


def architecture_of(trial: TrialRecord) -> str:
    return printable(str(model_of(trial.config).get("architecture", "unknown")))


def show_knob(value: Scalar, digits: int = 6) -> str:
    """A setting as a person reads it."""
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return "none" if value is None else printable(str(value))
