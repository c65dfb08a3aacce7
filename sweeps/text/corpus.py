"""A text task's data on disk: each split's tokens in one array, read through a memory map, and what was counted.

Which split a document belongs to follows from its beginning and the seed alone, wherever it stands in the source.

rich is imported where it is first used: who reads what is stored shows no progress.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import numpy as np

from recallfront.sweeps.ar_hits import BigramCounts
from recallfront.sweeps.base import SpecError, file_digest, text_digest
from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.tasks.base import SPLITS, Parts, Segment, Split, TaskData
from recallfront.sweeps.text.settings import TextRows, TextSettings
from recallfront.sweeps.text.source import Piece
from recallfront.sweeps.text.tokenizer import (
    TRAINED,
    Tokenizer,
    find_tokenizer,
    train_tokenizer,
)
from recallfront.sweeps.text.windows import Windows, blocks, hits, parts

_TOGETHER = 2**21  # characters that are tokenized at once: enough pieces for every core
_TRAINED_ON = 10**8  # characters, at most, that a tokenizer is trained on
_COUNTED = 2**22  # tokens whose bigrams are counted at once
_USUAL_SHARE = 0.064  # of tokens that are AR hits, as in Zoology: the threshold is chosen to give it
_FILE, _BIGRAMS = "text.json", "bigrams.npy"
Advance = Callable[[int], None]


def store(task: TextSettings, folder: Path) -> str:
    """Tokenize the text into `folder` and count what its figures need -> the digest of the content.

    Raises:
        SpecError: the source or the tokenizer cannot be read, or a split comes out too small.
    """
    with _progress("tokenizing") as advance:
        tokenizer = _tokenizer(task)
        tokenizer.save(folder)
        splits = _write(task, tokenizer, folder, advance)
    told: dict[str, Any] = {"end": tokenizer.end, "splits": {name: s.told() for name, s in splits.items()}}
    _check(task, splits)
    (folder / _FILE).write_text(json.dumps(told))
    counts = _count(task, folder, tokenizer.end)
    np.save(folder / _BIGRAMS, np.stack([counts.codes, counts.counts]))
    told["ar_threshold"] = task.ar_threshold
    if task.ar_threshold is None:
        told["ar_threshold"] = _threshold(task, folder, tokenizer.end, counts)
    (folder / _FILE).write_text(json.dumps(told))
    return content(folder)


def content(folder: Path) -> str:
    """sha256 over the tokens of every split, and over what was counted."""
    names = (*(f"{split}.bin" for split in SPLITS), _BIGRAMS, _FILE)
    return text_digest(" ".join(file_digest(folder / name) for name in names))


def read(task: TextSettings, folder: Path) -> TaskData:
    """What `store` wrote; rows are read when they are asked for."""
    told = json.loads((folder / _FILE).read_text())
    counts = BigramCounts(task.vocab_size, *np.load(folder / _BIGRAMS))
    splits: dict[Split, list[Segment]] = {"train": [_training(task, folder, told["end"]).segment("train")]}
    counted: dict[str, dict[str, Parts]] = {}
    for split in ("validation", "test"):
        splits[split], counted[split] = [], {}
        for rows in task.rows_of(split):
            windows, name = _windows(task, folder, split, rows, told["end"]), task.called(rows)
            splits[split].append(windows.segment(name))
            counted[split][name] = parts(
                windows,
                counts,
                threshold=told["ar_threshold"],
                restarts=task.restart_positions,
                suffix=f"/{name}",
            )
    return TaskData(
        digest=content(folder),
        splits=splits,
        parts=counted,
        bytes_per_token={
            name: told["splits"][name]["bytes"] / told["splits"][name]["tokens"] for name in SPLITS
        },
        end=told["end"] if task.restart_positions else None,
    )


class _Split:
    """The tokens of one split, as they are written; no more than `most`, if that is given.

    Of the first `counted` tokens, which figures are of, it is known how many bytes of text they are.
    """

    def __init__(
        self, file: IO[bytes], dtype: type, tokenizer: Tokenizer, most: int | None, counted: int | None
    ) -> None:
        self._file, self._dtype, self._tokenizer = file, dtype, tokenizer
        self._most, self._counted = most, counted
        self.tokens = self.bytes = self.documents = self.longest = 0
        self._current: int | None = None  # tokens of a document whose end is still to come

    @property
    def is_full(self) -> bool:
        return self._most is not None and self.tokens >= self._most

    def add(self, tokens: Any, size: int, *, ends: bool) -> None:
        """Tokens of a document, which are so many bytes of text; `ends` if they are its last."""
        room = len(tokens) if self._counted is None else self._counted - self.tokens
        if room >= len(tokens):
            self.bytes += size
        elif room > 0:
            self.bytes += len(self._tokenizer.decode(tokens[:room].tolist()).encode())
        if self._current is None:  # its end may never come, if the split is full before
            self._current = 0
            self.documents += 1
        for part in (tokens, np.array([self._tokenizer.end])) if ends else (tokens,):
            self._file.write(part.astype(self._dtype).tobytes())
            self.tokens += len(part)
            self._current += len(part)
        self.longest = max(self.longest, self._current)
        if ends:
            self._current = None

    def told(self) -> dict[str, int]:
        tokens = self.tokens if self._counted is None else min(self.tokens, self._counted)
        return {"tokens": tokens, "bytes": self.bytes, "documents": self.documents}


def _write(
    task: TextSettings, tokenizer: Tokenizer, folder: Path, advance: Advance
) -> Mapping[Split, _Split]:
    """Every document's tokens at the end of its split's file, in the order of the source."""
    if not tokenizer.size <= task.vocab_size:
        raise SpecError(
            f"task.vocab_size={task.vocab_size}: must be at least {tokenizer.size}, which task.tokenizer="
            f"{task.tokenizer!r} has"
        )
    files = {split: (folder / f"{split}.bin").open("wb") for split in SPLITS}
    splits = {
        split: _Split(
            files[split], _dtype(task), tokenizer, task.most_tokens(split), task.counted_tokens(split)
        )
        for split in SPLITS
    }
    waiting: list[tuple[Split, Piece]] = []
    try:
        size = 0
        for split, piece in _pieces(task):
            if splits[split].is_full:
                if all(one.is_full for one in splits.values()):
                    break
                continue
            waiting.append((split, piece))
            size += len(piece.text)
            if size >= _TOGETHER:
                _encode(waiting, tokenizer, splits, advance)
                size = 0
        _encode(waiting, tokenizer, splits, advance)
    finally:
        for file in files.values():
            file.close()
    return splits


def _encode(
    waiting: list[tuple[Split, Piece]],
    tokenizer: Tokenizer,
    splits: Mapping[Split, _Split],
    advance: Advance,
) -> None:
    """Tokenize and write what is waiting."""
    texts = [piece.text for _, piece in waiting]
    for (split, piece), tokens in zip(waiting, tokenizer.encode(texts), strict=True):
        size = len(piece.text.encode())
        splits[split].add(tokens, size, ends=piece.ends)
        advance(size)
    waiting.clear()


def _pieces(task: TextSettings) -> Iterator[tuple[Split, Piece]]:
    """The pieces of the source, each with its document's split."""
    split: Split | None = None
    for piece in task.source.pieces():
        if split is None:
            split = _split_of(piece.text, task.seed, task.held_out)
        yield split, piece
        if piece.ends:
            split = None


