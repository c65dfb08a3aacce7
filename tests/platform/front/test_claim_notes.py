"""What claims can hardly mean is told before a sweep runs; names of plug-ins are let be."""

import pytest

from recallfront.platform.front.claim_notes import doubtful
from recallfront.sweeps.claims import Claim
from recallfront.sweeps.load import load_study, studies
from recallfront.sweeps.suite import Suite
from tests.platform.specs import tiny_spec


def told(measure: str) -> list[str]:
    measures = {"a": "lowest state_bytes", "b": measure}
    claim = Claim(id="x", sentence="It holds.", measures=measures, condition="a - b > 0", seeds=1)
    return doubtful([claim], [tiny_spec()])


@pytest.mark.parametrize(
    ("measure", "close"),
    [
        ("mean test_recal", "'test_recal' is not known; did you mean test_recall?"),
        ("mean text.perplexty", "'text.perplexty' is not known; did you mean text.perplexity?"),
        ("mean recall where architectur != based", "'architectur' is not known; did you mean architecture?"),
        ("mean recall where training.learning_rat > 1", "did you mean training.learning_rate?"),
        (
            "mean recall where state_bytes <= a.state_byts",
            "'state_byts' is not known; did you mean state_bytes?",
        ),
    ],
)
def test_a_misspelt_name_is_told(measure: str, close: str) -> None:
    (sentence,) = told(measure)
    assert sentence.startswith("claims.x.measures.b: ") and sentence.endswith(close)


@pytest.mark.parametrize(
    "name", ["depth_of_stack", "test_recall_length_48_pairs_8", "state_bytes_at_512", "width"]
)
def test_a_plug_in_s_figure_and_a_family_s_are_let_be(name: str) -> None:
    assert told(f"mean {name}") == []


@pytest.mark.parametrize("name", sorted(studies()))
def test_no_study_has_a_doubtful_claim(name: str) -> None:
    study = load_study(name)
    specs = [part.spec for part in study.parts] if isinstance(study, Suite) else [study]
    assert doubtful(study.claims, specs) == []


def test_a_claim_that_needs_more_seeds_than_there_are_is_told() -> None:
    claim = Claim(id="x", sentence="It holds.", measures={"a": "mean recall"}, condition="a > 0")
    two, three = tiny_spec(seeds=[0, 1]), tiny_spec(seeds=[1, 2, 3])
    assert doubtful([claim], [three]) == []
    end = "it stays undecided; add seeds, or set claims.x.seeds"
    assert doubtful([claim], [two]) == [f"claims.x needs 3 seeds, and there are 2: {end}"]
    # a seed of a suite counts if each of its sweeps has it
    assert doubtful([claim], [two, three]) == [f"claims.x needs 3 seeds, and there is 1: {end}"]
