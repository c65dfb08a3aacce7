"""Prompts of the recall suite where the authors' own rules are not what one would write."""

from typing import Any

import pytest

from recallfront.sweeps.recall_suite import (
    DATA_SETS,
    ROOM_FOR_ANSWER,
    answers_of,
    located_answer,
    truncated_document,
)


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (":: is [PAR]", ":: is. is"),
        ("[par]", "[par]. is"),
        ("a [DOC][TLE] b is", "a  b. is"),
        ("a [D[PAR]OC]", "a [DOC]. is"),
    ],
)
def test_marks_of_triviaqa_go_at_once_and_in_their_own_case(context: str, expected: str) -> None:
    document: dict[str, Any] = {"context": context, "question": "is", "answers": ["it"]}
    assert DATA_SETS["triviaqa"].prompt(document, False) == expected


def cut(name: str, context_length: int, **document: Any) -> str | None:
    """A context that is truncated with words for tokens; so many of them are left beside the room for the answer."""
    kind = DATA_SETS[name]
    length = context_length + ROOM_FOR_ANSWER
    found = truncated_document(document, kind, encode=str.split, decode=" ".join, context_length=length)
    return None if found is None else str(found[kind.context])


FAR = " ".join(f"w{number}" for number in range(20))


def test_a_summary_is_no_text_of_swde() -> None:
    text = f"{FAR} it. Summary of information above... director: it"
    assert cut("swde", 4, text=text, key="director", value="nowhere") == "w19 it."


@pytest.mark.parametrize("name", ["swde", "fda"])
def test_extraction_is_cut_around_the_key_or_the_value(name: str) -> None:
    assert (
        cut(name, 4, text=f"{FAR} Director {FAR} Jane", key="director", value="jane") == "w18 w19 Director w0"
    )
    assert cut(name, 4, text=f"{FAR} Jane {FAR} Director", key="director", value="jane") == "w18 w19 Jane w0"
    assert cut(name, 4, text=FAR, key="d", value="w9") is None


def test_squad_s_text_is_cut_and_its_context_is_not() -> None:
    assert cut("squad", 4, text=FAR, value="Jane", context=FAR) == "w18 w19"
    assert cut("squad", 4, text=FAR, value="w9 ", context=FAR) == "w7 w8 w9 w10"


@pytest.mark.parametrize("name", ["nq", "triviaqa", "drop"])
def test_a_question_without_an_answer_is_left_out(name: str) -> None:
    for answers in ([], "", [""], [None], [" ", None]):
        assert cut(name, 4, context=FAR, question="is", answers=answers) is None
    assert cut(name, 4, context=FAR, question="is", answers=["w9 "]) is not None


def test_an_empty_answer_beside_another_is_none() -> None:
    assert answers_of({"answers": ["", "1909", None]}, "answers") == ["1909"]


@pytest.mark.parametrize("name", ["swde", "fda", "squad"])
def test_a_field_without_a_value_is_left_out(name: str) -> None:
    assert cut(name, 4, text=FAR, key="director", value=" ") is None
    assert name == "squad" or cut(name, 4, text=FAR, key=" ", value="w9") is None


@pytest.mark.parametrize(
    ("value", "located"),
    [
        ("", ""),
        (" ", " "),
        ("  ", "  "),
        (["", "zz"], ""),
        ([None, "zz"], ""),
        ([], ""),
        (None, ""),
        (7, "7"),
    ],
)
def test_the_first_answer_is_looked_for_as_it_stands(value: object, located: str) -> None:
    assert located_answer({"value": value}, "value") == located


def test_an_empty_first_answer_drops_the_document() -> None:
    assert cut("nq", 4, context=FAR, question="is", answers=["", "w9"]) is None
    assert cut("nq", 4, context=FAR, question="is", answers=["w9", ""]) == "w7 w8 w9 w10"


def test_an_alternative_is_looked_for_where_no_answer_is() -> None:
    document = {"text": FAR, "alt_answers": ["nowhere", "w12", "w3"], "tok_pos": 5}
    assert cut("squad", 4, **document, value="Jane") == "w10 w11 w12 w13"
    assert cut("squad", 4, **document, value="w9 ") == "w7 w8 w9 w10"


def test_a_token_s_place_counts_where_nothing_is_found() -> None:
    assert cut("squad", 4, text=FAR, value="Jane", tok_pos=5) == "w3 w4 w5 w6"
    assert cut("squad", 4, text=FAR, value="Jane", alt_answers=["nowhere"], tok_pos=5) == "w3 w4 w5 w6"
    for empty in (None, [], "", [""], [None], [" "]):
        assert cut("squad", 4, text=FAR, value="Jane", alt_answers=empty, tok_pos=5) == "w3 w4 w5 w6"
    # not so in a context that fits
    assert cut("squad", 4, text="w0 w1 w2", value="Jane", tok_pos=0) == "w1 w2"
    assert cut("drop", 4, context=FAR, question="is", answers=["it"], tok_pos=9) == "w0 w1 w2 w3"
