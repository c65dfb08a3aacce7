"""Where text comes from: files, or a data set by name or folder; one document after the other, in pieces.

`datasets` and pyarrow are imported where they are first used.
"""

import glob
import json
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from recallfront.sweeps.base import Frozen, SpecError, canonical_json, text_digest
from recallfront.sweeps.text.hub import check_revision, hub_away, kept_alone

_PIECE = 2**16  # characters; longer documents are read and tokenized in pieces, cut where a line ends
# in a pattern: text that every machine has
_PYTHON = "{python}"
TABLES = (".jsonl", ".json", ".parquet")  # of rows with named columns


class Piece(NamedTuple):
    """A part of a document's text, and whether the document ends with it."""

    text: str
    ends: bool


class TextSource(Frozen):
    """Where the text of a task comes from: `files` or a `dataset`."""

    files: tuple[str, ...] | str | None = Field(
        default=None,
        description="Patterns of files: JSON lines (`.jsonl`, `.json`) and Parquet with a column of text, anything "
        "else as plain text in UTF-8. Relative ones are below the folder that the command is run in; `{python}` stands "
        "for the folder of Python's own sources.",
    )
    documents: Literal["file", "paragraph", "line"] = Field(
        default="file",
        description="What a document is in plain text: a file, lines up to an empty one, a line.",
    )
    dataset: str | None = Field(
        default=None, description="Name of a data set of the Hugging Face hub, or a folder that holds one."
    )
    config: str | None = Field(default=None, description="Configuration of the data set, if it has several.")
    split: str = Field(default="train", description="Split of the data set; ours are made of its documents.")
    revision: str | None = Field(default=None, description="Commit, tag or branch of a data set of the hub.")
    streaming: bool = Field(
        default=False, description="Whether the data set is read as it is downloaded, without a copy on disk."
    )
    column: str = Field(
        default="text", description="Column of the text, in JSON lines, Parquet or a data set."
    )

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.files is None) == (self.dataset is None):
            raise ValueError("needs either files or dataset")
        return self

    def paths(self) -> list[tuple[str, str]]:
        """What is read from the file system of the machine, as (key, value)."""
        if self.dataset is not None:
            return [("source.dataset", self.dataset)] if Path(self.dataset).is_dir() else []
        return [("source.files", pattern) for pattern in self._patterns() if not pattern.startswith(_PYTHON)]

    def _patterns(self) -> tuple[str, ...]:
        return (self.files,) if isinstance(self.files, str) else self.files or ()

    def fingerprint(self) -> str:
        """What tells one state of the source from another: of files, names, sizes and times of change."""
        folder = Path(self.dataset) if self.dataset and Path(self.dataset).is_dir() else None
        files = self._files() if self.files is not None else sorted(folder.rglob("*")) if folder else []
        known = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return text_digest(canonical_json({"files": known}))

    def pieces(self) -> Iterator[Piece]:
        """The text of every document, in the order of the source; empty documents are left out.

        Raises:
            SpecError: there is no such file, data set or column, or the text is broken.
        """
        if self.dataset is not None:
            yield from _cut(self._texts(self.dataset, self._dataset()))
            return
        for file in self._files():
            if file.suffix.lower() not in TABLES:
                yield from self._plain(file)
            else:
                yield from _cut(self._texts(str(file), rows_of(file, (self.column,))))

    def _files(self) -> list[Path]:
        found = []
        for pattern in self._patterns():
            pattern = pattern.replace(_PYTHON, glob.escape(sysconfig.get_path("stdlib")))
            matches = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
            matches = [path for path in matches if path.is_file()]
            if not matches:
                here = "" if Path(pattern).is_absolute() else f" below {Path.cwd()}"
                raise SpecError(f"task.source.files={pattern!r}: there is no such file{here}")
            found += matches
        return found

    def _plain(self, file: Path) -> Iterator[Piece]:
        """Pieces of a file of plain text, whose size does not matter."""
        waiting = ""
        try:
            with file.open(encoding="utf-8", newline="") as lines:
                if self.documents == "file":
                    while text := lines.read(_PIECE):
                        if waiting:
                            yield Piece(waiting, ends=False)
                        waiting = text + lines.readline()
                else:
                    for line in lines:
                        if self.documents == "line" or not line.strip():
                            yield from _document(waiting.rstrip("\r\n"))
                            waiting = ""
                        waiting += line if line.strip() else ""
        except UnicodeDecodeError as error:
            raise SpecError(f"task.source.files: {file} is not UTF-8: {error.reason}") from None
        yield from _document(waiting if self.documents == "file" else waiting.rstrip("\r\n"))

    def _dataset(self) -> Iterable[dict[str, Any]]:
        from datasets import load_dataset

        assert self.dataset is not None
        is_folder = Path(self.dataset).is_dir()
        if is_folder and self.revision is not None:
            raise SpecError(
                f"task.source.revision={self.revision!r}: dataset={self.dataset!r} is a folder, and only data sets of "
                "the hub have revisions"
            )
        away = None if is_folder else hub_away()
        try:
            with kept_alone() if away else nullcontext():
                if away and self.revision is not None:
                    check_revision(self.dataset, self.config, self.revision)
                return load_dataset(  # type: ignore[no-any-return]
                    self.dataset,
                    self.config,
                    split=self.split,
                    revision=self.revision,
                    streaming=self.streaming,
                )
        except SpecError as error:
            raise SpecError(f"task.source.revision={self.revision!r}: {error}") from None
        except Exception as error:
            # the hub's, pyarrow's and its own errors have no base in common; of what is kept, one is told as it is
            reason = away if away and isinstance(error, OSError) else _line(error)
            raise SpecError(f"task.source.dataset={self.dataset!r}: cannot be loaded: {reason}") from error

    def _texts(self, name: str, rows: Iterable[dict[str, Any]]) -> Iterator[str]:
        """The column of rows; `name` says in errors what they are of."""
        rows = iter(rows)
        while True:
            try:
                row = next(rows, None)
            except SpecError as error:
                raise SpecError(f"task.source: {error}") from None
            except Exception as error:
                raise SpecError(f"task.source: {name} cannot be read: {_line(error)}") from error
            if row is None:
                return
            if self.column not in row:
                known = ", ".join(map(str, row))
                raise SpecError(f"task.source.column={self.column!r}: {name} has only the columns {known}")
            text = row[self.column]
            if text is not None and not isinstance(text, str):
                raise SpecError(
                    f"task.source.column={self.column!r}: {name} has {type(text).__name__} there, not text"
                )
            yield text or ""


