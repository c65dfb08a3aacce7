"""What claims can hardly mean: told before a sweep has run for hours."""

import difflib
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from recallfront.platform.metrics import METRICS, is_known, named_in_condition
from recallfront.sweeps.claims import Claim
from recallfront.sweeps.conditions import Reference
from recallfront.sweeps.space import TRAINING_PREFIX
from recallfront.sweeps.spec import SweepSpec
from recallfront.sweeps.trial import TrainingConfig

_NEAR: Final = 0.85  # of difflib's ratio


def doubtful(claims: Iterable[Claim], specs: Sequence[SweepSpec]) -> list[str]:
    """A sentence for each name that is nearly a known one, and for each claim that can never be decided."""
    claims = tuple(claims)
    return [*_misspelt(claims, specs), *_undecidable(claims, specs)]


def _undecidable(claims: Iterable[Claim], specs: Iterable[SweepSpec]) -> list[str]:
    """A sentence for each claim that needs more seeds than all of the sweeps have."""
    seeds = len(set.intersection(*(set(spec.seeds) for spec in specs)))
    return [
        f"claims.{claim.id} needs {claim.seeds} seeds, and there {'is' if seeds == 1 else 'are'} {seeds}: it stays "
        f"undecided; add seeds, or set claims.{claim.id}.seeds"
        for claim in claims
        if claim.seeds > seeds
    ]


def _misspelt(claims: Iterable[Claim], specs: Iterable[SweepSpec]) -> list[str]:
    """A sentence for each name of a claim that is unknown and close to a known one; a plug-in's figure may be so."""
    settings = _settings(specs)
    figures = {known.name for known in METRICS if "*" not in known.name} | {"test_recall"}
    told = []
    for claim in claims:
        for name, measure in claim.parsed.items():
            bounds = [
                clause.bound.metric for clause in measure.clauses if isinstance(clause.bound, Reference)
            ]
            for own in filter(
                None, (measure.metric, measure.over, *(c.name for c in measure.clauses), *bounds)
            ):
                if close := _close(own, settings, figures):
                    told.append(
                        f"claims.{claim.id}.measures.{name}: {own!r} is not known; did you mean {close}?"
                    )
    return told


def _close(name: str, settings: Collection[str], figures: Collection[str]) -> str | None:
    """The known name that a name is close to; None if it is known itself, or close to none."""
    task, dot, own = name.rpartition(".")
    if name in settings or is_known(named_in_condition(own)):
        return None
    for given, known in ((name, settings), (own, figures)):
        if found := difflib.get_close_matches(given, known, n=1, cutoff=_NEAR):
            return found[0] if given == name else f"{task}{dot}{found[0]}"
    return None


def _settings(specs: Iterable[SweepSpec]) -> set[str]:
    found = {"architecture", "n_seeds", *(f"{TRAINING_PREFIX}{name}" for name in TrainingConfig.model_fields)}
    for spec in specs:
        for block in spec.blocks:
            found |= {*block.domains, *block.config.model_fields}
    return found
