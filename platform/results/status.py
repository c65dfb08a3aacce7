"""How a trial stands, or ended, and what that means for its sweep."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Self

# what a trial of a sweep may count as
COUNTED = ("finished", "pruned", "running", "invalid", "failed", "unfinished")
ENDED = ("finished", "pruned", "invalid", "failed")  # of these, what stays so


class Status(StrEnum):
    """How a trial stands, or ended; the value of its run's tag `recallfront.status`."""

    counts_as: str  # one of `COUNTED`

    def __new__(cls, value: str, counts_as: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.counts_as = counts_as
        return member

    RUNNING = "running", "running"
    FINISHED = "finished", "finished"
    PRUNED = "pruned", "pruned"
    DOMINATED = "dominated", "pruned"
    INVALID = "invalid", "invalid"
    DIVERGED = "diverged", "failed"
    OUT_OF_MEMORY = "out_of_memory", "failed"
    LOST = "lost", "unfinished"
    TIMEOUT = "timeout", "failed"
    ERROR = "error", "failed"

    @property
    def is_final(self) -> bool:
        """Whether a resumed sweep leaves such a trial alone: it would end in the same way again."""
        return self.counts_as in ENDED

    @property
    def lacks_result(self) -> bool:
        """Whether a trial of a configuration that is possible has not come to its end, yet or for good."""
        return self.counts_as not in ("finished", "invalid")

    @property
    def is_failure(self) -> bool:
        """Whether the trial ended without the result that it was run for."""
        return self.counts_as in ("invalid", "failed", "unfinished")


class TrialFailure(Exception):
    """Why a trial ended, as an exception; each kind says with which status. Any other exception is an error."""

    status: ClassVar[Status]


@dataclass(frozen=True)
class Lost:
    """How a trial was lost, as far as its driver knows."""

    failure: str  # in one sentence
    status: Status = Status.LOST  # or out_of_memory: it would end so again
    figures: dict[str, float] = field(default_factory=dict)
