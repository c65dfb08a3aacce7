"""Phonebook look-up as text (Repeat After Me, arXiv:2402.01032), as the authors draw it.

Names come from the package names, a first and a last one of the census; two people may have the same.
"""

import random
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import NamedTuple

_COMMONEST = 90  # per cent of the people whose names the lists cover


class LookUp(NamedTuple):
    """A phonebook, two of its entries again and the name of a third, whose number is the answer."""

    prompt: str
    answer: str


def phonebooks(*, entries: int, num_examples: int, seed: int) -> Iterator[LookUp]:
    """Books of so many entries, at least 3, each drawn as it is asked for."""
    rng = random.Random(seed)
    return (_book(rng, entries) for _ in range(num_examples))


def _book(rng: random.Random, entries: int) -> LookUp:
    book = []
    for _ in range(entries):
        first = _name(rng, f"dist.{rng.choice(('male', 'female'))}.first")
        last = _name(rng, "dist.all.last")
        book.append((f"{first} {last}", _number(rng)))
    lines = [f"{name}: {number}" for name, number in book]
    one, other, asked = rng.sample(range(entries), 3)
    name, number = book[asked]
    text = "\n".join(lines)
    return LookUp(f"{text}\n\n{lines[one]}\n{lines[other]}\n\n{name}:", number)


def _number(rng: random.Random) -> str:
    return "".join(str(digit) for digit in (rng.randint(6, 9), *(rng.randint(0, 9) for _ in range(9))))


def _name(rng: random.Random, file: str) -> str:
    """A name of a list, as often as people have it."""
    names, shares = _names(file)
    at = bisect_right(shares, rng.random() * _COMMONEST)
    return names[at].capitalize() if at < len(names) else ""


@cache
def _names(file: str) -> tuple[list[str], list[float]]:
    """Names, and the per cent of people with this one or one before it."""
    rows = [line.split() for line in (files("names") / file).read_text(encoding="utf-8").splitlines()]
    return [row[0] for row in rows], [float(row[2]) for row in rows]