def rows_of(file: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of a file of JSON lines or Parquet, read as they are asked for.

    Raises:
        SpecError: a line is not a JSON object, or one of the columns that are needed has what UTF-8 cannot hold.
    """
    if file.suffix.lower() != ".parquet":
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _row(line, columns, f"{file}: line {number}")
        return
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def _row(line: str, columns: Sequence[str], where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.rstrip())
    except (ValueError, RecursionError) as error:
        told = (
            f"{error.msg}, at column {error.colno}" if isinstance(error, json.JSONDecodeError) else f"{error}"
        )
        raise SpecError(f"{where} is not JSON: {told}") from None
    if not isinstance(row, dict):
        raise SpecError(f"{where} is a {type(row).__name__}, not an object: JSON lines are needed")
    for column in columns:
        try:
            json.dumps(row.get(column), ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])
            raise SpecError(f"{where} has {half} in {column!r}, which is half a character") from None
    return row


def _cut(texts: Iterable[str]) -> Iterator[Piece]:
    for text in texts:
        yield from _document(text)


def _document(text: str) -> Iterator[Piece]:
    """A document in pieces that end where a line does, so that no token reaches over their border."""
    start = 0
    while len(text) - start > _PIECE:
        end = text.rfind("\n", start, start + _PIECE) + 1 or start + _PIECE
        yield Piece(text[start:end], ends=False)
        start = end
    if len(text) > start:
        yield Piece(text[start:], ends=True)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
