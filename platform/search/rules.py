"""What may end a trial before its last step: rules that see every report of every trial."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from recallfront.platform.home import private_folder, private_opener
from recallfront.platform.results.status import Status
from recallfront.platform.search.planner import Outcome, PlannedTrial
from recallfront.platform.search.proposals import proposal_from_json
from recallfront.sweeps.base import canonical_json, seal, unseal
from recallfront.sweeps.objectives import has_all
from recallfront.sweeps.spec import SweepSpec

SECONDS_PER_STEP: Final = "seconds_per_step"  # of training, beside the figures of a report


@dataclass(frozen=True)
class Ruling:
    """That a trial ends now, and why."""

    status: Status  # pruned, or dominated
    reason: str  # in one sentence


class Rule(ABC):
    """Sees what trials report, and may end them, or let them go on later."""

    @abstractmethod
    def judge(self, plan: PlannedTrial, step: int, figures: Mapping[str, float]) -> Ruling | None:
        """Whether a running trial that has reported `figures` after `step` steps ends now; None: it goes on.

        Before the first step the figures are those of the measurement. A resumed trial may report a step again.
        """

    @abstractmethod
    def ended(self, plan: PlannedTrial, outcome: Outcome) -> None:
        """Hear how a trial ended, whichever rule or cause ended it."""

    def heard(self, plan: PlannedTrial, step: int, figures: Mapping[str, float]) -> None:
        """Hear again, in a resumed sweep, what a trial reported in an earlier run; `ruled` says what came of it."""
        self.judge(plan, step, figures)

    def ruled(self, plan: PlannedTrial) -> None:  # noqa: B027 - one whose verdicts follow from what it hears need not hear
        """Hear that this rule ended a trial in an earlier run of the sweep."""

    def promotable(self, *, thorough: bool = False) -> Sequence[PlannedTrial]:
        """The seeds of one configuration that this rule has ended, and would not end now; empty if there is none.

        Unless it is to be `thorough`, it may look at some of many, and at others when it is asked again.
        """
        return ()

    def promoted(self, plan: PlannedTrial) -> None:  # noqa: B027 - a rule that never promotes need not hear of it
        """Hear that a trial which was ended goes on, whichever rule promoted it."""


class Rules:
    """The rules of one sweep, one after the other. What they are told is kept in a file, so that those of a resumed
    sweep know what came before: they are told it again.
    """

    def __init__(self, spec: SweepSpec, rules: Sequence[Rule], path: Path | None = None) -> None:
        self._spec, self._rules = spec, tuple(rules)
        self._read_by_rules = {o.reading for o in spec.objectives} | {
            "validation_loss",
            "validation_recall",
            SECONDS_PER_STEP,
        }
        self._path = path if self._rules else None
        self._ruled: dict[str, int] = {}  # running trial -> the rule that ends it
        self._known: set[str] = set()  # trials whose end the file has
        self._tell_again()

    def __bool__(self) -> bool:
        return bool(self._rules)

    def judge(self, plan: PlannedTrial, step: int, figures: Mapping[str, float]) -> Ruling | None:
        """The first rule's verdict on a running trial; None: it goes on."""
        self._append(plan, step, Status.RUNNING, figures)
        verdicts = [rule.judge(plan, step, figures) for rule in self._rules]
        for number, verdict in enumerate(verdicts):
            if verdict is not None:
                self._ruled[plan.config.key] = number
                return verdict
        return None

    def ended(self, plan: PlannedTrial, outcome: Outcome) -> None:
        """Hear how a trial ended."""
        rule = self._ruled.pop(plan.config.key, None)
        if outcome.status.is_final:
            self._append(plan, None, outcome.status, outcome.figures, rule)
        self._end(plan, outcome)

    def knows(self, trial_key: str) -> bool:
        """Whether the file tells how a trial ended."""
        return trial_key in self._known

    def learn(self, plan: PlannedTrial, outcome: Outcome) -> None:
        """Hear of a trial that an earlier run of the sweep finished, as the store tells it; figures may be missing."""
        self._end(plan, outcome)

    def promote(self, *, thorough: bool = False) -> Sequence[PlannedTrial]:
        """Trials that were ended and go on from now, all of one configuration; empty if there are none."""
        plans = next((plans for rule in self._rules if (plans := rule.promotable(thorough=thorough))), ())
        for plan in plans:
            self._append(plan, None, Status.RUNNING, {})
            self._promoted(plan)
        return plans

    def _promoted(self, plan: PlannedTrial) -> None:
        for rule in self._rules:
            rule.promoted(plan)

    def _end(self, plan: PlannedTrial, outcome: Outcome) -> None:
        if outcome.status is Status.FINISHED and not has_all(self._spec.objectives, outcome.figures):
            outcome = replace(outcome, status=Status.ERROR)  # it counts for nothing
        for rule in self._rules:
            rule.ended(plan, outcome)

    def _append(
        self,
        plan: PlannedTrial,
        step: int | None,
        status: Status,
        figures: Mapping[str, float],
        rule: int | None = None,
    ) -> None:
        if self._path is None:
            return
        private_folder(self._path.parent)
        entry: dict[str, Any] = {
            "trial": plan.config.key,
            "proposal": plan.proposal.to_json(),
            "seed": plan.seed,
            "step": step,
            "status": status.value,
            "figures": {name: value for name, value in figures.items() if name in self._read_by_rules},
            "rule": rule,
        }
        with open(self._path, "a", opener=private_opener) as file:
            file.write(seal(entry, indent=None) + "\n")

    def _tell_again(self) -> None:
        # by the whole proposal: drivers of two stores number theirs alike
        plans: dict[tuple[str, int], PlannedTrial] = {}
        for entry in _entries(self._path):
            which = canonical_json(entry["proposal"]), entry["seed"]
            plan = plans[which] = plans.get(which) or _plan(self._spec, entry)
            if entry["step"] is not None:
                for rule in self._rules:
                    rule.heard(plan, entry["step"], entry["figures"])
            elif entry["status"] == Status.RUNNING:
                self._promoted(plan)
            else:
                self._known.add(plan.config.key)
                if (number := entry.get("rule")) is not None:
                    self._rules[number].ruled(plan)
                self._end(plan, Outcome(Status(entry["status"]), entry["figures"]))


def going_on(spec: SweepSpec, path: Path) -> set[str]:
    """Keys of the trials that were promoted in earlier runs of the sweep and have not ended since."""
    keys: set[str] = set()
    for entry in _entries(path):
        if entry["step"] is None:
            key = entry.get("trial") or _plan(spec, entry).config.key  # an earlier version did not write it
            (keys.add if entry["status"] == Status.RUNNING else keys.discard)(key)
    return keys


def _entries(path: Path | None) -> Iterator[dict[str, Any]]:
    """What rules were told before."""
    if path is None or not path.exists():
        return
    for line in path.read_text(errors="replace").splitlines():
        with suppress(ValueError):  # a driver was killed while it wrote this line, or it was damaged
            yield unseal(line)


def _plan(spec: SweepSpec, entry: Mapping[str, Any]) -> PlannedTrial:
    proposal = proposal_from_json(spec, entry["proposal"])
    return PlannedTrial(proposal, entry["seed"], spec.trial(proposal.block, proposal.knobs, entry["seed"]))
