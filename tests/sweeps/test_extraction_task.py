"""Fields of the Factbook's pages as a task: what a row holds, what is asked, and how far back it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from recallfront.sweeps.base import SpecError
from recallfront.sweeps.data import data_folder, load, prepare, questions
from recallfront.sweeps.tasks.base import IGNORED, SPLITS, Task
from recallfront.sweeps.tasks.registry import parse_task
from recallfront.sweeps.text.tokenizer import ByteTokenizer


@pytest.fixture
def book(tmp_path: Path) -> Path:
    folder = tmp_path / "book"
    folder.mkdir()
    for number in range(10):
        fields = {f"Field {name}": {"text": f"{name}{number} {name}s"} for name in "ABCDEF"}
        (folder / f"{number}.json").write_text(json.dumps({"Country": fields}))
    return folder


def task(book: Path, length: int = 260, **changes: Any) -> Task:
    rows = [{"length": length, "examples": 12}]
    splits = {"train": rows, "validation": rows, "test": rows}
    return parse_task({"name": "extraction", "folder": str(book), **splits, **changes})  # type: ignore[no-any-return]


def texts(book: Path, home: Path) -> dict[str, list[tuple[str, str]]]:
    """Prompts and answers of each split."""
    data, words = load(*prepare(task(book), home)), ByteTokenizer()
    found: dict[str, list[tuple[str, str]]] = {}
    for split in SPLITS:
        (segment,) = data.splits[split]
        found[split] = []
        for inputs, labels in zip(segment.inputs[:], segment.labels[:], strict=True):
            asked = (labels != IGNORED).nonzero()[:, 0]
            assert asked.tolist() == list(range(int(asked[0]), int(asked[-1]) + 1)), "an answer is one piece"
            prompt, answer = inputs[: int(asked[0]) + 1].tolist(), labels[asked].tolist()
            assert inputs[int(asked[0]) + 1 : int(asked[-1]) + 1].tolist() == answer[:-1]
            found[split].append((words.decode(prompt), words.decode(answer)))
    return found


def test_a_row_is_a_document_two_examples_and_a_name(book: Path, tmp_path: Path) -> None:
    countries: dict[str, set[str]] = {}
    for split, rows in texts(book, tmp_path / "home").items():
        assert len(rows) == 12
        for prompt, answer in rows:
            document, examples, name = prompt.split("\n\n")
            assert f"{name}{answer}" in document.split("\n") and len(examples.split("\n")) == 2
            assert not any(line.startswith(name) for line in examples.split("\n"))
            countries.setdefault(split, set()).add(answer.split()[0][1:])
    assert not countries["train"] & countries["test"] and not countries["validation"] & countries["test"]


def test_recall_by_distance_covers_every_answer(book: Path, tmp_path: Path) -> None:
    own = task(book)
    (segment,) = load(*prepare(own, tmp_path / "home")).splits["test"]
    inputs, labels = segment.inputs[:], segment.labels[:]
    slices = own.slices(inputs, labels)
    assert sum(mask.int() for mask in slices.values()).equal((labels != IGNORED).int())  # type: ignore[union-attr]
    for prompt, answer in texts(book, tmp_path / "home")["test"]:
        back = len(prompt) - prompt.index(answer)
        assert f"distance_{2 ** (back.bit_length() - 1)}" in slices


def test_recall_over_answers_is_a_share_of_rows(book: Path, tmp_path: Path) -> None:
    own = task(book)
    stored = prepare(own, tmp_path / "home")
    (segment,) = load(*stored).splits["test"]
    assert questions(own, *stored, "test") == (segment.labels[:] != IGNORED).sum() > 12
    assert questions(own, *stored, "test", over="answers") == 12


def test_other_pages_are_other_data(book: Path, tmp_path: Path) -> None:
    before = data_folder(task(book), tmp_path)
    (book / "0.json").write_text("{}")
    assert data_folder(task(book), tmp_path) != before


def test_the_end_of_a_text_can_be_named(book: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    letters = ["<unk>", *"ABCDEFField :s0123456789\n", "<done>"]
    vocab = {letter: number for number, letter in enumerate(dict.fromkeys(letters))}
    (tmp_path / "words").mkdir()
    Tokenizer(BPE(vocab, [], unk_token="<unk>")).save(str(tmp_path / "words" / "tokenizer.json"))
    with pytest.raises(SpecError, match="name one as task.end_token"):
        prepare(task(book, tokenizer=str(tmp_path / "words")), tmp_path / "home")
    named = task(book, tokenizer=str(tmp_path / "words"), end_token="<done>")
    (segment,) = load(*prepare(named, tmp_path / "home")).splits["test"]
    assert segment.inputs[0, -1] == vocab["<done>"]
    assert "end_token" not in task(book).model_dump(mode="json")


def test_another_tokenizer_in_the_same_folder_is_other_data(book: Path, tmp_path: Path) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    own = task(book, tokenizer=str(folder))
    before = data_folder(own, tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    assert data_folder(own, tmp_path) != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folder": "nowhere"}, "task.folder='nowhere': is not a folder"),
        ({"length": 180}, "rows of 180 tokens, 160 of which follow a document: no document of 20 tokens"),
        ({"end_token": "</s>"}, "task.end_token='</s>': task.tokenizer='bytes' has its own"),
        ({"tokenizer": "BROKEN"}, "task.tokenizer='.*': tokenizer.json cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(
    book: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if "tokenizer" in changes:
        (tmp_path / "tokenizer.json").write_text("{}")
        changes = {"tokenizer": str(tmp_path)}
    own = task(Path("nowhere")) if "folder" in changes else task(book, **changes)
    with pytest.raises(SpecError, match=message):
        prepare(own, tmp_path / "home")
