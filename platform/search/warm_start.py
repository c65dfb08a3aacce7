"""What an earlier sweep says of a new one's space."""

from collections import Counter
from dataclasses import dataclass

from recallfront.platform.errors import UsageError
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.sweeps.space import Knobs, SpaceBlock
from recallfront.sweeps.spec import SweepSpec


@dataclass(frozen=True)
class Earlier:
    """A finished trial of an earlier sweep, as a configuration of the new sweep's space."""

    block: SpaceBlock
    knobs: Knobs  # some may lie outside the new domains
    metrics: dict[str, float]


def earlier_trials(spec: SweepSpec, record: SweepRecord) -> list[Earlier]:
    """The finished trials of a sweep that differ from a trial of `spec` in the knobs of its space and the seed alone.

    Raises:
        UsageError: there is none; says in what they differ.
    """
    name = spec.search.warm_start
    finished = record.current().with_status(Status.FINISHED)
    if not finished:
        raise UsageError(f"search.warm_start={name!r}: no trial of that sweep has finished")
    found, differences = [], Counter[str]()
    for trial in finished:
        for block in spec.blocks:
            differs = _difference(spec, block, trial)
            if differs is None:
                found.append(Earlier(block, _knobs(block, trial), trial.metrics))
                break
            differences[differs] += 1
    if not found:
        most = ", ".join(key for key, _ in differences.most_common(3))
        raise UsageError(
            f"search.warm_start={name!r}: none of its {len(finished)} finished trials could be one of this sweep; they "
            f"differ in {most}, which is not a knob of the space"
        )
    return found


def _difference(spec: SweepSpec, block: SpaceBlock, trial: TrialRecord) -> str | None:
    """The first setting, no knob of the block, in which a trial differs from one of `spec`; None if there is none."""
    if trial.config["model"]["architecture"] != block.architecture:
        return "architecture"
    missing = next((key for key in block.domains if key not in trial.knobs), None)
    if missing is not None:
        return missing
    try:
        own = spec.trial(block, _knobs(block, trial), trial.config["seed"]).model_dump(mode="json")
    except ValueError:
        return next(iter(block.domains), "architecture")
    if own["start"] != trial.config.get("start"):
        return "start"
    for part in ("task", "model", "training"):
        for key in sorted(own[part].keys() | trial.config[part].keys()):
            if own[part].get(key) != trial.config[part].get(key):
                return f"{part}.{key}"
    return None


def _knobs(block: SpaceBlock, trial: TrialRecord) -> Knobs:
    return {key: trial.knobs[key] for key in block.domains}
