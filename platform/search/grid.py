"""Every configuration of a finite space, once."""

from collections.abc import Sequence

from recallfront.platform.search.proposals import Ending, Proposal
from recallfront.sweeps.spec import SweepSpec


class GridSearch:
    """Every configuration once, in the order of the specification; what is finished is answered from the ledger."""

    def __init__(self, spec: SweepSpec) -> None:
        self._rest = iter(enumerate(spec.grid()))

    def ask(self) -> Proposal | None:
        number, (block, knobs) = next(self._rest, (-1, (None, None)))
        return None if block is None or knobs is None else Proposal(number, block, knobs)

    def expects(self, trials: int) -> float | None:
        return None

    def notes(self) -> list[str]:
        return []

    def tell(self, proposal: Proposal, ending: Ending, values: Sequence[float] | None) -> None:
        """A grid learns nothing."""
