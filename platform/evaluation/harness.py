"""A finished model on tasks of EleutherAI's lm-eval (the extra `lm-eval`), which is imported here alone."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from recallfront.models.decoding.generation import generate
from recallfront.models.decoding.reading import answer_in_pieces
from recallfront.platform.errors import UsageError, one_line
from recallfront.platform.evaluation.subject import Subject, find_subject
from recallfront.sweeps.text.hub import hub_away, kept_alone

if TYPE_CHECKING:
    from rich.table import Table

HARNESS_PREFIX = "lm-eval:"  # of a suite's name, before its tasks
_NEW_TOKENS = 256  # of a continuation, where its task names no number: lm-eval's own default


@dataclass(frozen=True)
class HarnessEvaluation:
    """What a model makes of tasks of lm-eval."""

    run_id: str | None  # the run whose metrics the figures are now; None for a folder
    metrics: dict[str, float] = field(default_factory=dict)  # as `lm_eval/<task>/<metric>`

    def table(self) -> "Table":
        """The figures as a table."""
        from rich.table import Table

        table = Table(box=None)
        for column in ("task", "metric", "value"):
            table.add_column(column, justify="right" if column == "value" else "left")
        for name, value in self.metrics.items():
            _, task, metric = name.split("/", 2)
            table.add_row(task, metric, f"{value:.4f}")
        return table


def evaluate_harness(
    model: str,
    tasks: Sequence[str],
    *,
    data: Path | str | None = None,
    most: int | None = None,
    tokenizer: str | None = None,
    end_token: str | None = None,
    batch_size: int = 8,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
) -> HarnessEvaluation:
    """Run tasks of lm-eval on a finished model, and log their figures to its run.

    Args:
        model: a run id or key of a text trial, or the folder of an exported model.
        tasks: names of lm-eval's tasks or groups.
        data: a folder of task files (YAML) besides lm-eval's own.
        most: documents of a task, at most.
        tokenizer: a folder or a name, if it is not that of the trial's text.
        end_token: the token that ends a text, if that tokenizer does not say which.

    Raises:
        UsageError: lm-eval is not installed, there is no such model or task, or a task's data cannot be reached.
    """
    if data is not None and not Path(data).is_dir():
        raise UsageError(f"{data}: is not a folder of task files")
    named = f"--suite {HARNESS_PREFIX}{','.join(tasks)}"
    # what it says of its own settings is not what was asked for; what a user has set stays
    if "LMEVAL_LOG_LEVEL" not in os.environ:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        from lm_eval import simple_evaluate  # type: ignore[import-not-found]
        from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{named}: needs the package {error.name}: pip install 'recallfront[lm-eval]'"
        ) from None
    manager = TaskManager(include_path=None if data is None else str(data))
    unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown or not tasks:
        raise UsageError(f"{named}: lm-eval has no task {', '.join(unknown) or 'without a name'}")
    subject = find_subject(
        model, tokenizer=tokenizer, end_token=end_token, home=home, tracking_uri=tracking_uri
    )
    away = hub_away()
    with kept_alone() if away else nullcontext():
        try:
            manager.load(list(tasks))
        except Exception as error:
            # a task's data may be on the hub, in files that are not there, or behind code that is refused: any error
            reason = away if away and isinstance(error, OSError) else one_line(error, 300)
            raise UsageError(f"{named}: a task cannot be loaded: {reason}") from error
        done = simple_evaluate(
            model=_adapter(subject, batch_size),
            tasks=list(tasks),
            task_manager=manager,
            limit=most,
            bootstrap_iters=0,
            log_samples=False,
        )
    found = HarnessEvaluation(subject.run_id, _figures(done["results"]))
    subject.log(found)
    return found


def _figures(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The numbers of each task, without their errors; a filter is named where it is not lm-eval's plain one."""
    found = {}
    for task, values in results.items():
        for name, value in values.items():
            metric, _, kept = name.partition(",")
            if kept and isinstance(value, int | float) and not metric.endswith("_stderr"):
                found[f"lm_eval/{task}/{metric}" + ("" if kept == "none" else f"_{kept}")] = float(value)
    return found


