"""Tags that somebody edited: one sentence names run and tag, wherever a sweep reads them again."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from recallfront.platform.errors import UsageError
from recallfront.platform.results import tags
from recallfront.platform.results.records import SweepRecord, TrialRecord, planned
from recallfront.platform.results.status import Status
from recallfront.platform.search.samplers import make_search
from tests.platform.specs import tiny_spec

_WHOLE = {"number": 3, "block": "window", "knobs": {"window_size": 4}, "parameters": {}}


def sweep(**told: str) -> SweepRecord:
    return SweepRecord(run_id="0123", sweep_key="key", name="tiny", spec={}, trials=(), tags=told)


def trial(text: str) -> TrialRecord:
    return TrialRecord("0123", "key", Status.FINISHED, config={}, metrics={}, tags={"proposal": text})


READ: dict[str, Callable[[str], Any]] = {
    "elapsed_seconds": lambda text: tags.elapsed_seconds(sweep(elapsed_seconds=text)),
    "proposed": lambda text: tags.proposed(sweep(proposed=text)),
    "proposal": lambda text: tags.proposal(trial(text), ["window"]),
}


@pytest.mark.parametrize(
    "text", ["", "soon", "{", "[1]", "-1", "nan", "1e999", "9" * 5000, '{"number": -1}', "[" * 5000]
)
@pytest.mark.parametrize("tag", READ)
def test_an_edited_tag_is_one_sentence_that_names_run_and_tag(tag: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"^run 0123: its tag recallfront.{tag} is ") as refused:
        READ[tag](text)
    assert len(str(refused.value)) < 250 and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"block": "none"},
        {"number": True},
        {"knobs": None},
        {"parameters": []},
        {"seeds": 1},
        {"seeds": [True]},
        {"seeds": ["a"]},
    ],
)
def test_a_proposal_of_another_shape_is_none(changed: dict[str, Any]) -> None:
    for whole in (_WHOLE, _WHOLE | {"seeds": [2]}):
        assert READ["proposal"](json.dumps(whole)) == whole
    with pytest.raises(UsageError, match="not a proposal of this sweep"):
        READ["proposal"](json.dumps(_WHOLE | changed))


def test_parameters_that_the_space_lacks_are_told() -> None:
    from recallfront.platform.search.proposals import Ending

    spec = tiny_spec(search={"method": "random", "trials": 2})
    (block, *_) = spec.blocks
    for parameters in ({"block": "none"}, {"nothing.here": 1}, {"word": 1}):
        told = (_WHOLE | {"block": block.label, "knobs": {}, "parameters": parameters}, Ending.FAILED, None)
        with pytest.raises(UsageError, match="proposal 3 of this sweep: the tag recallfront.proposal"):
            make_search(spec, [told], 4)


def test_what_was_never_edited_is_read() -> None:
    assert READ["elapsed_seconds"]("12") == 12 and tags.elapsed_seconds(sweep()) == 0
    assert READ["proposed"]('{"number": 2}') == {"number": 2} and tags.proposed(sweep()) == {}
    assert planned({"trials_planned": "7"}) == 7 and planned({"trials_planned": "9" * 5000}) == 0
