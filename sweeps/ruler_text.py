"""RULER's needle tasks and variable tracking (arXiv:2404.06654) as text: the rows that the authors' programs write.

The number of lines around what is asked for is the largest that fits, found by bisection with the tokenizer; the search
draws random numbers as well, so that the rows depend on the tokenizer. The words of keys and values come from the
package wonderwords. Essays, which are a download, are left out.
"""

import random
import string
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib.resources import files
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import numpy as np

_NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_NEEDLE = "One of the special magic {kind} for {key} is: {value}."
_NEEDLES_ASK = (
    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. I will quiz you about "
    "the {kind} afterwards.\n{context}\n"
    "What are all the special magic {kind} for {query} mentioned in the provided text?"
)
_NEEDLES_ANSWER = " The special magic {kind} for {query} mentioned in the provided text are"
_TRACKING_ASK = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\n"
    "Question: Find all variables that are assigned the value {query} in the text above."
)
_TRACKING_ANSWER = (
    " Answer: According to the chain(s) of variable assignment in the text above, {number} variables are assigned the "
    "value {query}, they are: "
)
_EXAMPLE_VALUE, _EXAMPLE_LENGTH, _EXAMPLE_STEP = "12345", 500, 5
_TRIES = 100  # of drawing a question with the fewest lines that fits all the same
Kind = Literal["numbers", "words", "uuids"]
Count = Callable[[str], int]
DrawnPrompt = tuple[str, str, list[str]]  # prompt, beginning of the answer, answers


class Question(NamedTuple):
    """A prompt, the beginning of its answer, what the answer must hold, and the tokens of all of it."""

    prompt: str
    answer_prefix: str
    answers: list[str]
    length: int


def needles(
    *,
    count: Count,
    num_samples: int,
    max_seq_length: int,
    num_needle_k: int = 1,
    num_needle_v: int = 1,
    num_needle_q: int = 1,
    type_haystack: Literal["noise", "needle"] = "noise",
    type_needle_k: Kind = "words",
    type_needle_v: Kind = "numbers",
    tokens_to_generate: int = 128,
    random_seed: int = 42,
) -> list[Question]:
    """Values of keys that stand somewhere in a long text, with the authors' own arguments.

    count: the tokens of a text; max_seq_length: tokens of a prompt and its answer.

    Raises:
        ValueError: the needles do not fit.
    """
    rng = random.Random(random_seed)
    keys = max(num_needle_k, num_needle_q)
    one = num_needle_q * num_needle_v == 1
    ask, told = _NEEDLES_ASK, _NEEDLES_ANSWER
    if one:
        # the authors replace every "are" of both sentences
        ask, told = (
            text.replace("Some", "A").replace("are all", "is").replace("are", "is") for text in (ask, told)
        )
    kind = type_needle_v[:-1] if one else type_needle_v

    def draw(lines: int) -> DrawnPrompt:
        known = [
            (_drawn(rng, type_needle_k), [_drawn(rng, type_needle_v) for _ in range(num_needle_v)])
            for _ in range(keys)
        ]
        hidden = [
            _NEEDLE.format(kind=type_needle_v, key=key, value=value)
            for key, values in known
            for value in values
        ]
        random.Random(random_seed).shuffle(hidden)
        text = [_NOISE] * lines
        if type_haystack == "needle":
            text = [
                _NEEDLE.format(
                    kind=type_needle_v, key=_drawn(rng, type_needle_k), value=_drawn(rng, type_needle_v)
                )
                for _ in range(lines)
            ]
        for place, needle in zip(
            sorted(rng.sample(range(lines), len(hidden)), reverse=True), hidden, strict=True
        ):
            text.insert(place, needle)
        asked = [known[at] for at in rng.sample(range(keys), num_needle_q)]
        names = [key for key, _ in asked]
        query = ", ".join(names[:-1]) + ", and " + names[-1] if len(names) > 1 else names[0]
        fill = partial(str.format, kind=kind, query=query)
        return (
            fill(ask, context="\n".join(text)),
            fill(told),
            [value for _, values in asked for value in values],
        )

    step = _step(max_seq_length)
    if keys * num_needle_v > step:
        raise ValueError(
            f"{keys * num_needle_v} needles: must be at most {step}, the fewest lines around them"
        )
    lines = _most_lines(draw, count, max_seq_length, step, besides=tokens_to_generate)
    return [
        _fitting(draw, count, lines, step, max_seq_length, tokens_to_generate) for _ in range(num_samples)
    ]