def _split_of(beginning: str, seed: int, held_out: float) -> Split:
    """A document's split: equal documents are in the same one."""
    drawn = blake2b(beginning.encode(), digest_size=8, key=str(seed).encode()).digest()
    place = int.from_bytes(drawn) / 2**64
    return "validation" if place < held_out else "test" if place < 2 * held_out else "train"


def _tokenizer(task: TextSettings) -> Tokenizer:
    if task.tokenizer != TRAINED:
        return find_tokenizer(task.tokenizer, task.end_token)

    def texts() -> Iterator[str]:
        room = _TRAINED_ON
        for split, piece in _pieces(task):
            if room <= 0:
                return
            if split == "train":
                yield piece.text
                room -= len(piece.text)

    return train_tokenizer(texts(), task.vocab_size)


def _check(task: TextSettings, splits: Mapping[Split, _Split]) -> None:
    """Raise SpecError unless every split has rows, and documents as long as they are."""
    documents = sum(split.documents for split in splits.values())
    if documents == 0:
        key = "dataset" if task.source.files is None else "files"
        raise SpecError(f"task.source.{key}={getattr(task.source, key)!r}: holds no text")
    for name, split in splits.items():
        if split.documents == 0:
            raise SpecError(
                f"task.held_out={task.held_out}: leaves none of the {documents} documents to {name}; what a document "
                "is in plain text is set by task.source.documents"
            )
        longest = task.longest_of(name)
        if split.tokens <= longest:
            raise SpecError(f"task: {name} has {split.tokens} tokens; rows of {longest} need more")
        if task.restart_positions and split.longest < longest:
            raise SpecError(
                f"task: {name} has rows of {longest} tokens, but no document longer than {split.longest}; shorten the "
                "rows, or set task.restart_positions to false"
            )


