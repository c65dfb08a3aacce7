"""Bytes as tokens, and text that every machine has."""

from recallfront.sweeps.text.source import TextSource
from recallfront.sweeps.text.tokenizer import ByteTokenizer


def test_bytes_are_tokens() -> None:
    tokens = ByteTokenizer()
    assert tokens.encode(["aé"])[0].tolist() == [97, 195, 169]
    assert tokens.decode([97, 195, 169, tokens.end, 195]) == "aé\ufffd"


def test_python_s_own_sources_are_text_that_every_machine_has() -> None:
    (piece,) = TextSource(files="{python}/this.py").pieces()
    assert "Gur Mra bs Clguba" in piece.text and piece.ends