def _adapter(subject: Subject, batch_size: int) -> Any:
    """The model as lm-eval asks it; the class can be made only where lm-eval is."""
    from lm_eval.api.model import TemplateLM  # type: ignore[import-not-found]

    class Adapter(TemplateLM):  # type: ignore[misc]
        @property
        def eot_token_id(self) -> int:
            return subject.tokenizer.end

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return subject.encode(string)

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            return score_all(subject, [(context, wanted) for _, context, wanted in requests], batch_size)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            return score_texts(subject, [subject.encode(request.args[0]) for request in requests], batch_size)

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            return [_continuation(subject, *request.args) for request in requests]

    return Adapter()


def score_all(
    subject: Subject, pairs: Sequence[tuple[list[int], list[int]]], batch_size: int
) -> list[tuple[float, bool]]:
    """For each (context, continuation) in tokens: the continuation's log-likelihood, and whether it is the greedy one.

    An empty context is the end of a document. A model with learned positions reads the last tokens that fit.
    """
    found: dict[int, tuple[float, bool]] = {}
    # long ones first: a batch is as wide as its longest row
    order = sorted(range(len(pairs)), key=lambda n: -sum(map(len, pairs[n])))
    for first in range(0, len(order), batch_size):
        numbers = [n for n in order[first : first + batch_size] if pairs[n][1]]
        if numbers:
            found |= zip(numbers, _scores(subject, [pairs[n] for n in numbers]), strict=True)
    return [found.get(number, (0.0, True)) for number in range(len(pairs))]


def score_texts(subject: Subject, texts: Sequence[list[int]], batch_size: int) -> list[float]:
    """The log-likelihood of each whole text in tokens, every one of which is scored once.

    A model with learned positions reads a long text in windows, each of as many tokens as it has positions; the last
    one reaches back as far as it can, as lm-eval's do.
    """
    most = subject.model.config.learned_positions or max(map(len, texts), default=0) or 1
    windows = [(number, *window) for number, text in enumerate(texts) for window in _windows(text, most)]
    found = [0.0] * len(texts)
    scores = score_all(subject, [(context, wanted) for _, context, wanted in windows], batch_size)
    for (number, _, _), (likelihood, _) in zip(windows, scores, strict=True):
        found[number] += likelihood
    return found


def _windows(text: list[int], most: int) -> Iterator[tuple[list[int], list[int]]]:
    """A text as (context, continuation), of which a model reads at most so many tokens at once."""
    for first in range(0, len(text), most):
        end = min(first + most, len(text))
        yield text[max(0, end - most - 1) : first], text[first:end]


def _scores(subject: Subject, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
    most = subject.model.config.learned_positions or None
    rows, asked = [], []
    for context, wanted in pairs:
        whole = [*(context or [subject.tokenizer.end]), *wanted]
        read = whole[:-1] if most is None else whole[:-1][-most:]
        rows.append(read)
        asked.append(wanted[-len(read) :])
    width = max(map(len, rows))
    tokens = torch.full((len(rows), width), subject.tokenizer.end)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.tensor(row)
    places = [
        number * width + place
        for number, (row, wanted) in enumerate(zip(rows, asked, strict=True))
        for place in range(len(row) - len(wanted), len(row))
    ]
    answers = torch.tensor([token for wanted in asked for token in wanted])
    device = subject.device
    done = answer_in_pieces(
        subject.model, tokens.to(device), torch.tensor(places, device=device), answers.to(device)
    )
    sizes = list(map(len, asked))
    right = (done.predicted.cpu() == answers).split(sizes)
    return [
        (-float(losses.double().sum()), bool(own.all()))
        for losses, own in zip(done.losses.cpu().split(sizes), right, strict=True)
    ]


def _continuation(subject: Subject, context: str, settings: dict[str, Any]) -> str:
    """The text that is added to a context, up to the first of what it is to stop at."""
    words, model = subject.tokenizer, subject.model
    count = int(settings.get("max_gen_toks", _NEW_TOKENS))
    prompt = subject.encode(context) or [words.end]
    if model.config.learned_positions:
        count = min(count, model.config.learned_positions - 1)
        prompt = prompt[-(model.config.learned_positions - count) :]
    sampled = float(settings.get("temperature", 0.0)) if settings.get("do_sample") else 0.0
    (new,) = generate(
        model,
        torch.tensor([prompt], device=subject.device),
        max_new_tokens=count,
        stop_tokens={words.end},
        temperature=sampled,
    )
    text = words.decode([token for token in new if token != words.end])
    until = settings.get("until") or []
    for stop in [until] if isinstance(until, str) else until:
        text = text.partition(stop)[0] if stop else text
    return text
