"""A finished model on the recall suite: prompts of the user's documents are continued, and searched for the answer.

MLflow is imported where it is first used, so that the command starts fast.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from recallfront.models import LanguageModel, load
from recallfront.models.configs.explain import explain
from recallfront.models.decoding.generation import generate
from recallfront.platform.errors import UsageError, one_line, root_cause
from recallfront.platform.front.registry import model_files
from recallfront.platform.home import home_folder
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import find_run
from recallfront.platform.tracking.store import prepare_store
from recallfront.sweeps.base import SpecError
from recallfront.sweeps.recall_suite import (
    DATA_SETS,
    MOST_ANSWER_TOKENS,
    DataSet,
    Document,
    answers_of,
    contains,
    truncated,
)
from recallfront.sweeps.tasks.text import Text
from recallfront.sweeps.text.source import TABLES, rows_of
from recallfront.sweeps.text.tokenizer import Tokenizer, find_tokenizer, kept_tokenizer
from recallfront.sweeps.trial import TrialConfig

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
    from rich.table import Table


@dataclass(frozen=True)
class Score:
    """What a model makes of one data set."""

    documents: int
    dropped: int  # whose answer is too short to be looked for
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

    def table(self) -> "Table":
        """The shares as a table."""
        from rich.table import Table

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

    Raises:
        UsageError: there is no such model or data, or they do not fit each other.
    """
    files = _files(Path(data))
    place = home_folder(home).resolve()
    if Path(model).is_dir():
        if tokenizer is None:
            raise UsageError(f"{model}: a folder holds no tokenizer: name one with --tokenizer")
        found = Evaluation(None, context_length, twice)
        loaded = _load(Path(model))
    else:
        uri = prepare_store(tracking_uri, place, create=False)
        run_id = find_run(uri, model).run_id
        found = Evaluation(run_id, context_length, twice)
        with _store(uri) as client, TemporaryDirectory() as folder:
            loaded = _load(model_files(client, run_id, place, folder)["recallfront.json"].parent)
    words = _named(tokenizer) if tokenizer else _of_trial(find_run(uri, model).config, model, place)
    if words.size > loaded.config.vocab_size:
        raise UsageError(
            f"the tokenizer has {words.size} tokens and the model {loaded.config.vocab_size}: name the one that the "
            "model was trained with"
        )
    for name, file in files.items():
        found.scores[name] = _score(loaded, words, name, file, found, most, batch_size)
    if found.run_id is not None:
        with _store(uri) as client:
            for metric, value in found.metrics.items():
                client.log_metric(found.run_id, metric, value)
    return found


@contextmanager
def _store(uri: str) -> "Iterator[MlflowClient]":
    """MLflow's client, whose failures are raised as a UsageError."""
    from mlflow.exceptions import MlflowException

    try:
        yield open_client(uri)
    except (MlflowException, OSError) as error:
        raise UsageError(f"the MLflow store {uri!r} does not answer: {root_cause(error)}") from error


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


def _load(folder: Path) -> LanguageModel:
    try:
        return load(folder).eval()
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}: {one_line(error)}") from None


def _named(tokenizer: str) -> Tokenizer:
    try:
        return find_tokenizer(tokenizer)
    except SpecError as error:
        raise UsageError(str(error)) from None


def _of_trial(config: dict[str, Any], run: str, home: Path) -> Tokenizer:
    """The tokenizer that a trial's text was made of."""
    try:
        task = TrialConfig.model_validate(config).task
    except ValidationError as error:
        raise UsageError(f"run {run}: {explain(error, TrialConfig)}") from None
    if not isinstance(task, Text):
        raise UsageError(
            f"run {run} was trained on task {task.name!r}: the suite is text, and needs a text trial"
        )
    kept = task.kept_in(home / "data")
    return _named(task.tokenizer) if kept is None else kept_tokenizer(kept)


def _score(
    model: LanguageModel,
    words: Tokenizer,
    name: str,
    file: Path,
    how: Evaluation,
    most: int | None,
    batch_size: int,
) -> Score:
    kind, prompts, dropped = DATA_SETS[name], [], 0
    for document in _documents(file, kind, most):
        short = _shortened(document, kind, words, how.context_length)
        if short is None:
            dropped += 1
            continue
        prompts.append((_encode(words, kind.prompt(short, how.twice)), answers_of(document, kind.answers)))
    if not prompts:
        raise UsageError(f"{file}: has no document with an answer of two characters or more")
    longest = max(len(tokens) for tokens, _ in prompts) + MOST_ANSWER_TOKENS
    if 0 < model.config.learned_positions < longest:
        raise UsageError(
            f"{file}: prompts and answers of {longest} tokens; the model's learned positions end at "
            f"{model.config.learned_positions}: give a shorter --context-length"
        )
    prompts.sort(key=lambda prompt: len(prompt[0]))
    contained = 0
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        for text, (_, answers) in zip(_continued(model, words, [p for p, _ in batch]), batch, strict=True):
            contained += contains(text.partition("\n")[0], answers)
    return Score(len(prompts), dropped, contained)


def _documents(file: Path, kind: DataSet, most: int | None) -> Iterator[Document]:
    try:
        for number, document in enumerate(rows_of(file)):
            if number == most:
                return
            missing = [name for name in kind.fields if document.get(name) is None]
            if missing:
                raise UsageError(f"{file}: document {number + 1} has no {missing[0]!r}")
            yield document
    except (OSError, ValueError) as error:
        # pyarrow's and json's errors are ValueErrors
        raise UsageError(f"{file}: cannot be read: {one_line(error)}") from None


def _shortened(
    document: Document, kind: DataSet, words: Tokenizer, context_length: int
) -> dict[str, Any] | None:
    """The document with its context truncated around the answer, as the authors do it; None if they leave it out."""
    wanted = answers_of(document, kind.answers)[:1] if kind.located else []
    if kind.context is None:
        return None if any(len(text) <= 1 for text in wanted) else dict(document)
    short = truncated(
        str(document[kind.context]),
        wanted,
        encode=lambda text: _encode(words, text),
        decode=words.decode,
        context_length=context_length,
    )
    return None if short is None else {**document, kind.context: short}


def _encode(words: Tokenizer, text: str) -> list[int]:
    return [int(token) for token in words.encode([text])[0]]


def _continued(model: LanguageModel, words: Tokenizer, prompts: Sequence[list[int]]) -> list[str]:
    """The texts that greedy decoding adds to prompts."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    tokens = torch.full((len(prompts), int(lengths.max())), words.end)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    stops = {words.end, *_encode(words, "\n")}
    new = generate(model, tokens, lengths=lengths, max_new_tokens=MOST_ANSWER_TOKENS, stop_tokens=stops)
    return [words.decode(row) for row in new]
