"""RULER's variable tracking where two of the names that are drawn are alike."""

from hashlib import sha256

import pytest

from recallfront.sweeps.ruler_text import Question, variable_tracking


def drawn(random_seed: int) -> list[Question]:
    """Questions with words for tokens, and so many names that some seeds draw one twice."""
    return variable_tracking(
        count=lambda text: len(text.split()),
        num_samples=2,
        max_seq_length=1200,
        num_chains=4,
        random_seed=random_seed,
    )


def test_a_question_with_a_name_twice_is_drawn_again_as_the_authors_do() -> None:
    questions = drawn(215)
    # of the rows that the authors' program writes with these arguments
    digest = "e4a168af38d7fca1841bc04a3d203487d33e528ac86f7a4ac49dec57fc1909df"
    text = "".join(question.prompt + question.answer_prefix for question in questions)
    assert sha256(text.encode()).hexdigest() == digest
    assert [question.length for question in questions] == [1197, 1197]


def test_a_name_twice_in_the_search_for_the_number_of_lines_is_refused() -> None:
    with pytest.raises(ValueError, match="random_seed=13: two variables get the same name; take another"):
        drawn(13)
