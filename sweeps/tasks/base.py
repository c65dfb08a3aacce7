"""What a task is: rows for training, selection and report, and what is counted on them.

A task is one file of this folder, or a plug-in: a frozen configuration derived from `Task` or, if its rows are drawn
from a seed, from `DrawnTask`. Its `name` is a literal, the file's name.

torch is imported when rows are built, since the sweep's driver only checks configurations.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from recallfront.sweeps.base import Frozen

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    Rows = np.ndarray[tuple[int, int], np.dtype[np.int64]]

IGNORED = -100  # label where nothing is asked
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_TESTED_EXAMPLES = 1000  # of a segment that is not trained on, as zoology's test segments have
_MOST_TOKENS = 10**9  # of one split: 16 GB with the labels


class Source(Protocol):
    """Rows of one length: a tensor (N, T), or something that reads rows of a file when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> "Tensor": ...


class Segment(NamedTuple):
    """Rows of one length; figures are also reported for each segment of a split."""

    name: str
    inputs: Source  # int64 (N, T)
    labels: Source  # int64 (N, T), IGNORED where nothing is asked


Parts = Callable[[slice], Mapping[str, "Tensor"]]  # rows of a segment -> masks (N, T) of labelled positions


@dataclass(frozen=True)
class TaskData:
    """A task's rows as they are trained and tested on, and what is known of them besides."""

    digest: str
    splits: Mapping[Split, list[Segment]]  # rows of one segment have one length
    # Split -> segment -> parts of its labelled positions that are counted for themselves.
    parts: Mapping[str, Mapping[str, Parts]] = field(default_factory=dict)
    bytes_per_token: Mapping[str, float] = field(default_factory=dict)  # of a split of text
    end: int | None = None  # the token that ends a document, if positions restart after it

    def positions(self, inputs: "Tensor") -> "Tensor | None":
        """The positions of rows (B, T) of packed documents; None if they are those in the rows."""
        if self.end is None:
            return None
        import torch

        at = torch.arange(inputs.shape[1])
        after = torch.where(inputs[:, :-1] == self.end, at[1:], 0).cummax(1).values
        return at - torch.nn.functional.pad(after, (1, 0))


class Counts(NamedTuple):
    """What was counted on rows: right answers, the summed loss in nats, labelled positions; and the rows' length.

    Where recall is not over positions, `shares` is the sum of the shares that it is the mean of, `units` their number.
    """

    right: float
    loss: float
    asked: float
    length: int
    shares: float = 0.0
    units: float = 0.0

    @property
    def recall(self) -> float:
        """The share of right answers, or the mean of such shares."""
        return self.shares / self.units if self.units else self.right / self.asked

    def plus(self, other: "Counts") -> "Counts":
        """Both together."""
        return Counts(
            self.right + other.right,
            self.loss + other.loss,
            self.asked + other.asked,
            max(self.length, other.length),
            self.shares + other.shares,
            self.units + other.units,
        )


class Task(Frozen):
    """The protocol of every task. `vocab_size` and `seed` are fields of each, as `name` is."""

    name: str
    vocab_size: int
    seed: int

    @property
    @abstractmethod
    def longest(self) -> int:
        """The longest row of any split, in tokens."""

    @property
    def restarts(self) -> bool:
        """Whether positions restart within a row, which is of several documents."""
        return False

    @abstractmethod
    def build(self, split: Split) -> Sequence[Segment]:
        """The rows of one split; rows of different splits have nothing to do with each other."""

    def check_training(self) -> None:
        """Raise ValueError unless there is a row to train on; a trial of no steps needs none."""

    def paths(self) -> Sequence[tuple[str, str]]:
        """What is read from the file system of the machine, as (key, value) of the task's configuration."""
        return ()

    def questions(self, split: Split) -> int:
        """Labelled positions of a split; a task that knows them without drawing rows says so itself."""
        return sum(int((segment.labels[:] != IGNORED).sum()) for segment in self.build(split))

    def lengths(self, split: Split) -> tuple[int, ...]:
        """The lengths of a split's rows, in tokens: `recall_at_<length>` is reported for each."""
        return (self.longest,)

    @property
    def prompt_room(self) -> int:
        """Tokens of a row of the first segment of the test split, at least: its rows are prompts of drafted texts."""
        return self.lengths("test")[0]

    def slices(self, inputs: "Tensor", labels: "Tensor") -> Mapping[str, "Tensor"]:
        """Parts of the labelled positions of a batch (B, T) that are counted for themselves, as masks (B, T)."""
        return {}

    def figures(self, segments: Mapping[str, Counts], slices: Mapping[str, Counts]) -> dict[str, float]:
        """A split's metrics, from what was counted on each of its segments and slices.

        `recall` and `loss` are over all labelled positions, `recall_<segment>` over those of one segment if there are
        several, `recall_at_<length>` over those of one length, `recall_<slice>` over those of one slice.
        """
        found = _together(segments.values())
        figures = {"recall": found.recall, "loss": found.loss / found.asked}
        if len(segments) > 1:
            figures |= {f"recall_{name}": counts.recall for name, counts in segments.items()}
        for length in sorted({counts.length for counts in segments.values()}):
            same = _together(counts for counts in segments.values() if counts.length == length)
            figures[f"recall_at_{length}"] = same.recall
        figures |= {f"recall_{name}": counts.recall for name, counts in slices.items() if counts.asked}
        return figures