def variable_tracking(
    *,
    count: Count,
    num_samples: int,
    max_seq_length: int,
    num_chains: int = 1,
    num_hops: int = 4,
    tokens_to_generate: int = 30,
    random_seed: int = 42,
) -> list[Question]:
    """Which variables a value was assigned to, through others; a worked example comes first, as in the original.

    count: the tokens of a text; max_seq_length: tokens of a prompt and its answer.

    Raises:
        ValueError: the chains do not fit, or the example does not, as in bytes, or the search for the number of lines
            draws a name twice.
    """
    rng, legacy = random.Random(random_seed), np.random.RandomState(random_seed)

    def letters(length: int) -> str:
        return "".join(rng.choices(string.ascii_uppercase, k=length))

    def chains(
        hops: int, name_length: int, value: Callable[[], str]
    ) -> tuple[list[list[str]], str, list[str]]:
        """The assignments of each chain, the first one's value, and its variables."""
        names = [letters(name_length) for _ in range((hops + 1) * num_chains)]
        while len(set(names)) < num_chains * (hops + 1):
            names.append(letters(name_length))
        found: list[list[str]] = []
        values = []
        for first in range(0, len(names), hops + 1):
            own = names[first : first + hops + 1]
            values.append(value())
            if len(own) <= hops:  # the names that were drawn anew begin a chain that ends early
                raise ValueError(f"random_seed={random_seed}: two variables get the same name; take another")
            steps = [f"VAR {own[at + 1]} = VAR {own[at]} " for at in range(hops)]
            found.append([f"VAR {own[0]} = {values[-1]}", *steps])
        return found, values[0], names[: hops + 1]

    def draw(lines: int, is_example: bool = False) -> DrawnPrompt:
        value = (lambda: _EXAMPLE_VALUE) if is_example else (lambda: str(legacy.randint(10000, 99999)))
        hops = min(10, num_hops) if is_example else num_hops
        assigned, asked, answers = chains(hops, 3 if is_example else 5, value)
        text = [_NOISE] * lines
        for chain in assigned:
            places = sorted(rng.sample(range(len(text)), len(chain)))
            for earlier, (place, assignment) in enumerate(zip(places, chain, strict=True)):
                text.insert(place + earlier, assignment)
        context = "\n".join(text).replace(". \n", ".\n")
        fill = partial(str.format, query=asked, number=num_hops + 1)
        return fill(_TRACKING_ASK, context=context), fill(_TRACKING_ANSWER), answers

    step = _step(max_seq_length, default=10)
    if num_hops + 1 > _EXAMPLE_STEP:
        raise ValueError(f"num_hops={num_hops}: must be at most {_EXAMPLE_STEP - 1}")
    draw_example = partial(draw, is_example=True)
    lines = _most_lines(draw_example, count, _EXAMPLE_LENGTH, _EXAMPLE_STEP)
    try:
        found = _fitting(draw_example, count, lines, _EXAMPLE_STEP, _EXAMPLE_LENGTH)
    except ValueError:
        raise ValueError(
            f"the worked example of at most {_EXAMPLE_LENGTH} tokens does not fit with this tokenizer"
        ) from None
    example = f"{found.prompt}{found.answer_prefix} {' '.join(found.answers)}\n"

    def draw_after_example(lines: int) -> DrawnPrompt:
        prompt, prefix, answers = draw(lines)
        own = example
        for name in own.split()[-num_hops - 1 :]:
            own = own.replace(name, letters(len(name)))
        own = own.replace(_EXAMPLE_VALUE, str(legacy.randint(10000, 99999)))
        return f"{own}\n{prompt}", prefix, answers

    lines = _most_lines(draw, count, max_seq_length, step, besides=count(example) + tokens_to_generate)
    return [
        _fitting(draw_after_example, count, lines, step, max_seq_length, tokens_to_generate)
        for _ in range(num_samples)
    ]


def _step(max_seq_length: int, default: int = 25) -> int:
    """Lines by which the text around is made shorter if it does not fit; also the fewest."""
    return 5 if max_seq_length < 4096 else default


def _most_lines(
    draw: Callable[[int], DrawnPrompt], count: Count, max_seq_length: int, step: int, besides: int = 0
) -> int:
    """The most lines with which a prompt fits, by bisection between `step` and three times what they should be."""
    prompt, prefix, _ = draw(step)
    low, high = step, max(int(max_seq_length / (count(prompt + prefix) / step) * 3), 2 * step)
    best = step
    while low <= high:
        middle = (low + high) // 2
        prompt, prefix, _ = draw(middle)
        if count(prompt + prefix) + besides <= max_seq_length:
            best, low = middle, middle + 1
        else:
            high = middle - 1
    return best


def _fitting(
    draw: Callable[[int], DrawnPrompt],
    count: Count,
    lines: int,
    step: int,
    max_seq_length: int,
    besides: int = 0,
) -> Question:
    """A question that fits, with fewer lines if need be; one that cannot be drawn counts as too long."""
    for _ in range(lines // step + _TRIES):
        with suppress(ValueError):
            prompt, prefix, answers = draw(lines)
            length = count(prompt + prefix) + besides
            if length <= max_seq_length:
                return Question(prompt, prefix, answers, length)
        if lines > step:
            lines -= step
    raise ValueError(
        f"max_seq_length={max_seq_length}: has no room for a question with {step} lines around it"
    )


def _drawn(rng: random.Random, kind: Kind) -> str:
    if kind == "numbers":
        return str(rng.randint(10**6, 10**7 - 1))
    if kind == "words":
        return str(rng.choice(_words()))
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


class _Pairs(Sequence[str]):
    """All pairs `adjective-noun`, sorted, each once: millions, of which none is made before it is asked for.

    Pairs of one adjective stand together, except where it begins another one (blue, blue-eyed): those share a block.
    """

    def __init__(self, adjectives: Iterable[str], nouns: Iterable[str]) -> None:
        nouns = sorted(set(nouns))
        self._blocks: list[tuple[str, list[str]]] = []
        for beginning in sorted({f"{adjective}-" for adjective in adjectives}):
            if self._blocks and beginning.startswith(self._blocks[-1][0]):
                first, endings = self._blocks[-1]
                rest = beginning.removeprefix(first)
                self._blocks[-1] = first, sorted({*endings, *(f"{rest}{noun}" for noun in nouns)})
            else:
                self._blocks.append((beginning, nouns))
        self._ends = list(accumulate(len(endings) for _, endings in self._blocks))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, at: Any) -> Any:
        number = bisect_right(self._ends, at)
        beginning, endings = self._blocks[number]
        return f"{beginning}{endings[at - self._ends[number]]}"


@cache
def _words() -> _Pairs:
    """Pairs of the words of wonderwords."""
    lists = files("wonderwords") / "assets"
    adjectives, nouns = (
        (lists / f"{kind}list.txt").read_text(encoding="utf-8").splitlines() for kind in ("adjective", "noun")
    )
    return _Pairs((word.rstrip() for word in adjectives), (word.rstrip() for word in nouns))
