"""A small text as a task, and its rows."""

from pathlib import Path
from typing import Any

import numpy as np

from recallfront.sweeps.data import load, prepare
from recallfront.sweeps.tasks.base import IGNORED, TaskData
from recallfront.sweeps.tasks.registry import parse_task
from recallfront.sweeps.tasks.text import Text

WORDS = "the quick brown fox jumps over a lazy dog while it rains é".split()
END = 256


def documents(count: int = 60, words: int = 40) -> list[str]:
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(WORDS, words)) + f" {number}" for number in range(count)]


def task(corpus: Path, **changes: Any) -> Text:
    rows = {"tokens": 300}
    settings = {
        "source": {"files": str(corpus / "rows.jsonl")},
        "length": 32,
        "held_out": 0.2,
        "validation": [rows, {"length": 64, "stride": 16, "tokens": 300}],
        "test": [rows],
    }
    found = parse_task({"name": "text", **settings, **changes})
    assert isinstance(found, Text)
    return found


def data_of(task: Text, folder: Path) -> TaskData:
    return load(*prepare(task, folder))


def tokens_of(data: TaskData, split: Any) -> list[int]:
    """What the first rows of a split score, one after the other."""
    labels = data.splits[split][0].labels[:]
    return [token for token in labels.flatten().tolist() if token != IGNORED]
