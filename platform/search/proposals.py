"""What every search method proposes, and the results that it receives."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from recallfront.sweeps.space import Knobs, SpaceBlock
from recallfront.sweeps.spec import SweepSpec


@dataclass(frozen=True)
class Proposal:
    """One configuration to try, with every seed of the sweep or with some."""

    number: int
    block: SpaceBlock
    knobs: Knobs
    parameters: dict[str, Any] = field(default_factory=dict)  # as the sampler knows them
    some_seeds: tuple[int, ...] = ()  # empty: all

    def seeds(self, spec: SweepSpec) -> tuple[int, ...]:
        """The seeds that it is to run with."""
        return self.some_seeds or spec.seeds

    def to_json(self) -> dict[str, Any]:
        found = {
            "number": self.number,
            "block": self.block.label,
            "knobs": self.knobs,
            "parameters": self.parameters,
        }
        return found | ({"seeds": list(self.some_seeds)} if self.some_seeds else {})


class Ending(StrEnum):
    """The result of a configuration, for the sampler; a pruned one is never mixed with complete ones."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


Told = tuple[dict[str, Any], Ending, Sequence[float] | None]


class Search(Protocol):
    """Proposes configurations one at a time. Every proposal gets one result."""

    def ask(self) -> Proposal | None:
        """The next configuration, or None if there is no further one."""

    def expects(self, trials: int) -> float | None:
        """Hypervolume that so many further trials are expected to add at most; None if that is not known."""

    def notes(self) -> list[str]:
        """What the user should know of how the search went."""

    def tell(self, proposal: Proposal, ending: Ending, values: Sequence[float] | None) -> None:
        """Hear how a proposal ended; `values` in the objectives' order and own direction, None unless complete."""


def proposal_from_json(spec: SweepSpec, raw: dict[str, Any]) -> Proposal:
    block = next(b for b in spec.blocks if b.label == raw["block"])
    return Proposal(raw["number"], block, raw["knobs"], raw["parameters"], tuple(raw.get("seeds", ())))
