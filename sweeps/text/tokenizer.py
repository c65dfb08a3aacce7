"""From text to tokens: bytes, a tokenizer of transformers or tokenizers, or one trained on the text itself.

`tokenizers` and transformers are imported where they are first used.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recallfront.sweeps.base import SpecError, canonical_json, text_digest
from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.text.hub import hub_away

BYTES: Final = "bytes"
TRAINED: Final = "bpe"
BYTE_TOKENS: Final = 257  # the bytes, and the end of a document
_FILE = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_PARTS = (
    _FILE,
    _CONFIG,
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "special_tokens_map.json",
)
_END = "<|endoftext|>"
_ENDS = (_END, "</s>", "<eos>", "<|end_of_text|>", "[SEP]")  # how tokenizers call the end of a text


class ByteTokenizer:
    """Every byte of the text in UTF-8 is a token."""

    size, end = BYTE_TOKENS, BYTE_TOKENS - 1

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint8]]:
        """The tokens of each text."""
        return [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; what is not UTF-8 becomes a question mark."""
        return bytes(token for token in tokens if token < self.end).decode(errors="replace")

    def save(self, folder: Path) -> None:
        """Nothing has to be kept."""


class FastTokenizer:
    """A tokenizer of the library `tokenizers`, which works on all cores."""

    def __init__(self, backend: Any, end: str) -> None:
        self._backend = backend
        self._backend.no_padding()
        self._backend.no_truncation()
        self._end_text = end
        # the numbers of tokens may have holes
        self.size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        self.end = int(backend.token_to_id(end))

    def encode(self, texts: Sequence[str]) -> list[Integers]:
        """The tokens of each text."""
        found = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(text.ids, dtype=np.int64) for text in found]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return str(self._backend.decode([int(token) for token in tokens], skip_special_tokens=True))

    def save(self, folder: Path) -> None:
        """Write it so that `kept_tokenizer` reads it."""
        self._backend.save(str(folder / _FILE))
        (folder / _CONFIG).write_text(json.dumps({"eos_token": self._end_text}))


Tokenizer = ByteTokenizer | FastTokenizer


def find_tokenizer(name: str, end_token: str | None = None) -> Tokenizer:
    """The tokenizer of this name: `bytes`, a folder, or one of the Hugging Face hub.

    Raises:
        SpecError: there is none, or it does not say how a text ends, or `end_token` is none of its tokens.
    """
    if name == BYTES:
        if end_token is not None:
            raise SpecError(f"task.end_token={end_token!r}: task.tokenizer={name!r} has its own")
        return ByteTokenizer()
    if (Path(name) / _FILE).is_file():
        return _of_folder(Path(name), end_token)
    from transformers import AutoTokenizer

    away = None if Path(name).is_dir() else hub_away()
    try:
        found = AutoTokenizer.from_pretrained(name, local_files_only=away is not None)
        backend = found.backend_tokenizer
    except Exception as error:
        # the hub's, transformers' and tokenizers' errors have no base in common
        reason = away or " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise SpecError(f"task.tokenizer={name!r}: cannot be loaded: {reason}") from error
    return FastTokenizer(backend, _end_of(name, backend, end_token or found.eos_token))


def tokenizer_path(name: str) -> list[tuple[str, str]]:
    """The key and value of a tokenizer that is a folder of this machine; none of another one."""
    return [("tokenizer", name)] if name not in (BYTES, TRAINED) and Path(name).is_dir() else []


def with_tokenizer(sources: str, name: str) -> str:
    """The digest of a task's sources, with that of the tokenizer's files if it is a folder of this machine."""
    if not tokenizer_path(name):
        return sources
    files = [file for part in _PARTS if (file := Path(name) / part).is_file()]
    known = {file.name: text_digest(file.read_bytes()) for file in files}
    return text_digest(canonical_json({"sources": sources, "tokenizer": known}))


def kept_tokenizer(folder: Path, name: str) -> Tokenizer | None:
    """The tokenizer of this name as it was saved with a task's data; None if its file is gone."""
    if name == BYTES:
        return ByteTokenizer()
    return _of_folder(folder, None) if (folder / _FILE).is_file() else None


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> FastTokenizer:
    """A byte-level BPE of at most so many tokens; the same texts in the same order give the same one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return FastTokenizer(backend, _END)


def _of_folder(folder: Path, end_token: str | None) -> FastTokenizer:
    from tokenizers import Tokenizer

    try:
        backend = Tokenizer.from_file(str(folder / _FILE))
    except Exception as error:
        # the library raises plain exceptions
        raise SpecError(f"task.tokenizer={str(folder)!r}: {_FILE} cannot be read: {error}") from error
    return FastTokenizer(backend, _end_of(str(folder), backend, end_token or _told_end(folder)))


def _told_end(folder: Path) -> str | None:
    """The token that ends a text, as the tokenizer's settings have it; None if they do not."""
    file = folder / _CONFIG
    if not file.is_file():
        return None
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"task.tokenizer={str(folder)!r}: {_CONFIG} cannot be read: {error}") from None
    told = settings.get("eos_token") if isinstance(settings, dict) else settings
    told = told.get("content") if isinstance(told, dict) else told
    if told is not None and not isinstance(told, str):
        raise SpecError(f"task.tokenizer={str(folder)!r}: {_CONFIG} has no text as its eos_token")
    return told


def _end_of(name: str, backend: Any, told: str | None) -> str:
    for end in (told,) if told else _ENDS:
        if backend.token_to_id(end) is not None:
            return end
    if told:
        raise SpecError(f"task.end_token={told!r}: is not a token of {name!r}")
    raise SpecError(
        f"task.tokenizer={name!r}: has no token for the end of a text; name one as task.end_token"
    )
