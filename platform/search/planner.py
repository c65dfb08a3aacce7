"""From proposals to trials: seeds, validation, answers from the ledger, and results for the search."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from recallfront.platform.results.status import Status
from recallfront.platform.search.proposals import Ending, Proposal, Search
from recallfront.sweeps.objectives import has_all
from recallfront.sweeps.spec import SweepSpec
from recallfront.sweeps.trial import TrialConfig


@dataclass(frozen=True)
class PlannedTrial:
    """One trial that is to be run."""

    proposal: Proposal
    seed: int
    config: TrialConfig


@dataclass(frozen=True)
class Impossible:
    """One trial whose configuration is impossible: recorded, never run."""

    proposal: Proposal
    seed: int
    reason: str

    @property
    def settings(self) -> dict[str, object]:
        """What was asked for, as far as it goes."""
        return {"architecture": self.proposal.block.architecture, **self.proposal.knobs, "seed": self.seed}


@dataclass(frozen=True)
class Outcome:
    """How one trial ended."""

    status: Status
    figures: Mapping[str, float]


class Planner:
    """Turns the search's proposals into trials, and the ends of trials into results for the search.

    The search gets a result when all seeds of a proposal have ended. Trials in the ledger are not planned again.
    """

    def __init__(
        self,
        spec: SweepSpec,
        search: Search,
        ledger: Mapping[str, Outcome],
        unfinished: Iterable[Proposal] = (),
    ) -> None:
        self._spec, self._search, self._ledger = spec, search, dict(ledger)
        self._unfinished = deque(unfinished)
        self._ready: deque[PlannedTrial | Impossible] = deque()
        self._open: dict[int, tuple[Proposal, dict[int, Outcome]]] = {}
        # who wants to know how a running trial ends
        self._waiting: dict[str, list[tuple[Proposal, int]]] = {}
        self.answered = 0  # trials that the ledger already knew
        self.proposed = 0  # one more than the highest number of a proposal

    def expects(self, trials: int) -> float | None:
        """Hypervolume that so many further trials are expected to add at most; None if that is not known."""
        return self._search.expects(trials)

    @property
    def notes(self) -> list[str]:
        return self._search.notes()

    def next(self) -> PlannedTrial | Impossible | None:
        """The next trial, or None where the search has no more to propose."""
        while not self._ready:
            if not self._propose():
                return None
        return self._ready.popleft()

    def has_plan(self) -> bool:
        """Whether there is a trial to run, as far as it can be told before any has ended."""
        while not any(isinstance(trial, PlannedTrial) for trial in self._ready):
            if not self._propose():
                return False
        return True

    def again(self, plans: Sequence[PlannedTrial]) -> None:
        """Plan trials again, before all others, that a rule ended and now lets go on: the search gets a new result."""
        for plan in plans:
            proposal = plan.proposal
            if proposal.number not in self._open:
                self._open[proposal.number] = proposal, self._known(proposal)
            self._open[proposal.number][1].pop(plan.seed, None)
            self._waiting[plan.config.key] = [(proposal, plan.seed)]
        self._ready.extendleft(reversed(plans))

    def _known(self, proposal: Proposal) -> dict[int, Outcome]:
        """How the trials of a proposal ended."""
        seeds = proposal.seeds(self._spec)
        keys = {seed: self._spec.trial(proposal.block, proposal.knobs, seed).key for seed in seeds}
        return {seed: self._ledger[key] for seed, key in keys.items() if key in self._ledger}

    def is_planned(self, key: str) -> bool:
        """Whether a trial is to run, or to go on, or does so."""
        return key in self._waiting

    def ended(self, plan: PlannedTrial, outcome: Outcome) -> None:
        """Hear how a planned trial ended."""
        self._ledger[plan.config.key] = outcome
        for proposal, seed in self._waiting.pop(plan.config.key):
            self._settle(proposal, seed, outcome)

    def _propose(self) -> bool:
        proposal = self._unfinished.popleft() if self._unfinished else self._search.ask()
        if proposal is None:
            return False
        self.proposed = max(self.proposed, proposal.number + 1)
        self._expand(proposal)
        return True

    def _expand(self, proposal: Proposal) -> None:
        # one that an earlier run proposed may be open: a trial of it was promoted before its turn came
        self._open.setdefault(proposal.number, (proposal, {}))
        promoted = {seed for waiting in self._waiting.values() for own, seed in waiting if own == proposal}
        for seed in proposal.seeds(self._spec):
            if seed in promoted:
                continue
            try:
                config = self._spec.trial(proposal.block, proposal.knobs, seed)
            except ValueError as error:
                self._ready.append(Impossible(proposal, seed, str(error)))
                self._settle(proposal, seed, Outcome(Status.INVALID, {}))
                continue
            known = self._ledger.get(config.key)
            if config.key in self._waiting:  # the same trial is running already
                self.answered += 1
                self._waiting[config.key].append((proposal, seed))
            elif known is None or not known.status.is_final:
                self._waiting[config.key] = [(proposal, seed)]
                self._ready.append(PlannedTrial(proposal, seed, config))
            else:
                self.answered += 1
                self._settle(proposal, seed, known)

    def _settle(self, proposal: Proposal, seed: int, outcome: Outcome) -> None:
        _, outcomes = self._open[proposal.number]
        outcomes[seed] = outcome
        if len(outcomes) == len(proposal.seeds(self._spec)):
            del self._open[proposal.number]
            self._search.tell(proposal, *self.judge(self._spec, list(outcomes.values())))

    @staticmethod
    def judge(spec: SweepSpec, outcomes: list[Outcome]) -> tuple[Ending, list[float] | None]:
        """The result of a configuration for the search: the mean over its seeds, if all of them finished."""
        statuses = {outcome.status for outcome in outcomes}
        if statuses == {Status.FINISHED}:
            if not all(has_all(spec.objectives, outcome.figures) for outcome in outcomes):
                return Ending.FAILED, None
            metrics = [objective.reading for objective in spec.objectives]
            return Ending.COMPLETE, [fmean(o.figures[metric] for o in outcomes) for metric in metrics]
        stopped = {Status.FINISHED, Status.PRUNED, Status.DOMINATED}
        return (Ending.PRUNED if statuses <= stopped else Ending.FAILED), None
