"""The suites of text by their names. What a suite takes, such as a folder of data, its function's arguments say."""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter, signature
from typing import Any

from recallfront.platform.errors import UsageError
from recallfront.platform.evaluation.extraction import SUITE as EXTRACTION
from recallfront.platform.evaluation.extraction import evaluate_extraction
from recallfront.platform.evaluation.generated import SUITES, evaluate_generated
from recallfront.platform.evaluation.harness import HARNESS_PREFIX, evaluate_harness
from recallfront.platform.evaluation.recall_suite import evaluate
from recallfront.platform.evaluation.subject import Evaluated

_RECALL = "recall"


def evaluate_on(model: str, suite: str, options: Mapping[str, Any], **subject: Any) -> Evaluated:
    """Evaluate a finished model on a suite.

    Args:
        options: what the suite is asked with, such as `context_length`, as far as it is given.
        subject: what else `find_subject` takes.

    Raises:
        UsageError: there is no such suite, it has no such option or needs another one; and what its function raises.
    """
    function = _function(suite)
    taken = signature(function).parameters
    for name in options:
        if name not in taken:
            own = ", ".join(
                _called(other) for other in ("data", "twice", "context_length", "most") if other in taken
            )
            raise UsageError(f"{_called(name)}: is not an option of --suite {suite}, which takes {own}")
    if "data" in taken and taken["data"].default is Parameter.empty and "data" not in options:
        raise UsageError("--data: is missing: name the folder with the data sets of the suite")
    return function(model, **options, **subject)


def _function(suite: str) -> Callable[..., Evaluated]:
    if suite.startswith(HARNESS_PREFIX):
        return partial(
            evaluate_harness, tasks=[task for task in suite.removeprefix(HARNESS_PREFIX).split(",") if task]
        )
    if suite in SUITES:
        return partial(evaluate_generated, suite=suite)
    if suite == EXTRACTION:
        return evaluate_extraction
    if suite == _RECALL:
        return evaluate
    raise UsageError(
        f"--suite {suite}: must be {_RECALL}, {', '.join(SUITES)}, {EXTRACTION}, or {HARNESS_PREFIX}TASK,TASK"
    )


def _called(name: str) -> str:
    """An argument's name as an option."""
    return f"--{name.replace('_', '-')}"
