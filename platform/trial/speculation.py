"""Speculative decoding of a trained model: whether it writes the greedy text, and how much faster."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from statistics import fmean, median
from typing import Any, Final

import torch
from torch import Tensor

from recallfront.models import LanguageModel
from recallfront.models.decoding.draft_training import train_draft_heads
from recallfront.models.decoding.generation import generate
from recallfront.models.decoding.speculative import DraftHeads, generate_speculative
from recallfront.models.parts.draft_tree import DraftTree
from recallfront.platform.errors import is_machine_fault, one_line
from recallfront.sweeps.speculation import SpeculationConfig
from recallfront.sweeps.tasks.base import TaskData
from recallfront.sweeps.trial import TrialConfig

_MOST_TOKENS: Final = 2**22  # of train rows that are held at once: 32 MiB
_ROWS: Final = 64


@contextmanager
def sparing(notices: list[str]) -> Iterator[None]:
    """Make a notice of a failure within: the training, which is over, does not end with it.

    A fault of the machine is raised: a later run of the sweep tries again.
    """
    try:
        yield
    except Exception as error:
        if is_machine_fault(error):
            raise
        notices.append(
            f"speculation failed ({type(error).__name__}: {one_line(error)}): its figures are left out"
        )


def draft_tree(guesses: Sequence[int]) -> DraftTree:
    """The tree in which each head continues every path by so many guesses, its likeliest."""
    depths = range(1, len(guesses) + 1)
    return DraftTree(path for depth in depths for path in product(*map(range, guesses[:depth])))


def trained_heads(model: LanguageModel, config: TrialConfig, data: TaskData, device: str) -> DraftHeads:
    """Draft heads that were trained on the first rows of the train split, as many as their steps draw.

    Of longer rows the beginnings are read, as long as the texts that are written, and what the heads guess after these.
    """
    asked = _asked(config)
    inputs = data.splits["train"][0].inputs
    length = min(inputs[:1].shape[1], asked.longest + len(asked.tree))
    count = min(asked.steps * asked.batch_size, max(1, _MOST_TOKENS // length), len(inputs))
    # whole rows may be long: some of them are read at a time
    parts = [inputs[at : min(at + _ROWS, count)][:, :length] for at in range(0, count, _ROWS)]
    heads = DraftHeads(model, len(asked.tree), seed=config.seed)
    train_draft_heads(
        model,
        heads,
        torch.cat(parts).to(device),
        steps=asked.steps,
        batch_size=asked.batch_size,
        learning_rate=asked.learning_rate,
        seed=config.seed,
    )
    return heads


def speculated(
    model: LanguageModel, heads: DraftHeads, config: TrialConfig, data: TaskData, device: str
) -> dict[str, float]:
    """What writing with drafts comes to, after the beginnings of the first test rows, one at a time.

    `speculative_exact` is the share of prompts whose text is the greedy one, `speculative_accepted` the mean number of
    tokens a verification, `speculative_speedup` greedy decoding's seconds over those with drafts: the median of repeats
    in which both take turns.
    """
    asked = _asked(config)
    rows = data.splits["test"][0].inputs[: asked.prompts][:, : asked.prompt_length].to(device)
    prompts, new = [row[None] for row in rows], asked.new_tokens
    write = partial(generate, model, max_new_tokens=new)
    draft = partial(generate_speculative, model, heads, tree=draft_tree(asked.tree), max_new_tokens=new)
    exact, accepted, ratios = [], [], []
    for prompt in prompts:  # warms up as well
        found = draft(prompt)
        exact.append(found.tokens == write(prompt))
        accepted.append(new / found.rounds)
    for _ in range(asked.repeats):
        greedy = drafted = 0.0
        for prompt in prompts:
            greedy += _decoding_seconds(write, prompt)
            drafted += _decoding_seconds(draft, prompt)
        ratios.append(greedy / drafted)
    return {
        "speculative_exact": fmean(exact),
        "speculative_accepted": fmean(accepted),
        "speculative_speedup": median(ratios),
    }


def _asked(config: TrialConfig) -> SpeculationConfig:
    assert config.speculation is not None
    return config.speculation


def _decoding_seconds(decode: Callable[[Tensor], Any], prompt: Tensor) -> float:
    """The tokens are read by the end: a GPU has nothing left to do then."""
    start = time.perf_counter()
    decode(prompt)
    return time.perf_counter() - start
