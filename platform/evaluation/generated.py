"""A finished model on questions that are generated for it: RULER's tasks (arXiv:2404.06654), and the phonebook.

Their words and names come from the packages wonderwords and names.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import torch
from rich.table import Table

from recallfront.platform.errors import UsageError
from recallfront.platform.evaluation.subject import Subject, find_subject
from recallfront.sweeps.phonebook_text import LookUp, phonebooks
from recallfront.sweeps.recall_suite import contains
from recallfront.sweeps.ruler_text import Question, needles, variable_tracking

QUESTIONS: Final = 100  # of a task, if no number is given
_LARGEST_BOOK: Final = 2**14  # entries


class Asked(NamedTuple):
    """A prompt, and what its continuation must hold."""

    prompt: str
    answers: list[str]


@dataclass(frozen=True)
class GeneratedTask:
    """How questions are drawn, how many tokens answer them, and whether the first line alone must be the answer."""

    draw: Callable[[Subject, int, int], list[Asked]]  # model, tokens of the context, questions
    answer_tokens: int
    is_exact: bool = False


def _ruler(make: Callable[..., list[Question]], answer_tokens: int, **settings: int) -> GeneratedTask:
    def draw(subject: Subject, length: int, questions: int) -> list[Asked]:
        found = make(
            count=lambda text: len(subject.encode(text)),
            num_samples=questions,
            max_seq_length=length,
            tokens_to_generate=answer_tokens,
            **settings,
        )
        return [Asked(one.prompt + one.answer_prefix, one.answers) for one in found]

    return GeneratedTask(draw, answer_tokens)


def _phonebook(subject: Subject, length: int, questions: int) -> list[Asked]:
    """The largest books whose prompts all fit, found by halving."""

    def draw(entries: int) -> Iterator[LookUp]:
        return phonebooks(entries=entries, num_examples=questions, seed=0)

    def fits(entries: int) -> bool:
        return all(len(subject.encode(book.prompt)) <= length for book in draw(entries))

    least, most = 3, min(_LARGEST_BOOK, length)  # an entry has a token at least
    if not fits(least):
        raise ValueError(f"a book of {least} entries has more than {length} tokens")
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return [Asked(book.prompt, [book.answer]) for book in draw(least)]


SUITES: Final[dict[str, dict[str, GeneratedTask]]] = {
    "ruler": {
        "single": _ruler(needles, 128),
        "multikey": _ruler(needles, 128, num_needle_k=4),
        "multivalue": _ruler(needles, 128, num_needle_v=4),
        "multiquery": _ruler(needles, 128, num_needle_q=4),
        "tracking": _ruler(variable_tracking, 30),
    },
    "phonebook": {"phonebook": GeneratedTask(_phonebook, 50, is_exact=True)},
}


@dataclass(frozen=True)
class GeneratedEvaluation:
    """What a model makes of generated questions."""

    run_id: str | None  # the run whose metrics the shares are now; None for a folder
    metrics: dict[str, float] = field(default_factory=dict)  # as `ruler_single_1000`
    left_out: dict[str, str] = field(default_factory=dict)  # tasks whose questions do not fit, and why

    def table(self) -> Table:
        """The shares as a table."""
        table = Table(box=None)
        table.add_column("task")
        table.add_column("answers found", justify="right")
        for name, share in self.metrics.items():
            table.add_row(name.replace("_", " "), f"{share:.3f}")
        for name, reason in self.left_out.items():
            table.add_row(f"{name.replace('_', ' ')} is left out: {reason}", "–")
        return table


@torch.no_grad()
def evaluate_generated(
    model: str,
    suite: str,
    *,
    context_length: int = 1000,
    most: int | None = None,
    tokenizer: str | None = None,
    end_token: str | None = None,
    batch_size: int = 8,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
) -> GeneratedEvaluation:
    """Ask a finished model the questions of a suite, greedily, and log the mean shares of answers that are found.

    Args:
        model: a run id or key of a text trial, or the folder of an exported model.
        suite: a name of `SUITES`.
        context_length: tokens of a prompt, of RULER's with room for the answer.
        most: questions of a task.
        tokenizer: a folder or a name, if it is not that of the trial's text.
        end_token: the token that ends a text, if that tokenizer does not say which.

    Raises:
        UsageError: there is no such model, its positions end too early, or the questions do not fit.
    """
    subject = find_subject(
        model, tokenizer=tokenizer, end_token=end_token, home=home, tracking_uri=tracking_uri
    )
    found = GeneratedEvaluation(subject.run_id)
    for name, task in SUITES[suite].items():
        try:
            asked = task.draw(subject, context_length, most or QUESTIONS)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"--suite {suite}: needs the package {error.name}: pip install {error.name}"
            ) from None
        except ValueError as error:
            found.left_out[name] = str(error)
            continue
        called = name if name == suite else f"{suite}_{name}"
        stop = "\n" if task.is_exact else ""
        held = shares(subject, asked, task.answer_tokens, batch_size, stop=stop, is_exact=task.is_exact)
        found.metrics[f"{called}_{context_length}"] = sum(held) / len(held)
    if not found.metrics:
        raise UsageError(f"--context-length {context_length}: {next(iter(found.left_out.values()))}")
    subject.log(found)
    return found


def shares(
    subject: Subject,
    asked: list[Asked],
    answer_tokens: int,
    batch_size: int,
    *,
    stop: str = "",
    is_exact: bool = False,
) -> list[float]:
    """For each question the share of its answers that the continuation holds, up to `stop` if that is given.

    With `is_exact` an answer must be all that is said, but for spaces around it.
    """
    prompts = [subject.encode(one.prompt) for one in asked]
    subject.check_length(max(map(len, prompts)) + answer_tokens)
    order = sorted(range(len(asked)), key=lambda number: len(prompts[number]))
    held = [0.0] * len(asked)
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        texts = subject.continued([prompts[number] for number in batch], answer_tokens, stop=stop)
        for number, text in zip(batch, texts, strict=True):
            said = text.partition(stop)[0] if stop else text
            answers = asked[number].answers
            right = [said.strip() == one if is_exact else contains(said, [one]) for one in answers]
            held[number] = sum(right) / len(answers)
    return held