def _count(task: TextSettings, folder: Path, end: int) -> BigramCounts:
    """How often training has the bigrams that held-out rows repeat."""
    wanted: list[Integers] = [np.empty(0, dtype=np.int64)]
    for split in ("validation", "test"):
        for rows in task.rows_of(split):
            windows = _windows(task, folder, split, rows, end)
            for part in blocks(len(windows), windows.window):
                whole = windows.whole(part)
                repeated = hits(whole, _nothing(task), threshold=None, end=_context_end(task, end))[:, 1:]
                codes = whole[:, :-1] * task.vocab_size + whole[:, 1:]
                wanted.append(np.unique(codes[repeated]))
    training = _training(task, folder, end)
    tokens = training.tokens[: training.limit]
    chunks = (tokens[first : first + _COUNTED + 1] for first in range(0, len(tokens) - 1, _COUNTED))
    return BigramCounts.among(np.unique(np.concatenate(wanted)), task.vocab_size, chunks)


def _threshold(task: TextSettings, folder: Path, end: int, counts: BigramCounts) -> int:
    """The largest count with which at most the usual share of the first validation rows' tokens are AR hits."""
    windows = _windows(task, folder, "validation", task.rows_of("validation")[0], end)
    found, asked = [], 0
    for part in blocks(len(windows), windows.window):
        whole, (_, labels) = windows.whole(part), windows.read(part)
        repeated = hits(whole, counts, threshold=None, end=_context_end(task, end))[:, 1:] & (labels >= 0)
        found.append(counts.ending_at(whole)[:, 1:][repeated])
        asked += int((labels >= 0).sum())
    ordered = np.sort(np.concatenate(found))
    most = int(_USUAL_SHARE * asked)
    if len(ordered) == 0:
        return 0
    return max(0, int(ordered[most]) - 1 if len(ordered) > most else int(ordered[-1]))


def _context_end(task: TextSettings, end: int) -> int | None:
    return end if task.restart_positions else None


def _nothing(task: TextSettings) -> BigramCounts:
    empty = np.empty(0, dtype=np.int64)
    return BigramCounts(task.vocab_size, empty, empty)


def _training(task: TextSettings, folder: Path, end: int) -> Windows:
    """Whole rows, one after the other."""
    tokens, length = _tokens(task, folder, "train"), task.length
    limit = min(len(tokens), task.train.tokens or len(tokens)) // length * length
    return Windows(tokens, limit=limit, window=length, stride=length, end=end)


def _windows(task: TextSettings, folder: Path, split: Split, rows: TextRows, end: int) -> Windows:
    tokens, length = _tokens(task, folder, split), task.length_of(rows)
    limit = min(len(tokens), rows.tokens)
    return Windows(tokens, limit=limit, window=length, stride=rows.stride or length, end=end)


def _tokens(task: TextSettings, folder: Path, split: Split) -> Any:
    return np.memmap(folder / f"{split}.bin", dtype=_dtype(task), mode="r")


def _dtype(task: TextSettings) -> type:
    return np.uint16 if task.vocab_size <= 2**16 else np.uint32


@contextmanager
def _progress(what: str) -> Iterator[Advance]:
    """Shows on a terminal how many bytes of text are done."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    columns = (TextColumn(what), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as shown:
        task = shown.add_task(what, total=None)
        yield lambda size: shown.advance(task, size)
