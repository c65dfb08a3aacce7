"""Bytes as tokens, and text that every machine has."""

from recallfront.sweeps.text.source import TextSource
from recallfront.sweeps.text.tokenizer import (
    ByteTokenizer,
)


def test_bytes_are_tokens() -> None:
    found = ByteTokenizer().encode(["aé"])[0]
    assert (
        found.tolist() == [97, 195, 169]
        and ByteTokenizer().decode([97, 195, 169, ByteTokenizer.end, 195]) == "aé\ufffd"
    )


def test_python_s_own_sources_are_text_that_every_machine_has() -> None:
    (piece,) = TextSource(files="{python}/this.py").pieces()
    assert "Gur Mra bs Clguba" in piece.text and piece.ends
