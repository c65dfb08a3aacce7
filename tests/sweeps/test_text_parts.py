"""Tokenizers, and what files are read as."""

from tokenizers import Tokenizer, models

from recallfront.sweeps.text.source import TextSource
from recallfront.sweeps.text.tokenizer import ByteTokenizer, FastTokenizer


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
