"""How a trial stands, or ended."""

from dataclasses import dataclass, field
from enum import StrEnum


class Status(StrEnum):
    """How a trial stands, or ended; the value of its run's tag `recallfront.status`."""

    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    INVALID = "invalid"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    LOST = "lost"
    TIMEOUT = "timeout"
    ERROR = "error"

    @property
    def is_final(self) -> bool:
        """Whether a resumed sweep leaves such a trial alone: it would end in the same way again."""
        return self not in (Status.RUNNING, Status.LOST)

    @property
    def is_failure(self) -> bool:
        return self not in (Status.RUNNING, Status.FINISHED, Status.PRUNED)


@dataclass(frozen=True)
class Lost:
    """How a trial was lost, as far as its driver knows."""

    failure: str  # in one sentence
    status: Status = Status.LOST  # or out_of_memory: it would end so again
    figures: dict[str, float] = field(default_factory=dict)
