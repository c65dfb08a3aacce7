"""The settings of text as a task: its source, its tokenizer, its splits and the rows that are made of them."""

from typing import Self

from pydantic import Field, model_validator

from recallfront.sweeps.base import Frozen
from recallfront.sweeps.tasks.base import SPLITS, Split, StoredTask
from recallfront.sweeps.text.source import TextSource
from recallfront.sweeps.text.tokenizer import BYTE_TOKENS, BYTES, TRAINED, tokenizer_path, with_tokenizer

_LONGEST = 2**20


class TextTraining(Frozen):
    """How much of the training documents is read."""

    tokens: int | None = Field(
        default=None, ge=1, description="Tokens, from the beginning; null is all of the training documents."
    )


class TextRows(Frozen):
    """Rows of held-out text that are evaluated alike."""

    length: int | None = Field(
        default=None, ge=2, le=_LONGEST, description="Tokens of a row; null is that of training."
    )
    stride: int | None = Field(
        default=None,
        ge=1,
        description="Tokens that each row scores: fewer than its length is a sliding evaluation. Null is the length.",
    )
    tokens: int = Field(default=2**18, ge=2, description="Tokens that are scored, from the beginning.")


class TextSettings(StoredTask):
    """What rows of text are made of."""

    source: TextSource = Field(description="Where the text comes from.")
    tokenizer: str = Field(
        default=BYTES,
        description="`bytes`; `bpe`, one of vocab_size tokens that is trained on the training documents; a folder; or "
        "the name of one of the Hugging Face hub.",
    )
    vocab_size: int = Field(
        default=BYTE_TOKENS,
        ge=BYTE_TOKENS,
        le=2**24,
        description="Number of tokens of the models, at least those of the tokenizer; bytes are 257.",
    )
    end_token: str | None = Field(
        default=None, description="Token of the tokenizer that ends a document, if it does not say so itself."
    )
    seed: int = Field(
        default=123,
        ge=0,
        lt=2**32,
        description="Seed by which documents are held out, the same for every trial.",
    )
    held_out: float = Field(
        default=0.05,
        gt=0,
        lt=0.5,
        description="Share of the documents that validation has, and the same for test.",
    )
    length: int = Field(default=512, ge=2, le=_LONGEST, description="Tokens of a row of training.")
    train: TextTraining = Field(default=TextTraining(), description="What models are trained on.")
    validation: tuple[TextRows, ...] = Field(
        default=(TextRows(),), min_length=1, description="Rows that configurations are selected by."
    )
    test: tuple[TextRows, ...] = Field(
        default=(TextRows(),), min_length=1, description="Rows that the reported figures are of."
    )
    restart_positions: bool = Field(
        default=True, description="Whether positions and states start anew with every document of a row."
    )
    ar_threshold: int | None = Field(
        default=None,
        ge=0,
        description="How often, at most, training may have a bigram whose repetition is an AR hit. Null chooses the "
        "count with which 6.4 % of the validation tokens are hits, as in Zoology.",
    )

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.end_token is not None and self.tokenizer in (BYTES, TRAINED):
            raise ValueError(f"end_token={self.end_token!r}: tokenizer={self.tokenizer!r} has its own")
        for split in ("validation", "test"):
            called = [self.called(rows) for rows in self.rows_of(split)]
            if len(set(called)) < len(called):
                raise ValueError(f"{split}: two kinds of rows have the same length and stride")
            for rows in self.rows_of(split):
                if rows.stride is not None and rows.stride > self.length_of(rows):
                    raise ValueError(
                        f"{split}: stride={rows.stride}: must be at most length={self.length_of(rows)}"
                    )
        return self

    def check_training(self) -> None:
        if self.train.tokens is not None and self.train.tokens < self.length:
            raise ValueError(
                f"task.train.tokens={self.train.tokens}: must be at least task.length={self.length}"
            )

    @property
    def longest(self) -> int:
        return max(map(self.longest_of, SPLITS))

    @property
    def restarts(self) -> bool:
        return self.restart_positions

    def longest_of(self, split: Split) -> int:
        """The longest row of a split."""
        return self.length if split == "train" else max(map(self.length_of, self.rows_of(split)))

    def lengths(self, split: Split) -> tuple[int, ...]:
        if split == "train":
            return (self.length,)
        # of those without overlap alone: `recall_at_<length>` is theirs
        names = map(self.called, self.rows_of(split))
        return tuple(sorted(int(name) for name in names if name.isdigit()))

    @property
    def prompt_room(self) -> int:
        return self.length_of(self.test[0])

    def rows_of(self, split: Split) -> tuple[TextRows, ...]:
        """The kinds of rows of a held-out split."""
        return self.validation if split == "validation" else self.test

    def length_of(self, rows: TextRows) -> int:
        """Tokens of a row."""
        return rows.length or self.length

    def called(self, rows: TextRows) -> str:
        """The name of rows in figures: their length, and the stride of a sliding evaluation."""
        length = self.length_of(rows)
        sliding = rows.stride is not None and rows.stride < length
        return f"{length}_stride_{rows.stride}" if sliding else str(length)

    def most_tokens(self, split: Split) -> int | None:
        """Tokens of a split that are kept, at least."""
        if split == "train":
            return None if self.train.tokens is None else self.train.tokens + 1
        return max(rows.tokens for rows in self.rows_of(split)) + 1

    def counted_tokens(self, split: Split) -> int | None:
        """Tokens of a split, from the beginning, that its figures are of; None is all of them."""
        return self.train.tokens if split == "train" else self.rows_of(split)[0].tokens

    def paths(self) -> list[tuple[str, str]]:
        return [*self.source.paths(), *tokenizer_path(self.tokenizer)]

    def fingerprint(self) -> str:
        return with_tokenizer(self.source.fingerprint(), self.tokenizer)
