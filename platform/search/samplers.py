"""Choosing configurations: a grid, or Optuna's samplers through ask-and-tell with several objectives.

Optuna is imported where it is first used, so that the command starts fast.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recallfront.platform.errors import UsageError, one_line
from recallfront.platform.search.front_search import FrontSearch
from recallfront.platform.search.grid import GridSearch
from recallfront.platform.search.proposals import Ending, Proposal, Search, Told
from recallfront.platform.search.warm_start import Earlier
from recallfront.sweeps.search import SearchConfig
from recallfront.sweeps.space import Domain, Knobs, Range, Scalar, SpaceBlock
from recallfront.sweeps.spec import SweepSpec

if TYPE_CHECKING:
    import optuna

_BLOCK = "block"
REPEAT = "repeat"  # marks what a sampler proposed a second time
_ASKED_AGAIN, _DRAWN_AT_RANDOM = 2, 256  # times


def make_search(
    spec: SweepSpec,
    told: Iterable[Told] = (),
    proposed: int = 0,
    unfinished: Iterable[Proposal] = (),
    earlier: Iterable[Earlier] = (),
) -> Search:
    """The search of a specification.

    Args:
        told: what earlier runs found: `Proposal.to_json`, ending, values.
        proposed: how many configurations they proposed, those included that have no ending yet.
        unfinished: the latter, which are not proposed again.
        earlier: trials of the sweep that `search.warm_start` names.
    """
    if spec.search.method == "grid":
        return GridSearch(spec)
    if spec.search.method == "front":
        return FrontSearch(spec, told, proposed, unfinished, earlier)
    return OptunaSearch(spec, list(told), proposed, unfinished)


class OptunaSearch:
    """Optuna's samplers over a conditional space: the block is a parameter, and each block has its own.

    No configuration is proposed twice: a sampler that does so is asked again, and after some times a random one is.
    """

    def __init__(
        self, spec: SweepSpec, told: list[Told], proposed: int, unfinished: Iterable[Proposal] = ()
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spec = spec
        self._blocks = {block.label: block for block in spec.blocks}
        self._study = optuna.create_study(
            directions=["maximize" if o.direction == "max" else "minimize" for o in spec.objectives],
            # Resumed, the sampler must not draw again what it drew at first: what was proposed shifts its seed.
            sampler=_sampler(spec.search, spec.search.seed + 7919 * proposed, _choices(spec)),
        )
        self._seed = spec.search.seed
        self._repeats = 0
        self._exhausted = False
        self._seen = {_name(proposal.block, proposal.knobs) for proposal in unfinished}
        self._live: dict[int, optuna.trial.Trial] = {}
        self._next_number = proposed
        for raw, ending, values in told:
            self._seen.add(_name(self._blocks[raw["block"]], raw["knobs"]))
            try:
                self._add(raw["parameters"], ending, values)
            except (KeyError, ValueError, TypeError) as error:
                raise UsageError(
                    f"proposal {raw['number']} of this sweep: the tag recallfront.proposal of its runs was edited "
                    f"({one_line(error, 200)})"
                ) from error

    def ask(self) -> Proposal | None:
        if self._spec.search.trials is not None and self._next_number >= self._spec.search.trials:
            return None
        trial, block, knobs = self._draw()
        if _name(block, knobs) in self._seen:
            found = self._draw_anew()
            if found is None:
                self._exhausted = True
                return None
            trial, block, knobs = found
        self._seen.add(_name(block, knobs))
        proposal = Proposal(self._next_number, block, knobs, dict(trial.params))
        self._live[proposal.number] = trial
        self._next_number += 1
        return proposal

    def expects(self, trials: int) -> float | None:
        return None

    def notes(self) -> list[str]:
        told = []
        if self._repeats:
            told.append(f"the search proposed {self._repeats} configurations again, and was asked for others")
        if self._exhausted:
            told.append(
                f"the search ended after {self._next_number} of {self._spec.search.trials} configurations: it found no "
                "further one in the space"
            )
        return told

    def _draw(self) -> "tuple[optuna.trial.Trial, SpaceBlock, Knobs]":
        trial = self._study.ask()
        labels = list(self._blocks)
        label = str(trial.suggest_categorical(_BLOCK, labels)) if len(labels) > 1 else labels[0]
        block = self._blocks[label]
        knobs = {key: _suggest(trial, f"{label}.{key}", domain) for key, domain in block.domains.items()}
        if _name(block, knobs) in self._seen:
            # left out of what the sampler learns from: its result is there already
            trial.set_user_attr(REPEAT, True)
            self._study.tell(trial, state=_state(Ending.FAILED))
        return trial, block, knobs

    def _draw_anew(self) -> "tuple[optuna.trial.Trial, SpaceBlock, Knobs] | None":
        """A configuration that was not proposed before: from the sampler, else at random; None if none is found."""
        import optuna

        self._repeats += 1
        own = self._study.sampler
        at_random = optuna.samplers.RandomSampler(seed=self._seed + self._next_number)
        try:
            for again in range(_ASKED_AGAIN + _DRAWN_AT_RANDOM):
                self._study.sampler = own if again < _ASKED_AGAIN else at_random
                trial, block, knobs = self._draw()
                if _name(block, knobs) not in self._seen:
                    return trial, block, knobs
        finally:
            self._study.sampler = own
        return None

    def tell(self, proposal: Proposal, ending: Ending, values: Sequence[float] | None) -> None:
        trial = self._live.pop(proposal.number, None)
        if trial is None:  # proposed by an earlier run of this sweep
            self._add(proposal.parameters, ending, values)
        elif ending is Ending.COMPLETE and values is not None:
            self._study.tell(trial, list(values))
        else:
            self._study.tell(trial, state=_state(ending))

    def _add(self, parameters: dict[str, Any], ending: Ending, values: Sequence[float] | None) -> None:
        import optuna

        distributions = self._distributions(parameters)
        complete = ending is Ending.COMPLETE and values is not None
        self._study.add_trial(
            optuna.trial.create_trial(
                params=parameters,
                distributions=distributions,
                values=list(values) if complete and values is not None else None,
                state=_state(ending),
            )
        )

    def _distributions(self, parameters: dict[str, Any]) -> dict[str, Any]:
        import optuna

        found: dict[str, Any] = {}
        for name in parameters:
            if name == _BLOCK:
                found[name] = optuna.distributions.CategoricalDistribution(list(self._blocks))
            else:
                label, key = name.split(".", 1)
                found[name] = _distribution(self._blocks[label].domains[key])
        return found


def _name(block: SpaceBlock, knobs: Mapping[str, Scalar]) -> tuple[Any, ...]:
    """What tells configurations apart, whichever block of an architecture they are from; true is not 1."""
    return block.architecture, *sorted((key, repr(value)) for key, value in knobs.items())


def _choices(spec: SweepSpec) -> int:
    """How many choices a configuration takes at most: its block, and its knobs."""
    knobs = max(len(block.domains) for block in spec.blocks)
    return max(1, knobs + (len(spec.blocks) > 1))


def _sampler(settings: SearchConfig, seed: int, choices: int) -> "optuna.samplers.BaseSampler":
    import optuna

    drawn = settings.drawn_at_random or 1

    with warnings.catch_warnings():
        # `group` has been so for years
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        samplers = {
            "random": lambda: optuna.samplers.RandomSampler(seed=seed),
            "tpe": lambda: optuna.samplers.TPESampler(
                seed=seed, multivariate=True, group=True, n_startup_trials=drawn
            ),
            # Of several blocks only the block itself has parents, and Optuna's own rate would draw it anew each time.
            "nsga2": lambda: optuna.samplers.NSGAIISampler(
                seed=seed, population_size=drawn, mutation_prob=1 / choices
            ),
            # The first of a block's parameters, and all it has where blocks differ much, are drawn at random.
            "gp": lambda: optuna.samplers.GPSampler(
                seed=seed, warn_independent_sampling=False, n_startup_trials=drawn
            ),
        }
        sampler: optuna.samplers.BaseSampler = samplers[settings.method]()  # type: ignore[no-untyped-call]
        return sampler


def _state(ending: Ending) -> "optuna.trial.TrialState":
    from optuna.trial import TrialState

    states = {
        Ending.COMPLETE: TrialState.COMPLETE,
        Ending.PRUNED: TrialState.PRUNED,
        Ending.FAILED: TrialState.FAIL,
    }
    return states[ending]


def _distribution(domain: Domain) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(domain, Range):
        return CategoricalDistribution(list(domain))
    if domain.is_integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1))
    return FloatDistribution(float(domain.low), float(domain.high), log=domain.log, step=domain.step)


def _suggest(trial: "optuna.trial.BaseTrial", name: str, domain: Domain) -> Scalar:
    if not isinstance(domain, Range) and len(domain) == 1:
        return domain[0]
    if not isinstance(domain, Range):
        return trial.suggest_categorical(name, list(domain))
    if domain.is_integer:
        low, high = int(domain.low), int(domain.high)
        return trial.suggest_int(name, low, high, log=domain.log, step=int(domain.step or 1))
    least, most = float(domain.low), float(domain.high)
    if domain.step is None:
        return trial.suggest_float(name, least, most, log=domain.log)
    # Samplers compute the values of a grid, and may miss those of the specification by a bit or two.
    drawn = trial.suggest_float(name, least, most, step=float(domain.step))
    return min(domain.values(), key=lambda value: abs(value - drawn))
