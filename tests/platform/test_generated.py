"""Generated questions on a model: that they fit, and what is counted of its continuations."""

from pathlib import Path

import pytest

from recallfront.models import build, parse_config, save
from recallfront.platform.errors import UsageError
from recallfront.platform.evaluation.generated import SUITES, Asked, evaluate_generated, shares
from recallfront.platform.evaluation.subject import Subject
from recallfront.sweeps.text.tokenizer import ByteTokenizer

CONFIG = {"architecture": "hawk", "vocab_size": 257, "width": 16}


def subject(**changes: int) -> Subject:
    return Subject(build(parse_config(CONFIG | changes)).eval(), ByteTokenizer(), None, None)


@pytest.mark.parametrize(("suite", "length"), [("phonebook", 400), ("ruler", 3000)])
def test_questions_fit_and_hold_what_is_asked(suite: str, length: int) -> None:
    pytest.importorskip("names" if suite == "phonebook" else "wonderwords")
    one = subject()
    # the example that variable tracking begins with has 500 tokens, too few in bytes
    for name in SUITES[suite].keys() - {"tracking"}:
        asked = SUITES[suite][name].draw(one, length, 2)
        assert len(asked) == 2, name
        for question in asked:
            assert (
                len(one.encode(question.prompt)) <= length and len(one.encode(question.prompt)) > length // 2
            )
            # the values stand in the text; of variable tracking the names
            assert all(answer in question.prompt for answer in question.answers), name


def test_every_phonebook_that_is_asked_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names differ in length: the first books do not tell. Nor does it take books that are far too large."""
    pytest.importorskip("names")
    one, longest = subject(), 0
    encode = Subject.encode

    def encoded(self: Subject, text: str) -> list[int]:
        nonlocal longest
        longest = max(longest, len(text))
        return encode(self, text)

    monkeypatch.setattr(Subject, "encode", encoded)
    asked = SUITES["phonebook"]["phonebook"].draw(one, 400, 100)
    assert len(asked) == 100 and max(len(encode(one, question.prompt)) for question in asked) <= 400
    assert longest < 20 * 400


def test_the_share_is_of_the_answers_that_are_found() -> None:
    one = subject()
    (text,) = one.continued([one.encode("abc")], 8)
    asked = [Asked("abc", [text[:2], "never said"]), Asked("abc", [text[:1]])]
    assert shares(one, asked, 8, 2) == [0.5, 1.0]


def test_a_phonebook_s_answer_is_the_whole_first_line() -> None:
    one, task = subject(), SUITES["phonebook"]["phonebook"]
    (text,) = one.continued([one.encode("abc")], 50, stop="\n")
    line = text.partition("\n")[0].strip()
    asked = [Asked("abc", [answer]) for answer in (line, line[:-1], line + "1")]
    assert len(line) > 1 and task.answer_tokens == 50
    assert shares(one, asked, 50, 2, stop="\n", is_exact=task.is_exact) == [1.0, 0.0, 0.0]


def test_what_does_not_fit_is_left_out(tmp_path: Path) -> None:
    pytest.importorskip("wonderwords")
    folder = save(subject().model, tmp_path)
    found = evaluate_generated(str(folder), "ruler", tokenizer="bytes", context_length=1500, most=1)
    assert set(found.metrics) == {
        f"ruler_{name}_1500" for name in ("single", "multikey", "multivalue", "multiquery")
    }
    told = "the worked example of at most 500 tokens does not fit with this tokenizer"
    assert found.left_out == {"tracking": told}


def test_what_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("names")
    folder = save(subject(learned_positions=100).model, tmp_path)
    with pytest.raises(UsageError, match="the model's learned positions end at 100"):
        evaluate_generated(str(folder), "phonebook", tokenizer="bytes", context_length=200, most=1)
    with pytest.raises(UsageError, match="--context-length 60: a book of 3 entries has more than 60 tokens"):
        evaluate_generated(str(folder), "phonebook", tokenizer="bytes", context_length=60, most=1)
