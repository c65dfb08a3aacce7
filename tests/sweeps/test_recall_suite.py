"""Prompts of the recall suite where the authors' own rules are not what one would write."""

from typing import Any

import pytest

from recallfront.sweeps.recall_suite import DATA_SETS


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
