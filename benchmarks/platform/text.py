"""Text as a task: the most memory of its driver and of a trial, and its tokenizing beside `datasets.map`.

The text is Python's own sources in JSON lines, as many times over as the size asks for, each time under another line.

`datasets` and `tokenizers` are imported in the processes that use them.
"""

import json
import re
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, TypeVar

from recallfront.benchmarks.platform.trials import bench_spec, trials_of, workplace
from recallfront.platform.trial.body import run_trial
from recallfront.sweeps.data import prepare
from recallfront.sweeps.spec import SweepSpec

VOCABULARY, LENGTH, STEPS = 4096, 128, 10
SMALL: Final = 10**6  # bytes of text, beside which the memory of more is told
OURS, THEIRS = "recallfront", "datasets.map"
_PIECE: Final = 4 * 10**6  # bytes
_CHARACTERS: Final = 4000  # of a document, so that the small text has enough of them
_HELD_OUT: Final = 0.03
_SCORED: Final = 2**14  # tokens of held-out text
T = TypeVar("T")


@dataclass(frozen=True)
class Peaks:
    """The most memory of two processes of their own, bytes."""

    driver: int  # that trains the tokenizer, tokenizes and counts
    trial: int


@dataclass(frozen=True)
class TextCosts:
    """What a text of `size` bytes costs."""

    size: int
    small: Peaks  # with SMALL bytes of text
    large: Peaks
    rates: Mapping[str, list[float]]  # of each way to tokenize, bytes a second piece by piece

    @property
    def ratio(self) -> float:
        """How many times as many bytes a second recallfront tokenizes: the median of pieces."""
        pairs = zip(self.rates[OURS], self.rates[THEIRS], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)


def text_costs(home: Path, *, size: int = 200 * SMALL, pieces: int = 12) -> TextCosts:
    """Tokenize so many bytes and train on them, then tokenize the first pieces again, in turn with `datasets.map`.

    recallfront's rate is that of all it does with a piece: it reads JSON lines, holds documents out, writes the
    tokens, and counts pairs of them. That of `datasets.map` is of the map alone: it has the text in Arrow. Both are
    one process, in which the same library tokenizes on all cores.
    """
    few, many = _Text(home / "small", SMALL), _Text(home / "large", size)
    small, large = (
        Peaks(_apart(_driver, text.spec, text.home), _apart(_trial, text.spec, text.home))
        for text in (few, many)
    )
    tokenizer, _ = prepare(many.spec.task, many.home / "data")
    first = dict(islice(many.sizes.items(), pieces))
    return TextCosts(size, small, large, _apart(_rates, first, tokenizer, home))


class _Text:
    """Text that is written to files, of which training has `size` bytes, and a sweep over it."""

    def __init__(self, home: Path, size: int) -> None:
        self.home, self.sizes = home, dict[Path, int]()
        (home / "text").mkdir(parents=True)
        documents = _documents()
        # held-out text is tokenized as far as it is scored
        left = size / (1 - 2 * _HELD_OUT)
        while left > 0:
            piece = home / "text" / f"{len(self.sizes):03}.jsonl"
            self.sizes[piece] = _fill(piece, documents, min(left, _PIECE))
            left -= self.sizes[piece]
        task = _task(home / "text" / "*.jsonl", tokenizer="bpe", scored=_SCORED)
        self.spec = bench_spec(task=task, length=LENGTH, width=64, steps=STEPS)


def _documents() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    sources = [file for file in sorted(library.rglob("*.py")) if "site-packages" not in file.parts]
    for copy in count():
        for file in sources:
            text = file.read_text(encoding="utf-8", errors="replace")
            for start in range(0, len(text), _CHARACTERS):
                yield f"# copy {copy}\n{text[start : start + _CHARACTERS]}"


def _fill(file: Path, documents: Iterator[str], most: float) -> int:
    """Write documents until they are so many bytes of text -> how many they are."""
    size = 0
    with file.open("w") as lines:
        while size < most:
            text = next(documents)
            lines.write(json.dumps({"text": text}) + "\n")
            size += len(text.encode())
    return size


def _task(files: Path, *, tokenizer: str, scored: int) -> dict[str, Any]:
    rows = [{"tokens": scored}]
    return {
        "name": "text",
        "source": {"files": str(files)},
        "tokenizer": tokenizer,
        "vocab_size": VOCABULARY,
        "length": LENGTH,
        "held_out": _HELD_OUT,
        "validation": rows,
        "test": rows,
        "restart_positions": False,
    }


def _apart(work: Callable[..., T], *given: object) -> T:
    """What the work comes to in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def _driver(spec: SweepSpec, home: Path) -> int:
    workplace(spec, home)
    return _peak()


def _trial(spec: SweepSpec, home: Path) -> int:
    last = list(run_trial(next(trials_of(spec)), workplace(spec, home)))[-1]
    if last.failure is not None:
        raise RuntimeError(last.failure)
    return _peak()


def _peak() -> int:
    # `ru_maxrss` is at least what the process had that has started this one
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "Linux tells it"
    return int(found[1]) * 1024


def _rates(sizes: Mapping[Path, int], tokenizer: Path, home: Path) -> dict[str, list[float]]:
    from datasets import disable_progress_bars

    disable_progress_bars()
    ways = {OURS: _our_seconds, THEIRS: _their_seconds}
    names, found = list(ways), {name: list[float]() for name in ways}
    for number, (piece, size) in enumerate(sizes.items()):
        for name in names[:: (-1) ** number]:
            found[name].append(size / ways[name](piece, tokenizer, home))
    return found


def _our_seconds(piece: Path, tokenizer: Path, home: Path) -> float:
    # so many tokens are scored that all of the held-out text is tokenized
    spec = bench_spec(task=_task(piece, tokenizer=str(tokenizer), scored=2**30))
    start = time.perf_counter()
    prepare(spec.task, home / "pieces")
    return time.perf_counter() - start


def _their_seconds(piece: Path, tokenizer: Path, home: Path) -> float:
    from datasets import load_dataset
    from tokenizers import Tokenizer

    rows = load_dataset("json", data_files=str(piece), split="train", cache_dir=str(home / "cache"))
    start = time.perf_counter()
    backend = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))

    def tokenized(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        found = backend.encode_batch_fast(batch["text"], add_special_tokens=False)
        return {"tokens": [text.ids for text in found]}

    rows.map(tokenized, batched=True, remove_columns=["text"], load_from_cache_file=False)
    return time.perf_counter() - start
