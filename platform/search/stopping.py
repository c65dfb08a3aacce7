"""The rules by which trials of a sweep end before their last step."""

from pathlib import Path

from recallfront.platform.search.dominated import Dominated
from recallfront.platform.search.front_search import FrontSearch
from recallfront.platform.search.halving import Halving
from recallfront.platform.search.proposals import Search
from recallfront.platform.search.rules import Rule, Rules
from recallfront.sweeps.spec import SweepSpec


def make_rules(spec: SweepSpec, search: Search, path: Path | None = None) -> Rules:
    """The rules of a specification; `path` keeps what they are told, for the sweep's next run."""
    rules: list[Rule] = []
    if spec.search.skip_dominated or spec.search.method == "front":
        rules.append(Dominated(spec))
    if spec.early_stopping is not None:
        rules.append(Halving(spec.early_stopping, spec))
    if isinstance(search, FrontSearch):
        rules.append(search)
    return Rules(spec, rules, path)
