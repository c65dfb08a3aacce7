"""The recall suite: SWDE, FDA, SQuAD completion, NQ, TriviaQA and DROP as text to be continued.

Prompts, truncation and score are those of Just Read Twice (arXiv:2407.05483), whose prompts may hold the document
twice, and those of Based (arXiv:2402.18668), which takes the documents of its three data sets as they are.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

MOST_ANSWER_TOKENS: Final = 48  # that are generated; a new line ends the answer, too
ROOM_FOR_ANSWER: Final = 50  # tokens of a context that are left free
_SUMMARY: Final = "Summary of information above..."  # and what follows is not text of a SWDE document
Document = Mapping[str, Any]


@dataclass(frozen=True)
class DataSet:
    """One data set of the suite: which fields its documents have, and how they become prompts."""

    prompt: Callable[[Document, bool], str]  # of a document; True: with the document twice
    context: str  # the field that is truncated
    located: tuple[str, ...]  # the fields that truncation looks for; without any it keeps the beginning
    answers: str  # the field with the answer, or with several
    fields: tuple[str, ...]  # that a document must have
    twice_fields: tuple[str, ...] = ()  # that it must have besides, for prompts that hold it twice
    end: str | None = None  # where the context ends before it is truncated


def extraction(document: Document, twice: bool, *, is_fda: bool = False) -> str:
    """A document and the name of one of its fields: SWDE, or FDA, whose documents are trimmed less."""
    text, key = str(document["text"]), str(document["key"])
    if not is_fda:
        text = text.partition(_SUMMARY)[0]
    text = _without_end(text, f"{key}:")
    name = key[:1].upper() + key[1:]
    if is_fda:
        text = text.strip("\n").strip(".")
    elif twice:
        text = text.strip("\n").strip(".").strip()
    else:
        text = text.strip().strip(".")
    if not (is_fda or twice) or not text.endswith("."):
        text += "."
    return f"Information about {name.strip(':')}. {text}\n{text} {name}:" if twice else f"{text} {name}:"


def completion(document: Document, twice: bool) -> str:
    """A text that breaks off where the answer comes: SQuAD."""
    text = str(document["text"]).strip()
    if not twice:
        return text
    context = str(document["context"]).partition("Question:")[0]
    return f"{document['question']} {context}\n{text}"


def cloze(document: Document, twice: bool, *, kind: str) -> str:
    """A context and a sentence that its answer completes: NQ, TriviaQA or DROP."""
    context, question = str(document["context"]).strip(), str(document["question"]).strip()
    if kind == "triviaqa":
        # the authors strip before their marks go, not after
        context = re.sub(r"\[PAR\]|\[DOC\]|\[TLE\]", "", context)
    if kind == "nq" and not twice:
        context = context.removesuffix(question) if question else context
    else:
        context = _without_end(context, question)
    context = context.strip().strip(".")
    if not twice:
        return f"{context}. {question}"
    asked = str(document["orig_question"])
    context = f"{context.strip()}."
    return f"{asked if kind == 'triviaqa' else asked.strip(':')} {context}\n{context} {question}"


def as_it_is(document: Document, twice: bool = False) -> str:
    """The prompt of Based's harness: the text, untouched."""
    return str(document["text"])


_EXTRACTED, _ASKED = ("text", "key", "value"), ("context", "question", "answers")
DATA_SETS: Final = {
    "swde": DataSet(extraction, "text", ("key", "value"), "value", _EXTRACTED, end=_SUMMARY),
    "fda": DataSet(partial(extraction, is_fda=True), "text", ("key", "value"), "value", _EXTRACTED),
    "squad": DataSet(completion, "text", ("value",), "value", ("text", "value"), ("context", "question")),
    "nq": DataSet(partial(cloze, kind="nq"), "context", ("answers",), "answers", _ASKED, ("orig_question",)),
    "triviaqa": DataSet(
        partial(cloze, kind="triviaqa"), "context", (), "answers", _ASKED, ("orig_question",)
    ),
    "drop": DataSet(partial(cloze, kind="drop"), "context", (), "answers", _ASKED, ("orig_question",)),
}


def contains(continuation: str, answers: Sequence[str]) -> bool:
    """Whether a continuation has one of the answers in it, in any case."""
    return any(re.search(re.escape(answer), continuation, re.IGNORECASE) for answer in answers)


def answers_of(document: Document, field: str) -> list[str]:
    """The answer of a document, or all of several; every continuation would hold an empty one, which is none."""
    return [text for text in _texts(document[field]) if text.strip()]


def located_answer(document: Document, field: str) -> str:
    """What truncation looks for: the field as it stands, the first of several, "" if there is none."""
    return next(iter(_texts(document[field])), "")


def truncated_document(
    document: Document,
    kind: DataSet,
    *,
    encode: Callable[[str], list[Any]],
    decode: Callable[[list[Any]], str],
    context_length: int,
) -> dict[str, Any] | None:
    """The document with its context truncated as the authors do it; None if it has no answer or they leave it out."""
    if not answers_of(document, kind.answers):
        return None
    context, place = str(document[kind.context]), document.get("tok_pos")
    short = truncated(
        context if kind.end is None else context.partition(kind.end)[0],
        [located_answer(document, field) for field in kind.located],
        alternatives=[text for text in _texts(document.get("alt_answers")) if text.strip()],
        token_place=place if isinstance(place, int) else None,
        encode=encode,
        decode=decode,
        context_length=context_length,
    )
    return None if short is None else {**document, kind.context: short}


def truncated(
    context: str,
    wanted: Sequence[str],
    *,
    alternatives: Sequence[str] = (),
    token_place: int | None = None,
    encode: Callable[[str], list[Any]],
    decode: Callable[[list[Any]], str],
    context_length: int = 1000,
    answer_length: int = ROOM_FOR_ANSWER,
) -> str | None:
    """So many tokens of a context around the first place of what is `wanted`; None: the document is left out.

    The authors' own rule. A wanted text of one character or none drops the document, and nothing wanted leaves the
    beginning of the context. If none is found, the first of the `alternatives` that occurs takes their place; without
    one, the token at `token_place` does in a context that is too long, or the end of the context. A window that the
    context's end cuts off is not moved.
    """
    room = context_length - answer_length
    context = context.strip()
    if any(len(text) <= 1 for text in wanted):
        return None
    places = _places(context, wanted) or (_places(context, alternatives)[:1] if wanted else [0])
    # where nothing is found the authors cut at -1: all but the last character stands before it
    before = len(encode(context[: min(places, default=-1)]))
    if not places and token_place is not None and before > room:
        before = token_place
    start = max(0, before - room // 2)
    return decode(encode(context)[start : start + room])


def _places(context: str, texts: Sequence[str]) -> list[int]:
    """Where those texts that occur in a context first stand in it, in any case."""
    found = (re.search(re.escape(text), context, re.IGNORECASE) for text in texts)
    return [match.start() for match in found if match]


def _texts(value: Any) -> list[str]:
    """The texts of a field that holds one or several; None is an empty one."""
    values = value if isinstance(value, list | tuple) else [value]
    return ["" if text is None else str(text) for text in values]


def _without_end(text: str, end: str) -> str:
    """The text without the ending, in any case and as often as it is there."""
    while end and text.lower().endswith(end.lower()):
        text = text[: -len(end)]
    return text