class StoredTask(Task):
    """A task that keeps its data in a folder in a form of its own, such as text; rows are read from there."""

    @abstractmethod
    def fingerprint(self) -> str:
        """What tells one state of the task's sources from another; data is stored anew if it changes."""

    @abstractmethod
    def store(self, folder: "Path") -> str:
        """Write the data of all splits into the folder -> the digest of its content."""

    @abstractmethod
    def read(self, folder: "Path") -> TaskData:
        """The data that `store` wrote."""

    def asked_of(self, data: TaskData, split: Split) -> "Iterable[Tensor]":
        """The positions of a split that `recall` is of, as masks (N, T) of its rows."""
        return (segment.labels[:] != IGNORED for segment in data.splits[split])

    def build(self, split: Split) -> Sequence[Segment]:
        raise TypeError(f"task {self.name}: its rows are read from a folder")


def free_examples(schema: dict[str, Any]) -> None:
    """A schema is of rows of any split, and only those that are trained on need a number."""
    schema["required"] = [name for name in schema.get("required", []) if name != "examples"]


class AlikeRows(Frozen):
    """Rows of one length that are drawn alike: one segment of a split."""

    model_config = ConfigDict(json_schema_extra=free_examples)

    examples: int = Field(
        gt=0,
        le=10**8,
        description=f"Number of rows; by default {_TESTED_EXAMPLES:,} in `validation` and `test`, required in `train`.",
    )

    @property
    @abstractmethod
    def tokens_per_row(self) -> int:
        """The length by which figures of these rows are called, which is that of the rows or close to it."""

    @property
    @abstractmethod
    def segment(self) -> str:
        """The segment's name: what tells it from the others of its split."""


class DrawnRows(AlikeRows):
    """Rows that differ only in length."""

    length: int = Field(gt=0, le=2**20, description="Tokens of a row.")

    @property
    def tokens_per_row(self) -> int:
        return self.length

    @property
    def segment(self) -> str:
        return f"length_{self.length}"


class AskingRows(DrawnRows):
    """Rows whose last token asks about those before it."""

    length: int = Field(ge=2, le=2**20, description="Tokens of a row, the question included.")


R = TypeVar("R", bound=AlikeRows)


class SplitTask(Task, Generic[R]):
    """A task whose splits are made of segments; R is the configuration of one."""

    train: tuple[R, ...] = Field(min_length=1, description="Rows that models are trained on.")
    validation: tuple[R, ...] = Field(min_length=1, description="Rows that configurations are selected by.")
    test: tuple[R, ...] = Field(min_length=1, description="Rows that the reported figures are of.")

    @model_validator(mode="before")
    @classmethod
    def _fill_examples(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        tested = {split: values[split] for split in ("validation", "test") if split in values}
        return {**values, **{split: _with_examples(segments) for split, segments in tested.items()}}

    @model_validator(mode="after")
    def _fits_in_memory(self) -> Self:
        for split in SPLITS:
            tokens = sum(rows.examples * rows.tokens_per_row for rows in self.rows_of(split))
            if tokens > _MOST_TOKENS:
                raise ValueError(
                    f"{split}: {tokens:,} tokens; must be at most {_MOST_TOKENS:,}, as a split is held in memory"
                )
        return self

    @property
    def longest(self) -> int:
        return max(max(self.lengths(split)) for split in SPLITS)

    def lengths(self, split: Split) -> tuple[int, ...]:
        return tuple(sorted({rows.tokens_per_row for rows in self.rows_of(split)}))

    def rows_of(self, split: Split) -> tuple[R, ...]:
        """The configurations of a split's segments."""
        rows: tuple[R, ...] = getattr(self, split)
        return rows

    def figures(self, segments: Mapping[str, Counts], slices: Mapping[str, Counts]) -> dict[str, float]:
        lengths = {rows.segment: rows.tokens_per_row for split in SPLITS for rows in self.rows_of(split)}
        called = {
            name: counts._replace(length=lengths.get(name, counts.length))
            for name, counts in segments.items()
        }
        return super().figures(called, slices)


class DrawnTask(SplitTask[R]):
    """A task whose segments are drawn each from a seed of its own."""

    @abstractmethod
    def draw(self, rows: R, seed: int) -> tuple["Rows", "Rows"]:
        """Inputs and labels, int64 (examples, length), of one segment; a label is `IGNORED` if nothing is asked."""

    def draw_of(self, split: Split, rows: R, seed: int) -> tuple["Rows", "Rows"]:
        """The same of a split's segment, for a task that does not ask the same in every split."""
        return self.draw(rows, seed)

    def build(self, split: Split) -> list[Segment]:
        import torch

        segments = []
        for rows, seed in zip(self.rows_of(split), self.seeds()[split], strict=True):
            inputs, labels = self.draw_of(split, rows, seed)
            segments.append(Segment(rows.segment, torch.from_numpy(inputs), torch.from_numpy(labels)))
        return segments

    def seeds(self) -> dict[Split, list[int]]:
        """A seed for each segment of each split, all different.

        Training seeds come from the lower half of the range and the others from the upper, as zoology draws them; the
        first of those are the test's, and validation takes the next ones.
        """
        random = np.random.RandomState(self.seed)
        train = random.randint(0, 2**31, size=len(self.train)).tolist()
        test = random.randint(2**31, 2**32, size=len(self.test)).tolist()
        validation: list[int] = []
        while len(validation) < len(self.validation):
            seed = int(random.randint(2**31, 2**32))
            if seed not in test and seed not in validation:
                validation.append(seed)
        return {"train": train, "validation": validation, "test": test}


def _with_examples(segments: Any) -> Any:
    """Segments as they are given, each with a number of rows."""
    if not isinstance(segments, list | tuple):
        return segments
    return [
        {"examples": _TESTED_EXAMPLES, **rows} if isinstance(rows, Mapping) else rows for rows in segments
    ]


def _together(parts: Iterable[Counts]) -> Counts:
    """The counts of several parts of a split, added up."""
    total = Counts(0.0, 0.0, 0.0, 0)
    for part in parts:
        total = total.plus(part)
    return total
