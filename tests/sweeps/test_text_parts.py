"""Tokenizers, and what files are read as."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from recallfront.sweeps.base import SpecError
from recallfront.sweeps.text.source import TextSource
from recallfront.sweeps.text.tokenizer import ByteTokenizer, FastTokenizer, kept_tokenizer


def test_bytes_are_tokens() -> None:
    tokens = ByteTokenizer()
    assert tokens.encode(["aé"])[0].tolist() == [97, 195, 169]
    assert tokens.decode([97, 195, 169, tokens.end, 195]) == "aé\ufffd"


def test_python_s_own_sources_are_text_that_every_machine_has() -> None:
    (piece,) = TextSource(files="{python}/this.py").pieces()
    assert "Gur Mra bs Clguba" in piece.text and piece.ends


def test_a_tokenizer_with_holes_is_as_large_as_its_largest_token() -> None:
    """Its tokens would not fit the type that is chosen by the number of them."""
    vocab = {"a": 0, "</s>": 1, "[UNK]": 2, "b": 70_000}
    words = FastTokenizer(Tokenizer(models.WordLevel(vocab, unk_token="[UNK]")), "</s>")
    assert words.size == 70_001 > max(words.encode(["b"])[0].tolist())


def test_a_kept_tokenizer_whose_file_is_gone_is_none_of_bytes(tmp_path: Path) -> None:
    assert kept_tokenizer(tmp_path, "bpe") is None
    assert isinstance(kept_tokenizer(tmp_path, "bytes"), ByteTokenizer)


def test_the_ending_of_a_file_may_be_in_capitals(tmp_path: Path) -> None:
    from pyarrow import table
    from pyarrow.parquet import write_table

    (tmp_path / "a.JSONL").write_text(json.dumps({"text": "one"}))
    write_table(table({"text": ["two"]}), tmp_path / "b.Parquet")
    assert [piece.text for piece in TextSource(files=str(tmp_path / "*")).pieces()] == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"text": "a"}\n[{"text": "a"}]', "line 2 is a list, not an object: JSON lines are needed"),
        (
            r'{"text": "a \ud83d\ude00"}' "\n\n" r'{"text": "b \ud83d"}',
            r"line 3 has '\ud83d' in 'text', which is half a character",
        ),
    ],
)
def test_a_line_that_holds_no_text_is_named(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "rows.json"
    file.write_text(text)
    with pytest.raises(SpecError) as refused:
        list(TextSource(files=str(file)).pieces())
    assert str(refused.value) == f"task.source: {file}: {told}"


def test_half_a_character_beside_the_text_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(r'{"text": "a", "title": "\ud83d"}')
    (piece,) = TextSource(files=str(tmp_path / "rows.jsonl")).pieces()
    assert piece.text == "a"
