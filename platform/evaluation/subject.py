"""What is evaluated: a model with its tokenizer, and the run that gets the figures.

MLflow is imported where it is first used, so that the command starts fast.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

import torch
from pydantic import ValidationError

from recallfront.models import LanguageModel, load
from recallfront.models.configs.explain import explain
from recallfront.models.decoding.generation import generate
from recallfront.platform.errors import UsageError, one_line, root_cause
from recallfront.platform.front.registry import model_files
from recallfront.platform.home import home_folder
from recallfront.platform.home.data import kept
from recallfront.platform.plugins import require
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import find_run
from recallfront.platform.tracking.lineage import read_lineage
from recallfront.platform.tracking.sender import MAX_BATCH
from recallfront.platform.tracking.store import prepare_store
from recallfront.sweeps.base import SpecError
from recallfront.sweeps.tasks.text import Text
from recallfront.sweeps.text.tokenizer import TRAINED, Tokenizer, find_tokenizer, kept_tokenizer
from recallfront.sweeps.trial import TrialConfig

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
    from rich.table import Table


class Evaluated(Protocol):
    """What a model makes of a suite."""

    @property
    def run_id(self) -> str | None:
        """The run whose metrics the figures are now; None for a folder."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """The figures by their names as metrics."""

    def table(self) -> "Table":
        """The figures as a table."""


class NotLogged(UsageError):
    """The store took no figures of an evaluation, which may have taken hours: they are in `found`."""

    def __init__(self, message: object, found: Evaluated) -> None:
        super().__init__(message)
        self.found = found


@dataclass(frozen=True)
class Subject:
    """A finished model."""

    model: LanguageModel
    tokenizer: Tokenizer
    run_id: str | None  # the run that figures are logged to; None for a folder
    uri: str | None  # the store of that run

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.embedding.weight.device

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return [int(token) for token in self.tokenizer.encode([text])[0]]

    def continued(self, prompts: Sequence[list[int]], most: int, *, stop: str = "") -> list[str]:
        """The texts that greedy decoding adds to prompts, at most so many tokens.

        It ends early where `stop` is said, if that is one token; what comes after it in the text is the caller's to
        cut.
        """
        words = self.tokenizer
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        tokens = torch.full((len(prompts), int(lengths.max())), words.end)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.tensor(prompt)
        # of several tokens, such as the space that some tokenizers put before, each may be said alone
        stopping = self.encode(stop)
        stops = {words.end, *(stopping if len(stopping) == 1 else ())}
        new = generate(
            self.model,
            tokens.to(self.device),
            lengths=lengths.to(self.device),
            max_new_tokens=most,
            stop_tokens=stops,
        )
        return [words.decode(row) for row in new]

    def check_length(self, longest: int) -> None:
        """Raise UsageError if the model's learned positions end before so many tokens."""
        rows = self.model.config.learned_positions
        if 0 < rows < longest:
            raise UsageError(
                f"prompts and answers of {longest} tokens; the model's learned positions end at {rows}: give a shorter "
                "--context-length"
            )

    def log(self, found: Evaluated) -> None:
        """Add figures to the run, if there is one: all of them or none.

        Raises:
            NotLogged: the store does not take them.
        """
        if self.run_id is None or self.uri is None:
            return
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        rows = [Metric(name, value, now, 0) for name, value in found.metrics.items()]
        try:
            with _store(self.uri) as client:
                for first in range(0, len(rows), MAX_BATCH):
                    client.log_batch(self.run_id, rows[first : first + MAX_BATCH], synchronous=True)
        except UsageError as error:
            raise NotLogged(error, found) from error


def find_subject(
    model: str,
    *,
    tokenizer: str | None,
    end_token: str | None = None,
    home: Path | str | None,
    tracking_uri: str | None,
    device: str | None = None,
) -> Subject:
    """The model that a run id or key of a text trial, or the folder of an exported model, stands for.

    Args:
        tokenizer: a folder or a name, if it is not that of the trial's text.
        end_token: the token that ends a text, if that tokenizer does not say which.
        device: where the model computes; a GPU, if there is one, unless something else is named.

    Raises:
        UsageError: there is no such model, a plug-in of its trial is not loaded, or its tokenizer does not fit it.
    """
    place = home_folder(home).resolve()
    run_id = uri = None
    if end_token is not None and tokenizer is None:
        raise UsageError("--end-token: is of a tokenizer that is named with --tokenizer")
    if Path(model).is_dir():
        if tokenizer is None:
            raise UsageError(f"{model}: a folder holds no tokenizer: name one with --tokenizer")
        loaded = _load(Path(model))
    else:
        uri = prepare_store(tracking_uri, place, create=False)
        run_id = find_run(uri, model).run_id
        require(read_lineage(uri, run_id).environment.plugins, run_id)
        with _store(uri) as client, TemporaryDirectory() as folder:
            loaded = _load(model_files(client, run_id, place, folder)["recallfront.json"].parent)
    if tokenizer or uri is None:
        words = _named(str(tokenizer), end_token)
    else:
        words = _of_trial(find_run(uri, model), model, place)
    if words.size > loaded.config.vocab_size:
        raise UsageError(
            f"the tokenizer has {words.size} tokens and the model {loaded.config.vocab_size}: name the one that the "
            "model was trained with"
        )
    return Subject(loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), words, run_id, uri)


@contextmanager
def _store(uri: str) -> "Iterator[MlflowClient]":
    """MLflow's client, whose failures are raised as a UsageError."""
    from mlflow.exceptions import MlflowException

    try:
        yield open_client(uri)
    except (MlflowException, OSError) as error:
        raise UsageError(f"the MLflow store {uri!r} does not answer: {root_cause(error)}") from error


def _load(folder: Path) -> LanguageModel:
    try:
        return load(folder).eval()
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}: {one_line(error)}") from None


def _named(tokenizer: str, end_token: str | None) -> Tokenizer:
    try:
        return find_tokenizer(tokenizer, end_token)
    except SpecError as error:
        # of a task's keys the command has options
        told = re.sub(r"task\.(tokenizer|end_token)", lambda key: f"--{key[1].replace('_', '-')}", str(error))
        raise UsageError(told) from None


def _of_trial(trial: TrialRecord, run: str, home: Path) -> Tokenizer:
    """The tokenizer that a trial's text was made of."""
    try:
        task = TrialConfig.model_validate(trial.config).task
    except ValidationError as error:
        raise UsageError(f"run {run}: {explain(error, TrialConfig)}") from None
    if not isinstance(task, Text):
        raise UsageError(
            f"run {run} was trained on task {task.name!r}: the suite is text, and needs a text trial"
        )
    data = kept(task, home, trial.tags.get("data_digest", ""))
    words = None if data is None else kept_tokenizer(data, task.tokenizer)
    if words is not None:
        return words
    if task.tokenizer == TRAINED:
        raise UsageError(
            f"run {run}: its tokenizer was trained on its text, and is kept with the data of the home that it ran in; "
            f"{home} has none: name a folder with its tokenizer.json as --tokenizer"
        )
    try:
        return find_tokenizer(task.tokenizer, task.end_token)
    except SpecError as error:
        raise UsageError(f"run {run}: {error}") from None
