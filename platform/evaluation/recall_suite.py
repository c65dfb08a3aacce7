"""A finished model on the recall suite: prompts of the user's documents are continued, and searched for the answer."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from rich.table import Table

from recallfront.platform.errors import UsageError, one_line
from recallfront.platform.evaluation.subject import Subject, find_subject
from recallfront.sweeps.base import SpecError
from recallfront.sweeps.recall_suite import (
    DATA_SETS,
    MOST_ANSWER_TOKENS,
    DataSet,
    Document,
    answers_of,
    contains,
    truncated_document,
)
from recallfront.sweeps.text.source import TABLES, rows_of


class _Asked(NamedTuple):
    """What a model is asked of one data set."""

    prompts: list[tuple[list[int], list[str]]]  # in tokens, each with its answers
    dropped: int


@dataclass(frozen=True)
class Score:
    """What a model makes of one data set."""

    documents: int
    dropped: int  # that have no answer, or one that is too short to be looked for
    contained: int  # whose continuation holds the answer

    @property
    def share(self) -> float:
        return self.contained / self.documents


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of the suite."""

    run_id: str | None  # the run whose metrics the shares are now; None for a folder
    context_length: int
    twice: bool
    scores: dict[str, Score] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """The shares by their names as metrics, and their mean."""
        kind = f"recall_suite_{'twice_' if self.twice else ''}{self.context_length}_"
        found = {kind + name: score.share for name, score in self.scores.items()}
        return found | {f"{kind}mean": sum(found.values()) / len(found)}

    def table(self) -> Table:
        """The shares as a table."""
        table = Table(box=None)
        for column in ("data set", "contained", "documents", "left out"):
            table.add_column(column, justify="left" if column == "data set" else "right")
        for name, score in self.scores.items():
            table.add_row(name, f"{score.share:.3f}", f"{score.documents:,}", f"{score.dropped:,}")
        return table


@torch.no_grad()
def evaluate(
    model: str,
    data: Path | str,
    *,
    twice: bool = False,
    context_length: int = 1000,
    most: int | None = None,
    tokenizer: str | None = None,
    end_token: str | None = None,
    batch_size: int = 8,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
) -> Evaluation:
    """Continue the prompts of the data sets in a folder, greedily, and log the shares of answers that are found.

    Args:
        model: a run id or key of a text trial, or the folder of an exported model.
        data: a folder with any of swde, fda, squad, nq, triviaqa, drop as `.jsonl` or `.parquet`, in their fields.
        twice: prompts hold the document twice (arXiv:2407.05483).
        context_length: tokens that documents are truncated to, room for the answer included.
        most: documents of a data set, at most.
        tokenizer: a folder or a name, if it is not that of the trial's text.
        end_token: the token that ends a text, if that tokenizer does not say which.

    Raises:
        UsageError: there is no such model or data, or they do not fit each other; before anything is generated.
    """
    files = _files(Path(data))
    subject = find_subject(
        model, tokenizer=tokenizer, end_token=end_token, home=home, tracking_uri=tracking_uri
    )
    found = Evaluation(subject.run_id, context_length, twice)
    asked = {name: _asked(subject, name, file, found, most) for name, file in files.items()}
    for name, questions in asked.items():
        found.scores[name] = _score(subject, questions, batch_size)
    subject.log(found)
    return found


def _files(data: Path) -> dict[str, Path]:
    """Data set -> its file in the folder."""
    found: dict[str, Path] = {}
    for name in DATA_SETS:
        there = [path for kind in TABLES if (path := data / f"{name}{kind}").is_file()]
        if len(there) > 1:
            raise UsageError(f"{data}: has {name} twice, as {there[0].name} and {there[1].name}")
        if there:
            found[name] = there[0]
    if not found:
        wanted = ", ".join(DATA_SETS)
        raise UsageError(f"{data}: holds none of {wanted} as .jsonl or .parquet")
    return found


def _asked(subject: Subject, name: str, file: Path, how: Evaluation, most: int | None) -> _Asked:
    """The prompts of a data set, the shortest first."""
    kind, dropped = DATA_SETS[name], 0
    prompts: list[tuple[list[int], list[str]]] = []
    for document in _documents(file, kind, most, how.twice):
        short = truncated_document(
            document,
            kind,
            encode=subject.encode,
            decode=subject.tokenizer.decode,
            context_length=how.context_length,
        )
        if short is None:
            dropped += 1
            continue
        prompts.append((subject.encode(kind.prompt(short, how.twice)), answers_of(document, kind.answers)))
    if not prompts:
        raise UsageError(f"{file}: has no document with an answer of two characters or more")
    subject.check_length(max(len(tokens) for tokens, _ in prompts) + MOST_ANSWER_TOKENS)
    prompts.sort(key=lambda prompt: len(prompt[0]))
    return _Asked(prompts, dropped)


def _score(subject: Subject, asked: _Asked, batch_size: int) -> Score:
    contained = 0
    for first in range(0, len(asked.prompts), batch_size):
        batch = asked.prompts[first : first + batch_size]
        for text, (_, answers) in zip(
            subject.continued([p for p, _ in batch], MOST_ANSWER_TOKENS, stop="\n"), batch, strict=True
        ):
            contained += contains(text.partition("\n")[0], answers)
    return Score(len(asked.prompts), asked.dropped, contained)


def _documents(file: Path, kind: DataSet, most: int | None, twice: bool) -> Iterator[Document]:
    needed = (*kind.fields, *(kind.twice_fields if twice else ()))
    try:
        for number, document in enumerate(rows_of(file, needed)):
            if number == most:
                return
            # an answer that is null leaves the document out
            missing = [
                name
                for name in needed
                if name not in document or (document[name] is None and name != kind.answers)
            ]
            if missing:
                raise UsageError(f"{file}: document {number + 1} has no {missing[0]!r}")
            yield document
    except SpecError as error:
        raise UsageError(str(error)) from None
    except (OSError, ValueError) as error:
        # pyarrow's and json's errors are ValueErrors
        raise UsageError(f"{file}: cannot be read: {one_line(error)}") from None
